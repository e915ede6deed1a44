"""How fast training is: against the bare step, from files against timm and torchvision, and over processes.

    python benchmarks/training_throughput.py                              # everything; on two cores some 15 minutes
    python benchmarks/training_throughput.py --only files --folder DATA   # DATA/train/CLASS/*.jpg, not made files
    python benchmarks/training_throughput.py --precision bfloat16         # mixed, as one trains on a GPU

Four parts, all by the loop of `regard train` with its augmentation, losses, accuracy and gradient norm:

- memory: images a second against the ceiling, a hand-written step on one batch that is there already.
- files: a ResNet50 with Shuffle Attention on random resized crops of JPEG files; what share of the time it waits for
  them, and the same network in loops on timm and in torchvision's way. Then files alone: how fast they are read, and
  whether a network next to nothing is trained as fast.
- cifar: images in memory against per-image transforms in a DataLoader.
- processes: two processes on two cores, or two GPUs, against one.

The files are made, if no folder is given: 500 x 375 pixels, JPEG quality 87, mosaics of the built-in images, some 67 kB
each (ImageNet's are some 110). All systems read the same links to them, from memory, once the first epoch has been.
Everything runs in turn and is given as the median, with the smallest and largest of the repeats.
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
MADE = 500  # files, which an epoch takes again and again
DISTINCT = 256  # images in memory, likewise
CIFAR_BATCH = 128


class Clock:
    """Adds up the time spent in callables."""

    def __init__(self) -> None:
        self.total = 0.0

    def around(self, work: Callable[..., object]) -> Callable[..., object]:
        def timed(*args: object, **kwargs: object) -> object:
            began = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                self.total += time.perf_counter() - began

        return timed


class Ours:
    """Epochs of regard's own loop, one after another.

    Attributes:
        waiting: of every epoch, the share in % of its time that the loop waited for data, as it says itself.
        besides: of every epoch, the share in % of its time outside forward, backward and optimizer step; on a GPU,
            where work is queued, it means nothing.
    """

    def __init__(self, network: nn.Module, batches: data.Loader, processes: Processes, precision: str) -> None:
        recipe = training.load_recipe(
            None,
            [
                f"--optimizer.lr={LR}",
                f"--schedule.batch_size={batches.batch_size}",
                f"--device={processes.device}",
                f"--precision={precision}",
                "--save_minutes=1e6",  # there is no folder to save to
            ],
        )
        with tempfile.TemporaryDirectory() as folder:
            run = training.Run.create(Path(folder) / "run", recipe, batches.dataset.classes)
            task = training.Classification(recipe, network, Objective(network, None), batches, batches)
            self.loop = Loop(recipe, run, task, processes)
        self.waiting: list[float] = []
        self.besides: list[float] = []

    def __call__(self) -> float:
        loop, clock = self.loop, Clock()
        loop.step = 0
        loop.meter.rows.zero_()
        with (
            mock.patch.object(loop, "forward", clock.around(loop.forward)),
            mock.patch.object(Tensor, "backward", clock.around(Tensor.backward)),
            mock.patch.object(loop.optimizer, "step", clock.around(loop.optimizer.step)),
        ):
            took = seconds(lambda: loop.train_epoch(), loop.processes.device)
        loop.epoch += 1
        self.waiting.append(100 * loop.waiting_time / took)
        self.besides.append(100 * (1 - clock.total / took))
        return took


class Setting:
    """What the options say, and what all parts have in common."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        gpu = self.device.type == "cuda"
        self.gpu, self.precision, self.repeats = gpu, options.precision, options.repeats
        self.images = options.images or (25_600 if gpu else 2560)
        self.files = options.files or (20_480 if gpu else 1024)
        self.batch = options.batch_size or (128 if gpu else 16)
        self.steps = options.steps or (50 if gpu else 4)
        self.size, self.folder = options.size, options.folder
        # One core is left to the loop, which would otherwise take from the readers what they are measured by.
        cores = os.cpu_count() or 1
        self.workers = min(max(cores - 1, 1), 16) if options.workers is None else options.workers
        self.processes = Processes(options.device, options.precision, 10)

    def cifar(self, classes: int) -> nn.Module:
        return self._placed("cifar-resnet20", classes, block="basic")

    def resnet50(self, classes: int) -> nn.Module:
        return self._placed("resnet50", classes, attention="shuffle")

    def _placed(self, name: str, classes: int, **options: str) -> nn.Module:
        torch.manual_seed(0)
        model = models.create(name, classes, **options)
        return model.to(self.device, memory_format=torch.channels_last).train()

    def ours(self, network: nn.Module, batches: data.Loader) -> Ours:
        return Ours(network, batches, self.processes, self.precision)

    def batches(self, images: data.ImageDataset, batch: int) -> data.Loader:
        """Batches as training has them."""
        gc.collect()  # loaders no longer in use: if a worker process does it, it complains that they are not its own
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

    def bare(self, network: nn.Module, batches: data.Loader) -> Bare:
        optimizer = training.make_optimizer(network, training.OptimizerRecipe(lr=LR))
        batch = next(batches.epoch(0))
        step = bare_step(network, optimizer, self.device, self.precision)
        return Bare(step, (batch.images.clone(), batch.labels.clone()), len(batches))

    def measured(self, works: Sequence[Callable[[], float]], times: int = 1) -> list[list[float]]:
        """Seconds of the epochs of each work, in turn, after one to warm up; `times` as many as repeats."""
        in_turn(works, 1)
        for work in works:
            for name in ("waiting", "besides"):
                getattr(work, name, []).clear()
        return in_turn(works, times * self.repeats)


