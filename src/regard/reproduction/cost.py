"""How long the runs of a plan will take, from what was measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from regard import data, training
from regard.errors import InputError
from regard.modes import evaluation_mode
from regard.reproduction.plan import Job, Plan
from regard.store import StoredRun
from regard.tables.matching import Facts
from regard.tables.words import counted
from regard.training import ModelRecipe, Recipe, plain

_STEPS = 3  # that are timed
_FORWARD = 3.0  # times as fast as in training; a backward pass takes as long as two forward


@dataclass(frozen=True)
class Rate:
    """How fast a run goes.

    Attributes:
        training: images a second.
        testing: images a second.
        memory: of the GPU at its height, GiB; 0 on the processor.
        source: in words, where it was measured.
    """

    training: float
    testing: float
    memory: float
    source: str


@dataclass(frozen=True)
class Cost:
    """Of a plan.

    Attributes:
        seconds: name -> seconds that are left of a run; those that are finished have 0.
        rates: name -> the rate that it rests on.
        unknown: name -> why nothing is known of its cost.
    """

    seconds: dict[str, float]
    rates: dict[str, Rate]
    unknown: dict[str, str]

    def total(self, jobs: Sequence[Job]) -> float:
        return sum(self.seconds.get(job.name, 0.0) for job in jobs)

    def elapsed(self, plan: Plan, at_once: int) -> float:
        """Seconds until all is done with so many runs at once, students after their teachers, if these do not slow one
        another.
        """
        free = [0.0] * at_once  # when each place is
        done = {job.name: 0.0 for job in plan.jobs if job.state == "finished"}
        for job in plan.todo:  # teachers come first
            ready = done.get(job.teacher, 0.0) if job.teacher else 0.0
            place = min(range(at_once), key=lambda place: (max(free[place], ready), -free[place]))
            free[place] = done[job.name] = max(free[place], ready) + self.seconds.get(job.name, 0.0)
        return max(free)

    def without(self, plan: Plan, axis: int, key: str) -> float:
        """Seconds that are saved if a row (axis 0) or a column (axis 1) is not wanted."""
        return self.total([job for job in plan.todo if all(place[axis] == key for place in job.cells)])


def estimate(
    plan: Plan,
    runs: Sequence[StoredRun],
    materials: Callable[[Recipe], data.Splits],
    device: torch.device | None,
    start: float = 0.0,
) -> Cost:
    """What is left to do, one run at a time.

    The rates are those of earlier runs of the same recipe on the same kind of device, also of other seeds and lengths;
    for others a few steps are timed now, on made-up images of the same size.

    Args:
        plan: the runs.
        runs: of the store.
        materials: the data of a recipe.
        device: that the runs will be on; None: GPUs of other machines, of which only earlier runs tell.
        start: seconds that a process takes until it can do something, to which the time is added that the data take.
    """
    cost = Cost({}, {}, {})
    earlier: dict[str, list[float]] = {}
    for run in runs:
        if run.images_per_second and not run.problem and _like(device, run.environment.get("gpu")):
            earlier.setdefault(_kind(Facts(run.recipe)), []).append(run.images_per_second)
    timed: dict[str, Rate] = {}
    loading: dict[str, float] = {}  # seconds, by what is loaded
    jobs = {job.name: job for job in plan.jobs}
    for job in plan.jobs:
        if job.state == "finished":
            continue
        try:
            began = time.perf_counter()
            splits = materials(job.recipe)
            took = loading.setdefault(repr(job.recipe.data), time.perf_counter() - began)
            kind = _kind(Facts(plain(job.recipe)))
            if kind not in timed:
                teacher = jobs[job.teacher].recipe if job.teacher else None
                timed[kind] = _rate(job.recipe, teacher, splits, device, earlier.get(kind, []))
        except (InputError, RuntimeError) as error:
            cost.unknown[job.name] = str(error).splitlines()[0]
            continue
        rate = timed[kind]
        left = job.epochs - job.epochs_done
        seconds = start + took + left * len(splits.train) / rate.training
        cost.seconds[job.name] = seconds + left * len(splits.test) / rate.testing
        cost.rates[job.name] = rate
    return cost


def _rate(
    recipe: Recipe, teacher: Recipe | None, splits: data.Splits, device: torch.device | None, earlier: Sequence[float]
) -> Rate:
    if not earlier:
        if device is None:
            raise InputError("there is no earlier run on a GPU to go by")
        return measured_rate(recipe, teacher, splits, device)
    # Of a GPU here the memory has to be known, too.
    memory = measured_rate(recipe, teacher, splits, device).memory if device and device.type == "cuda" else 0.0
    training = statistics.median(earlier)
    return Rate(training, _FORWARD * training, memory, counted(len(earlier), "earlier run"))


def _like(device: torch.device | None, gpu: str | None) -> bool:
    """Whether a run on a GPU of this name, or on none, tells how fast a device is."""
    if device is None:
        return gpu is not None
    return gpu == (torch.cuda.get_device_name(device) if device.type == "cuda" else None)


def measured_rate(recipe: Recipe, teacher: Recipe | None, splits: data.Splits, device: torch.device) -> Rate:
    """Times a few training steps and a test batch of a recipe, on made-up images.

    Args:
        recipe: whose network and losses.
        teacher: the recipe of its teacher, if it is a run; else its teachers are networks of the names that it says.
        splits: the data, for the size of the images and the number of classes.
        device: where.
    """
    images = splits.train
    side = images.size if isinstance(images, data.FileSet) else images.images.shape[-1]
    if isinstance(images, data.InMemoryDataset) and recipe.augmentation.crop:
        side = recipe.augmentation.crop
    classes = len(images.classes)
    # On a processor, large images are timed in small batches: a step would take minutes.
    count = recipe.schedule.batch_size if device.type != "cpu" or side <= 64 else min(8, recipe.schedule.batch_size)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        threads = torch.get_num_threads()
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        try:
            model = training.build_network(recipe.model, classes, pretrained=False).to(device)
            model = model.to(memory_format=torch.channels_last)
            taught = [
                training.build_network(network, classes, pretrained=False).to(device).eval()
                for network in ([teacher.model] if teacher else map(ModelRecipe, recipe.transfer.teachers))
            ]
            batch = torch.randn(count, 3, side, side, device=device).to(memory_format=torch.channels_last)
            labels = torch.randint(classes, (count,), device=device)
            objective = training.make_objective(recipe, model, taught, (side, side))
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            optimizer = training.make_optimizer(model, recipe.optimizer, objective.parameters())

            def step() -> None:
                objective(batch, labels).total.backward()
                optimizer.step()
                optimizer.zero_grad()

            took = _time(step, device)
            memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
            with torch.no_grad(), evaluation_mode(model):
                tested = _time(lambda: model(batch), device)
        finally:
            torch.set_num_threads(threads)
    return Rate(count / took, count / tested, memory, f"{_STEPS} steps timed now")


def _time(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of a step, the median of a few, after one that is not counted."""
    took = []
    for _ in range(_STEPS + 1):
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:])


def _kind(facts: Facts) -> str:
    """The same for runs that go equally fast: those of one cell, with images of one size."""
    fields = facts.fields
    return repr((facts.key, fields["data.name"], fields["data.size"], fields["precision"], fields["compile"]))
