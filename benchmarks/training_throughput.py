"""Training throughput: against the bare step, from files against timm and torchvision, and over processes.

    python benchmarks/training_throughput.py                              # everything; about 15 minutes on two cores
    python benchmarks/training_throughput.py --only files --folder DATA   # DATA/train/CLASS/*.jpg, not made-up files
    python benchmarks/training_throughput.py --precision bfloat16         # mixed precision

Four parts, all with the loop of `regard train` and its augmentation, losses, accuracy and gradient norm:

- memory: images per second against the ceiling, a hand-written step on one batch in memory.
- files: a ResNet50 with Shuffle Attention on random resized crops of JPEG files: the share of the time it waits for
  data, and the same network in loops with the loaders of timm and torchvision. Then the loader alone: how fast it
  reads, and whether training a tiny network is as fast.
- cifar: images in memory against per-image transforms in a DataLoader.
- processes: two processes on two cores, or two GPUs, against one.

Without --folder the files are made up: mosaics of the built-in images, 500 x 375 pixels, JPEG quality 87, about 67 kB
each (ImageNet's have about 110). All systems read links to the same files, from the page cache after the first epoch.
Systems run in turn; results are medians, with the smallest and largest of the repeats.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from unittest import mock

import torch
from common import arguments, in_turn, publish, seconds, spread, table
from jpegs import HEIGHT, QUALITY, WIDTH, link_epoch, make_jpegs
from textbook_training import (
    Bare,
    Loaded,
    bare_step,
    picture_loader,
    timm_loader,
    timm_optimizer,
    torchvision_loader,
)
from torch import Tensor, nn
from torch.nn import functional as F

from regard import data, models, training
from regard.training.distributed import Processes
from regard.training.loop import Loop
from regard.transfer import Objective

PARTS = ("memory", "files", "cifar", "processes")
LR = 0.01
FILES = 500  # number of made-up files, which repeat within an epoch
DISTINCT = 256  # number of different images in memory, which repeat within an epoch
CIFAR_BATCH = 128


class Clock:
    """Sums the time spent in wrapped functions."""

    def __init__(self) -> None:
        self.total = 0.0

    def wrap(self, function: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object, **kwargs: object) -> object:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.total += time.perf_counter() - start

        return wrapper


class Regard:
    """Epochs of regard's training loop. A call runs the next epoch and returns its seconds.

    Attributes:
        waiting: for every epoch, the share of its time that the loop waited for data, in %, by the loop's own meter.
        overhead: for every epoch, the share of its time outside forward, backward and optimizer step, in %; without
            meaning on a GPU, where kernels run asynchronously.
    """

    def __init__(self, network: nn.Module, batches: data.Loader, processes: Processes, precision: str) -> None:
        recipe = training.load_recipe(
            None,
            [
                f"--optimizer.lr={LR}",
                f"--schedule.batch_size={batches.batch_size}",
                f"--device={processes.device}",
                f"--precision={precision}",
                "--save_minutes=1e6",  # the run folder is temporary
            ],
        )
        with tempfile.TemporaryDirectory() as folder:
            run = training.Run.create(Path(folder) / "run", recipe, batches.dataset.classes)
            task = training.Classification(recipe, network, Objective(network, None), batches, batches)
            self.loop = Loop(recipe, run, task, processes)
        self.waiting: list[float] = []
        self.overhead: list[float] = []

    def __call__(self) -> float:
        loop, clock = self.loop, Clock()
        loop.step = 0
        loop.meter.rows.zero_()
        with (
            mock.patch.object(loop, "forward", clock.wrap(loop.forward)),
            mock.patch.object(Tensor, "backward", clock.wrap(Tensor.backward)),
            mock.patch.object(loop.optimizer, "step", clock.wrap(loop.optimizer.step)),
        ):
            epoch_time = seconds(lambda: loop.train_epoch(), loop.processes.device)
        loop.epoch += 1
        self.waiting.append(100 * loop.waiting_time / epoch_time)
        self.overhead.append(100 * (1 - clock.total / epoch_time))
        return epoch_time


class Setup:
    """The options, and the networks, loaders and timing that the parts share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        gpu = self.device.type == "cuda"
        self.gpu, self.precision, self.repeats = gpu, options.precision, options.repeats
        self.images = options.images or (25_600 if gpu else 2560)
        self.files = options.files or (20_480 if gpu else 1024)
        self.batch = options.batch_size or (128 if gpu else 16)
        self.steps = options.steps or (50 if gpu else 4)
        self.size, self.folder = options.size, options.folder
        # One core is left for the loop, which would otherwise slow down the DataLoader workers.
        cores = os.cpu_count() or 1
        self.workers = min(max(cores - 1, 1), 16) if options.workers is None else options.workers
        self.processes = Processes(options.device, options.precision, 10)

    def cifar(self, classes: int) -> nn.Module:
        return self._create("cifar-resnet20", classes, block="basic")

    def resnet50(self, classes: int) -> nn.Module:
        return self._create("resnet50", classes, attention="shuffle")

    def _create(self, name: str, classes: int, **options: str) -> nn.Module:
        torch.manual_seed(0)
        model = models.create(name, classes, **options)
        return model.to(self.device, memory_format=torch.channels_last).train()

    def regard(self, network: nn.Module, loader: data.Loader) -> Regard:
        return Regard(network, loader, self.processes, self.precision)

    def loader(self, images: data.ImageDataset, batch: int) -> data.Loader:
        """The loader of training."""
        gc.collect()  # deletes unused loaders here, because a worker that deletes them complains
        size = (self.size, self.size) if not isinstance(images, data.InMemoryDataset) else None
        return data.create_loader(
            images,
            batch,
            transform=data.Transform(size, augmentation=data.Augmentation()),
            workers=self.workers,
            shuffle=True,
            device=self.device,
            channels_last=True,
        )

    def bare(self, network: nn.Module, loader: data.Loader) -> Bare:
        optimizer = training.make_optimizer(network, training.OptimizerRecipe(lr=LR))
        batch = next(loader.epoch(0))
        step = bare_step(network, optimizer, self.device, self.precision)
        return Bare(step, (batch.images.clone(), batch.labels.clone()), len(loader))

    def epoch_times(self, epochs: Sequence[Callable[[], float]], factor: int = 1) -> list[list[float]]:
        """Seconds of `factor * repeats` epochs each, in turn, after one to warm up."""
        in_turn(epochs, 1)
        for epoch in epochs:
            for name in ("waiting", "overhead"):
                getattr(epoch, name, []).clear()
        return in_turn(epochs, factor * self.repeats)


