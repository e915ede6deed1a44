"""`create_loader`, which creates the loader of any data set."""

from __future__ import annotations

import torch

from regard.data.batch import Loader, Sampling
from regard.data.dataset import Channels, ImageDataset, InMemoryDataset
from regard.data.decode import OnUnreadable
from regard.data.detection_transform import DetectionTransform
from regard.data.in_memory import check_reading
from regard.data.memory_loader import InMemoryLoader
from regard.data.normalisation import Normalisation, Prefetcher
from regard.data.streamed_loader import ObjectsReader, PixelsReader, StreamedLoader, wide_images, with_objects
from regard.data.transforms import SeededTransform, Transform
from regard.data.wds import WebDataset
from regard.data.wds_loader import WebDatasetLoader
from regard.errors import InputError, check_number


def create_loader(
    dataset: ImageDataset | WebDataset,
    batch_size: int | None = None,
    *,
    transform: Transform | DetectionTransform | None = None,
    shuffle: bool = False,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    workers: int = 0,
    unreadable: OnUnreadable = "error",
    drop_last: bool = False,
    channels_last: bool = False,
    masks: bool = False,
    objects: bool = False,
) -> Loader:
    """Creates the loader of a data set, for training and evaluation.

    Images in memory are cropped and flipped as tensors on their device. Streamed images are read by DataLoader workers
    in the background; at most a few batches are in memory.

    Args:
        dataset: the data set.
        batch_size: images in a batch, over all processes, 1 or more; the last batch of an epoch may have fewer. None
            for 250 with images in memory, else 32.
        transform: resizing, cropping and augmentation of images and masks; None for none. For images in memory only its
            augmentation is used. With objects, a `DetectionTransform`.
        shuffle: use a new random order in every epoch instead of the order of the data set. An unreadable image is then
            replaced by the next one, so that batches are full; without shuffle it is left out. Epochs of shuffled
            shards have a fixed length, so some images may be left out and others appear twice.
        seed: seed of all random numbers, 0 to 2^64 - 1.
        rank: rank of the process, from 0; each process gets its slice of every batch. Without shuffle, the slice of the
            last batch may be empty.
        world_size: number of processes.
        device: device of the batches; None for the device of the data set, or the CPU.
        mean: mean of each channel, 0 to 1; None for the mean of the data set.
        std: standard deviation of each channel, above 0; None for the std of the data set.
        workers: number of DataLoader workers; 0 reads in the main process.
        unreadable: on an image that cannot be read, raise an "error", or "skip" it and list it in `Batch.skipped`.
        drop_last: drop the last batch of an epoch if it is incomplete.
        channels_last: return images in torch.channels_last memory format.
        masks: also return masks, if the data set has them; with objects, a mask for each object.
        objects: return the objects of each image as `Batch.targets`, and images as a list of tensors in [0, 1], which
            detectors normalise themselves. Shuffled batches have only wide or only tall images, to reduce padding.

    Raises:
        InputError: an argument is outside its range, the data set is empty, the augmentation does not apply to
            streamed images or to images in memory or does not fit the images, mean or std is unknown, the batch size
            does not suit the number of processes, or the device has not enough memory for the data set.
    """
    check_number("workers", workers, "[0, inf)", whole=True)
    check_reading(unreadable=unreadable)
    batch_size = default_batch_size(dataset) if batch_size is None else batch_size
    if objects:
        images = with_objects(dataset, masks=masks)
        if isinstance(transform, Transform):
            raise InputError("with objects, transform must be a DetectionTransform; give one, or none")
        groups = wide_images(images) if shuffle else None
        sampling = Sampling(batch_size, shuffle, seed, rank, world_size, drop_last, groups=groups)
        objects_reader = ObjectsReader(images, unreadable == "skip", shuffle, transform, seed, masks)
        return StreamedLoader(objects_reader, sampling, Prefetcher(None, torch.device(device or "cpu")), workers)
    if isinstance(transform, DetectionTransform):
        raise InputError("a DetectionTransform is for images with objects; create the loader with objects=True")
    transform = transform or Transform()
    mean, std = mean or dataset.mean, std or dataset.std
    if mean is None or std is None:
        raise InputError(f"data set {dataset.name!r} has no mean and std to normalise images with; give mean and std")
    augmentation = transform.augmentation
    repeats = 1 if augmentation is None else augmentation.repeats
    if masks and augmentation is not None and augmentation.policy is not None:
        raise InputError(
            f"augmentation.policy {augmentation.policy} moves images without their masks; leave it out, or the masks"
        )
    drop_last = drop_last or (shuffle and isinstance(dataset, WebDataset))
    sampling = Sampling(batch_size, shuffle, seed, rank, world_size, drop_last, repeats)
    if device is None:
        device = dataset.images.device if isinstance(dataset, InMemoryDataset) else "cpu"
    device = torch.device(device)
    normalise = Normalisation(mean, std, device=device, channels_last=channels_last)
    if isinstance(dataset, InMemoryDataset):
        return InMemoryLoader(dataset, sampling, augmentation, normalise, device, masks=masks)
    seeded_transform = SeededTransform(transform, mean, std, seed)
    prefetch, skip = Prefetcher(normalise, device), unreadable == "skip"
    if isinstance(dataset, WebDataset):
        return WebDatasetLoader(dataset, sampling, seeded_transform, prefetch, workers=workers, skip=skip)
    reader = PixelsReader(dataset, skip, shuffle, seeded_transform, masks and dataset.has_masks)
    return StreamedLoader(reader, sampling, prefetch, workers, transform.size)


def default_batch_size(dataset: object) -> int:
    """The default batch size: 250 for images in memory, which are usually small, else 32."""
    return 250 if isinstance(dataset, InMemoryDataset) else 32
