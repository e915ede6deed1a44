"""`create_loader`, for every data set."""

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
    """Creates the loader of a data set, for training, testing and everything else.

    Images in memory are cropped and flipped as tensors on their device. Streamed images are read by DataLoader workers
    in the background; at most a few batches are in memory.

    Args:
        dataset: the images.
        batch_size: images in a batch, over all processes, 1 or more; the last of an epoch has what is left. None for
            250 of images in memory, else 32.
        transform: resizing, cropping and augmentation of images and masks; None for none. For images in memory only its
            augmentation is used. With objects, a `DetectionTransform`.
        shuffle: use a new random order in every epoch instead of the order of the data set. An image that cannot be
            read is then replaced by the next one, so that batches are full; without shuffle it is left out. Epochs of
            shuffled shards have a fixed length: some images may be left out and others appear twice.
        seed: seed of all random numbers, 0 to 2^64 - 1.
        rank: rank of the process, from 0, which gets the rank's slice of every batch. Without shuffle, a rank may get
            nothing of the last batch.
        world_size: number of processes.
        device: device of the batches; None for the device of the data set, or the CPU.
        mean: mean of each channel, 0 to 1; None for that of the data set.
        std: standard deviation of each channel, above 0; None for that of the data set.
        workers: DataLoader workers that read images; 0 reads them inline.
        unreadable: on an image that cannot be read, "error", or "skip" it and list it in `Batch.skipped`.
        drop_last: leave out the last batch of an epoch if it is not full.
        channels_last: return images in torch.channels_last memory format.
        masks: return masks, too, if the data set has them; with objects, those of the single objects.
        objects: return the objects of each image as `Batch.targets`, and the images as a list, in [0, 1] and not
            normalised, because detectors do that. Shuffled batches are of wide images or of tall ones, which need less
            padding.

    Raises:
        InputError: an argument is outside its range, the data set is empty, the augmentation is for streamed images and
            these are in memory (or the reverse) or does not fit the images, mean or std is unknown, the batch size does
            not suit the number of processes, or the device has not enough memory for the data set.
    """
    check_number("workers", workers, "[0, inf)", whole=True)
    check_reading(unreadable=unreadable)
    batch_size = default_batch_size(dataset) if batch_size is None else batch_size
    if objects:
        images = with_objects(dataset, masks=masks)
        if isinstance(transform, Transform):
            raise InputError("objects follow a DetectionTransform; give one, or none")
        groups = wide_images(images) if shuffle else None
        sampling = Sampling(batch_size, shuffle, seed, rank, world_size, drop_last, groups=groups)
        objects_reader = ObjectsReader(images, unreadable == "skip", shuffle, transform, seed, masks)
        return StreamedLoader(objects_reader, sampling, Prefetcher(None, torch.device(device or "cpu")), workers)
    if isinstance(transform, DetectionTransform):
        raise InputError("a DetectionTransform is for images with objects; make the loader with objects=True")
    transform = transform or Transform()
    mean, std = mean or dataset.mean, std or dataset.std
    if mean is None or std is None:
        raise InputError(f"images of {dataset.name!r} are bytes; say how the network wants them (mean, std)")
    varied = transform.augmentation
    repeats = 1 if varied is None else varied.repeats
    if masks and varied is not None and varied.policy is not None:
        raise InputError(f"augmentation.policy {varied.policy} moves images, and masks do not follow; leave it out")
    drop_last = drop_last or (shuffle and isinstance(dataset, WebDataset))
    sampling = Sampling(batch_size, shuffle, seed, rank, world_size, drop_last, repeats)
    if device is None:
        device = dataset.images.device if isinstance(dataset, InMemoryDataset) else "cpu"
    device = torch.device(device)
    normalise = Normalisation(mean, std, device=device, channels_last=channels_last)
    if isinstance(dataset, InMemoryDataset):
        return InMemoryLoader(dataset, sampling, varied, normalise, device, masks=masks)
    seeded_transform = SeededTransform(transform, mean, std, seed)
    prefetch, skip = Prefetcher(normalise, device), unreadable == "skip"
    if isinstance(dataset, WebDataset):
        return WebDatasetLoader(dataset, sampling, seeded_transform, prefetch, workers=workers, skip=skip)
    reader = PixelsReader(dataset, skip, shuffle, seeded_transform, masks and dataset.has_masks)
    return StreamedLoader(reader, sampling, prefetch, workers, transform.size)


def default_batch_size(dataset: object) -> int:
    """Default batch size: 250 for images in memory, which are usually small, else 32."""
    return 250 if isinstance(dataset, InMemoryDataset) else 32