def memory_part(setup: Setup) -> str:
    # On a shared CPU, many short pairs are more robust to slow moments than a few long ones.
    factor = 1 if setup.gpu else 4
    rows = []
    for name, images, batch, network in (
        ("cifar-resnet20, 32 pixels", in_memory(setup.images // factor, 32), CIFAR_BATCH, setup.cifar),
        (
            f"resnet50 with shuffle, {setup.size} pixels",
            in_memory(max(1, setup.steps // factor) * setup.batch, setup.size),
            setup.batch,
            setup.resnet50,
        ),
    ):
        loader = setup.loader(images, batch)
        regard = setup.regard(network(len(images.classes)), loader)
        bare = setup.bare(network(len(images.classes)), loader)
        bare_times, times = setup.epoch_times((bare, regard), factor)
        overhead = "" if setup.gpu else spread(regard.overhead, ".2f")
        speeds = rates(len(images), (bare_times, times))
        rows.append([f"{name}, batch {batch}", *speeds, percent(bare_times, times), overhead])
    header = ["network", "bare step, images/s", "regard, images/s", "% of the bare step", "outside it, %"]
    return "\n\n".join(
        (
            "### Images in memory",
            "Ceiling: the bare step on one batch. Regard: an epoch of its loop with pad-crop and flip, pair by pair "
            "(bar: at least 97 %). Outside: the share of regard's time outside forward, backward and optimizer step, "
            "by a clock around these three; on a CPU only, where it is the steadier measurement. "
            f"{factor * setup.repeats} pairs.",
            table(header, rows),
        )
    )


def files_part(setup: Setup) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = Path(setup.folder) / "train" if setup.folder else make_jpegs(folder / "made", FILES)
        few = link_epoch(source, folder / "few", setup.steps * setup.batch)
        many = link_epoch(source, folder / "many", setup.files)
        network, ceiling = network_from_files(setup, few)
        made_up = f"{FILES} made-up files of {WIDTH} x {HEIGHT} pixels, quality {QUALITY}"
        caption = (
            f"Random resized crops of {setup.size} pixels and flips of "
            f"{f'files of {setup.folder}' if setup.folder else made_up}; {setup.workers} workers for each system."
        )
        return "\n\n".join(("### Images from files", caption, network, alone(setup, many, ceiling)))


def network_from_files(setup: Setup, folder: Path) -> tuple[str, float]:
    """The table of ResNet50 from files, and the images per second of the bare step."""
    size, batch, workers, device = setup.size, setup.batch, setup.workers, setup.device
    images = data.load("files", folder).train
    classes, loader = len(images.classes), setup.loader(images, batch)
    regard = setup.regard(setup.resnet50(classes), loader)
    bare = setup.bare(setup.resnet50(classes), loader)
    peers = []
    for make_loader, make_optimizer in (
        (timm_loader, lambda network: timm_optimizer(network, LR)),
        (torchvision_loader, lambda network: training.make_optimizer(network, training.OptimizerRecipe(lr=LR))),
    ):
        network = setup.resnet50(classes)
        step = bare_step(network, make_optimizer(network), device, setup.precision)
        peers.append(Loaded(make_loader(folder, size, batch, workers, device, images), step, device))
    times = setup.epoch_times((bare, regard, *peers))
    rows = [
        [name, rate, waiting, percent(times[0], values)]
        for name, rate, waiting, values in zip(
            ("bare step", "regard", "timm", "torchvision"),
            rates(len(images), times),
            ("", *(spread(loop.waiting, ".2f") for loop in (regard, *peers))),
            times,
            strict=True,
        )
    ]
    caption = (
        f"ResNet50 with Shuffle Attention, batch {batch}, channels_last, {setup.precision}, the same network "
        f"everywhere; epochs of {len(loader)} steps, with persistent workers. Waiting: the share of the time spent "
        "waiting for the next batch (bar: under 5 % where files are read faster than the bare step takes them)."
    )
    header = ["loop", "images/s", "waiting, %", "% of the bare step"]
    return f"{caption}\n\n{table(header, rows)}", len(images) / statistics.median(times[0])


def alone(setup: Setup, folder: Path, ceiling: float) -> str:
    """How fast files are read by the loader alone, and in training of a tiny network."""
    images = data.load("files", folder).train
    loader = setup.loader(images, max(64, setup.batch))
    subsampling = nn.AvgPool2d(1, setup.size // 4)  # 16 pixels of each image
    network = nn.Sequential(subsampling, nn.Flatten(), nn.LazyLinear(len(images.classes)))
    network(torch.zeros(1, 3, setup.size, setup.size))
    regard = setup.regard(network.to(setup.device), loader)
    epoch = itertools.count()

    def read() -> float:
        return seconds(lambda: [None for _ in loader.epoch(next(epoch))], setup.device)

    reading, times = setup.epoch_times((read, regard))
    rate = len(images) / statistics.median(reading)
    rows = [
        ["read, normalised, on the device", rates(len(images), [reading])[0], ""],
        ["and trained on, by a network next to nothing", rates(len(images), [times])[0], percent(reading, times)],
    ]
    return "\n".join(
        (
            f"Files alone, batch {loader.batch_size}: regard's loader without training, and its loop with a network "
            "of one small matrix, pair by pair (bar: within 3 %).\n",
            table(["files", "images/s", "% of reading"], rows),
            "",
            f"- The loader reads {rate / ceiling:.2f} times as fast as the bare step of ResNet50: here "
            + (
                "it keeps up, and the bar is the waiting."
                if rate > ceiling
                else "it does not keep up, and the bar is its rate."
            ),
        )
    )


def cifar_part(setup: Setup) -> str:
    images = in_memory(setup.images, 32)
    classes, workers = len(images.classes), min(setup.workers, 8)
    regard = setup.regard(setup.cifar(classes), setup.loader(images, CIFAR_BATCH))
    network = setup.cifar(classes)
    optimizer = training.make_optimizer(network, training.OptimizerRecipe(lr=LR))
    step = bare_step(network, optimizer, setup.device, setup.precision)
    loaded = Loaded(picture_loader(images, CIFAR_BATCH, workers, setup.device), step, setup.device)
    times, loaded_times = setup.epoch_times((regard, loaded))
    rows = [
        [name, rate, spread(loop.waiting)]
        for name, rate, loop in zip(
            ("regard", "DataLoader"), rates(len(images), (times, loaded_times)), (regard, loaded), strict=True
        )
    ]
    gains = [peer_time / time for peer_time, time in zip(loaded_times, times, strict=True)]
    return "\n\n".join(
        (
            "### CIFAR against per-image transforms",
            f"cifar-resnet20 (basic blocks), batch {CIFAR_BATCH}, {len(images)} images of 32 pixels an epoch. "
            "DataLoader: pad-crop, flip and normalisation of each image by torchvision in "
            f"{workers} workers, and the bare step.",
            table(["loop", "images/s", "waiting, %"], rows),
            f"- DataLoader / regard, time pair by pair: {spread(gains, '.2f')} (bar: 8 on an H100).",
        )
    )


def processes_part(setup: Setup) -> str:
    title = "### Two processes against one"
    if setup.gpu and torch.cuda.device_count() < 2:
        return f"{title}\n\nLeft out: there is one GPU."
    if not setup.gpu and (os.cpu_count() or 1) < 2:
        return f"{title}\n\nLeft out: there is one core."
    network, batch = ("wrn-28-10", 512) if setup.gpu else ("wrn-16-2", 256)
    images = max(setup.images // 2 // batch, 1) * batch
    rounds = max(1, setup.repeats // 2)
    with tempfile.TemporaryDirectory() as temporary:
        folders = (Path(temporary) / f"run{i}" for i in itertools.count())

        def start(processes: int, divisor: int = 1, gpu: int = 0) -> Run:
            return Run(next(folders), processes, network, batch // divisor, images // divisor, setup, gpu)

        speeds = in_turn(
            (
                lambda: start(1).rate(),
                lambda: start(2).rate(),
                lambda: sum([run.rate() for run in [start(1, 2, gpu) for gpu in (0, 1)]]),
            ),
            rounds,
        )
    gains = [spread([value / one for value, one in zip(values, speeds[0], strict=True)], ".2f") for values in speeds]
    names = ("one", "two", "two runs of one at once")
    rows = [[name, spread(values), gain] for name, values, gain in zip(names, speeds, gains, strict=True)]
    unit = "GPU" if setup.gpu else "core, 1 thread"
    return "\n\n".join(
        (
            title,
            f"`regard train`, started directly and by `torch.distributed.run`, each process on its own {unit}: "
            f"{network}, global batch {batch}, {images} images per epoch; medians of {rounds} runs each, in turn, of "
            "the speed in their metrics after the first epoch. Two runs at once share the work without communication, "
            "which is the most that the machine allows for two processes (bar of two processes: 1.7 times one).",
            table(["processes", "images/s", "times one"], rows),
        )
    )


class Run:
    """A running `regard train` with `count` processes."""

    def __init__(
        self, folder: Path, count: int, network: str, batch: int, images: int, setup: Setup, gpu: int = 0
    ) -> None:
        launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m", "--")
        device = f"cuda:{gpu}" if setup.gpu and count == 1 else setup.device.type
        command = [
            *(sys.executable, "-m", *(launcher if count > 1 else ()), "regard", "train", f"--run={folder}"),
            f"--data.options={{train: {images}, test: 10}}",
            f"--model.name={network}",
            f"--optimizer.lr={LR}",
            f"--schedule.batch_size={batch}",
            "--schedule.epochs=3",
            f"--device={device}",
            f"--precision={setup.precision}",
            *(() if setup.gpu else ("--threads=1",)),
        ]
        self.folder = folder
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def rate(self) -> float:
        """Waits for the end of the run; returns its images per second."""
        _, output = self.process.communicate()
        if self.process.returncode:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} failed:\n{output}")
        return statistics.median(row["images_per_second"] for row in training.Run.open(self.folder).metrics()[1:])


def in_memory(count: int, side: int) -> data.InMemoryDataset:
    """`count` built-in images, uint8, resized to `side`."""
    source = data.load("clutter", train=min(count, 2560 if side == 32 else DISTINCT), test=10).train
    pixels = source.images
    if side != 32:
        pixels = F.interpolate(pixels.float(), (side, side), mode="bilinear").round().byte()
    index = torch.arange(count) % len(source)
    return data.InMemoryDataset(
        *(pixels[index], source.labels[index], source.classes, source.name, source.split),
        mean=source.mean,
        std=source.std,
    )


def rates(images: int, times: Iterable[Sequence[float]]) -> list[str]:
    """Images per second, from seconds per epoch."""
    return [spread([images / value for value in values]) for values in times]


def percent(base: Sequence[float], times: Sequence[float]) -> str:
    """The speed as a percentage of the speed of the base, pair by pair."""
    return spread([100 * reference / value for reference, value in zip(base, times, strict=True)])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part to run; can be repeated")
    parser.add_argument("--images", type=int, help="images per epoch of CIFAR networks; by default 2560, GPU 25,600")
    parser.add_argument("--steps", type=int, help="steps per epoch of ResNet50; by default 4, GPU 50")
    parser.add_argument("--batch_size", type=int, help="batch size of ResNet50; by default 16, GPU 128")
    parser.add_argument("--size", type=int, default=224, help="side of ResNet50's images in pixels")
    parser.add_argument("--folder", help="folder with train/ and class folders in it; by default made-up files")
    parser.add_argument("--files", type=int, help="files per epoch without ResNet50; by default 1024, GPU 20,480")
    parser.add_argument("--workers", type=int, help="DataLoader workers; by default processors - 1, 16 at most")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    setup = Setup(options)
    torch.backends.cudnn.benchmark = True
    parts = {"memory": memory_part, "files": files_part, "cifar": cifar_part, "processes": processes_part}
    texts = [
        f"{setup.precision}; {setup.repeats} epochs each, in turn, after one to warm up, by default. "
        "Median (smallest to largest)."
    ]
    texts += [parts[name](setup) for name in options.only or PARTS]
    publish("Training throughput", "\n\n".join(texts), setup.device, save=not options.dry)


if __name__ == "__main__":
    main()