def memory_part(setting: Setting) -> str:
    # A processor is shared, and slow moments come and go: many short pairs bear them better than a few long ones.
    pieces = 1 if setting.gpu else 4
    rows = []
    for name, images, batch, network in (
        ("cifar-resnet20, 32 pixels", in_memory(setting.images // pieces, 32), CIFAR_BATCH, setting.cifar),
        (
            f"resnet50 with shuffle, {setting.size} pixels",
            in_memory(max(1, setting.steps // pieces) * setting.batch, setting.size),
            setting.batch,
            setting.resnet50,
        ),
    ):
        batches = setting.batches(images, batch)
        ours = setting.ours(network(len(images.classes)), batches)
        bare = setting.bare(network(len(images.classes)), batches)
        floor, took = setting.measured((bare, ours), pieces)
        besides = "" if setting.gpu else spread(ours.besides, ".2f")
        rows.append(
            [
                f"{name}, batch {batch}",
                *rates(len(images), (floor, took)),
                per_cent(floor, took),
                besides,
            ]
        )
    header = ["network", "bare step, images/s", "regard, images/s", "% of the bare step", "outside it, %"]
    return "\n\n".join(
        (
            "### Images in memory",
            "Ceiling: the bare step on one batch. Regard: an epoch of its loop with pad-crop and flip, pair by pair "
            "(bar: at least 97 %). Outside: the share of regard's time outside forward, backward and optimizer step, "
            "by a clock around these three; on a processor only, where it is the steadier figure. "
            f"{pieces * setting.repeats} pairs.",
            table(header, rows),
        )
    )


def files_part(setting: Setting) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = Path(setting.folder) / "train" if setting.folder else make_jpegs(folder / "made", MADE)
        few = link_epoch(source, folder / "few", setting.steps * setting.batch)
        many = link_epoch(source, folder / "many", setting.files)
        network, ceiling = network_from_files(setting, few)
        return "\n\n".join(("### Images from files", about_files(setting), network, alone(setting, many, ceiling)))


def about_files(setting: Setting) -> str:
    what = (
        f"files of {setting.folder}"
        if setting.folder
        else f"{MADE} made files of {WIDTH} x {HEIGHT} pixels, quality {QUALITY}"
    )
    return (
        f"Random resized crops of {setting.size} pixels and flips of {what}; {setting.workers} workers for each system."
    )


def network_from_files(setting: Setting, folder: Path) -> tuple[str, float]:
    """The table of ResNet50 from files, and the images a second of the bare step."""
    size, batch, workers, device = setting.size, setting.batch, setting.workers, setting.device
    images = data.load("files", folder).train
    classes, batches = len(images.classes), setting.batches(images, batch)
    ours = setting.ours(setting.resnet50(classes), batches)
    bare = setting.bare(setting.resnet50(classes), batches)
    peers = []
    for loader, optimizer in (
        (timm_loader, lambda network: timm_optimizer(network, LR)),
        (torchvision_loader, lambda network: training.make_optimizer(network, training.OptimizerRecipe(lr=LR))),
    ):
        network = setting.resnet50(classes)
        step = bare_step(network, optimizer(network), device, setting.precision)
        peers.append(Loaded(loader(folder, size, batch, workers, device, images), step, device))
    works = (bare, ours, *peers)
    figures = setting.measured(works)
    rows = [
        [name, rate, waiting, per_cent(figures[0], figure)]
        for name, rate, waiting, figure in zip(
            ("bare step", "regard", "timm", "torchvision"),
            rates(len(images), figures),
            ("", *(spread(work.waiting, ".2f") for work in (ours, *peers))),
            figures,
            strict=True,
        )
    ]
    about = (
        f"ResNet50 with Shuffle Attention, batch {batch}, channels_last, {setting.precision}, the same network "
        f"everywhere; epochs of {len(batches)} steps, worker processes kept from one to the next. Waiting: the share "
        "of the time spent asking for the next batch (bar: under 5 % where files are read faster than the bare step "
        "takes them)."
    )
    header = ["loop", "images/s", "waiting, %", "% of the bare step"]
    return f"{about}\n\n{table(header, rows)}", len(images) / statistics.median(figures[0])


def alone(setting: Setting, folder: Path, ceiling: float) -> str:
    """How fast files are read, alone and by a network that asks for more than there is."""
    images = data.load("files", folder).train
    batches = setting.batches(images, max(64, setting.batch))
    few = nn.AvgPool2d(1, setting.size // 4)  # 16 pixels of each image
    network = nn.Sequential(few, nn.Flatten(), nn.LazyLinear(len(images.classes)))
    network(torch.zeros(1, 3, setting.size, setting.size))
    ours = setting.ours(network.to(setting.device), batches)
    epoch = itertools.count()

    def read() -> float:
        return seconds(lambda: [None for _ in batches.epoch(next(epoch))], setting.device)

    reading, took = setting.measured((read, ours))
    rate = len(images) / statistics.median(reading)
    rows = [
        ["read, normalised, on the device", rates(len(images), [reading])[0], ""],
        ["and trained on, by a network next to nothing", rates(len(images), [took])[0], per_cent(reading, took)],
    ]
    return "\n".join(
        (
            f"Files alone, batch {batches.batch_size}: what regard's reader gives when nobody trains, and its loop "
            "with a network of one small matrix, pair by pair (bar: within 3 %).\n",
            table(["files", "images/s", "% of reading"], rows),
            "",
            f"- The reader gives {rate / ceiling:.2f} times what the bare step of ResNet50 takes: here "
            + (
                "it keeps up, and the bar is the waiting."
                if rate > ceiling
                else "it does not, and the bar is its rate."
            ),
        )
    )


def cifar_part(setting: Setting) -> str:
    images = in_memory(setting.images, 32)
    classes, workers = len(images.classes), min(setting.workers, 8)
    ours = setting.ours(setting.cifar(classes), setting.batches(images, CIFAR_BATCH))
    network = setting.cifar(classes)
    optimizer = training.make_optimizer(network, training.OptimizerRecipe(lr=LR))
    step = bare_step(network, optimizer, setting.device, setting.precision)
    loaded = Loaded(picture_loader(images, CIFAR_BATCH, workers, setting.device), step, setting.device)
    took, loaded_times = setting.measured((ours, loaded))
    rows = [
        [name, rate, spread(work.waiting)]
        for name, rate, work in zip(
            ("regard", "DataLoader"), rates(len(images), (took, loaded_times)), (ours, loaded), strict=True
        )
    ]
    gains = [other / took_ours for other, took_ours in zip(loaded_times, took, strict=True)]
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


def processes_part(setting: Setting) -> str:
    title = "### Two processes against one"
    if setting.gpu and torch.cuda.device_count() < 2:
        return f"{title}\n\nLeft out: there is one GPU."
    if not setting.gpu and (os.cpu_count() or 1) < 2:
        return f"{title}\n\nLeft out: there is one core."
    network, batch = ("wrn-28-10", 512) if setting.gpu else ("wrn-16-2", 256)
    images = max(setting.images // 2 // batch, 1) * batch
    rounds = max(1, setting.repeats // 2)
    with tempfile.TemporaryDirectory() as temporary:
        folders = (Path(temporary) / f"run{i}" for i in itertools.count())

        def run(processes: int, share: int = 1, gpu: int = 0) -> Started:
            return Started(next(folders), processes, network, batch // share, images // share, setting, gpu)

        works = (
            lambda: run(1).rate(),
            lambda: run(2).rate(),
            lambda: sum([started.rate() for started in [run(1, 2, gpu) for gpu in (0, 1)]]),
        )
        figures = in_turn(works, rounds)
    gains = [spread([some / one for some, one in zip(figure, figures[0], strict=True)], ".2f") for figure in figures]
    names = ("one", "two", "two runs of one at once")
    rows = [[name, spread(figure), gain] for name, figure, gain in zip(names, figures, gains, strict=True)]
    unit = "GPU" if setting.gpu else "core, 1 thread"
    return "\n\n".join(
        (
            title,
            f"`regard train`, started plainly and by `torch.distributed.run`, each process on its own {unit}: "
            f"{network}, batch {batch} over all, {images} images an epoch. Of {rounds} runs each, in turn, the median "
            "of what they say of their epochs after the first. Two runs at once share the work and say nothing to each "
            "other: what the machine has for two (bar of two processes: 1.7 times one).",
            table(["processes", "images/s", "times one"], rows),
        )
    )


class Started:
    """A run of `regard train` by so many processes, under way."""

    def __init__(
        self, folder: Path, count: int, network: str, batch: int, images: int, setting: Setting, gpu: int = 0
    ) -> None:
        several = ("torch.distributed.run", "--standalone", "--nproc_per_node", str(count), "-m", "--")
        device = f"cuda:{gpu}" if setting.gpu and count == 1 else setting.device.type
        command = [
            *(sys.executable, "-m", *(several if count > 1 else ()), "regard", "train", f"--run={folder}"),
            f"--data.options={{train: {images}, test: 10}}",
            f"--model.name={network}",
            f"--optimizer.lr={LR}",
            f"--schedule.batch_size={batch}",
            "--schedule.epochs=3",
            f"--device={device}",
            f"--precision={setting.precision}",
            *(() if setting.gpu else ("--threads=1",)),
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
        """Images a second, once it is done."""
        _, output = self.process.communicate()
        if self.process.returncode:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} failed:\n{output}")
        return statistics.median(row["images_per_second"] for row in training.Run.open(self.folder).metrics()[1:])


def in_memory(count: int, side: int) -> data.InMemoryDataset:
    """So many built-in images, as bytes, enlarged to `side`."""
    made = data.load("clutter", train=min(count, 2560 if side == 32 else DISTINCT), test=10).train
    pixels = made.images
    if side != 32:
        pixels = F.interpolate(pixels.float(), (side, side), mode="bilinear").round().byte()
    index = torch.arange(count) % len(made)
    return data.InMemoryDataset(
        pixels[index], made.labels[index], made.classes, made.name, made.split, mean=made.mean, std=made.std
    )


def rates(images: int, figures: Iterable[Sequence[float]]) -> list[str]:
    """Images a second of epochs that took so many seconds."""
    return [spread([images / took for took in times]) for times in figures]


def per_cent(floor: Sequence[float], times: Sequence[float]) -> str:
    """The speed in % of that of the floor, pair by pair."""
    return spread([100 * bare / took for bare, took in zip(floor, times, strict=True)])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be given several times")
    parser.add_argument("--images", type=int, help="of an epoch of the CIFAR networks: 2560, on a GPU 25,600")
    parser.add_argument("--steps", type=int, help="of an epoch of ResNet50: 4, on a GPU 50")
    parser.add_argument("--batch_size", type=int, help="of ResNet50: 16, on a GPU 128")
    parser.add_argument("--size", type=int, default=224, help="side of ResNet50's images in pixels")
    parser.add_argument("--folder", help="with train/ and class folders in it; files are made if not given")
    parser.add_argument("--files", type=int, help="read in an epoch without ResNet50: 1024, on a GPU 20,480")
    parser.add_argument("--workers", type=int, help="DataLoader workers; by default processors - 1, 16 at most")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    setting = Setting(options)
    torch.backends.cudnn.benchmark = True
    parts = {"memory": memory_part, "files": files_part, "cifar": cifar_part, "processes": processes_part}
    texts = [
        f"{setting.precision}; {setting.repeats} epochs each, in turn, after one to warm up, by default. "
        "Median (smallest to largest)."
    ]
    texts += [parts[name](setting) for name in options.only or PARTS]
    publish("Training throughput", "\n\n".join(texts), setting.device, save=not options.dry)


if __name__ == "__main__":
    main()
