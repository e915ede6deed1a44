"""Estimates how long the runs of a plan will take, from measured rates."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from regard import data, training
from regard.errors import InputError, first_line
from regard.formatting import counted
from regard.reproduction.plan import Job, Plan
from regard.store import StoredRun
from regard.tables.matching import Signature
from regard.training import ModelRecipe, Recipe, plain

_STEPS = 3  # number of timed steps
_OBJECTS = 7  # mean number of objects in an image of COCO
_TEST_SPEEDUP = 3.0  # testing over training: a backward pass takes as long as two forward passes


@dataclass(frozen=True)
class Rate:
    """Speed and memory of a run.

    Attributes:
        images_per_second: training images per second.
        memory: peak memory of the GPU in GiB; 0 on the CPU.
        source: origin of the measurement: "2 earlier runs", "3 steps timed now".
    """

    images_per_second: float
    memory: float
    source: str


@dataclass(frozen=True)
class Cost:
    """Time that the runs of a plan need.

    Attributes:
        seconds: run name -> remaining seconds, for unfinished runs.
        rates: run name -> rate that the estimate uses.
        unknown: run name -> reason why the time is unknown.
        unreadable: run name -> reason why the data cannot be read; the time is then also unknown.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    rates: dict[str, Rate] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def total(self, jobs: Iterable[Job]) -> float:
        """Seconds that the jobs need one after another."""
        return sum(self.seconds.get(job.name, 0.0) for job in jobs)

    def elapsed(self, plan: Plan, slots: int) -> float:
        """Seconds of a plan with `slots` runs at once, students after teachers, if runs do not slow each other."""
        slot_ends = [0.0] * slots  # time at which each slot becomes free
        job_ends: dict[str, float] = {}
        for job in plan.todo:  # teachers come first
            ready = job_ends.get(job.teacher or "", 0.0)
            slot = min(range(slots), key=lambda slot: (max(slot_ends[slot], ready), -slot_ends[slot]))
            slot_ends[slot] = job_ends[job.name] = max(slot_ends[slot], ready) + self.seconds.get(job.name, 0.0)
        return max(slot_ends)


def estimate(plan: Plan, runs: Sequence[StoredRun], device: torch.device | None, start: float = 0.0) -> Cost:
    """Estimates the remaining time of every run. Loads the data of all runs.

    Rates come from earlier runs of the same recipe on the same kind of device, with any seed and number of epochs. For
    other runs a few steps are timed on random images of the same size.

    Args:
        plan: the planned runs.
        runs: the runs in the store.
        device: device of the runs; None for GPUs of other machines, whose rates are known from earlier runs only.
        start: seconds that a process takes to start, without the time to load its data.
    """
    cost = Cost()
    earlier_rates = _earlier_rates(runs, device)
    jobs = {job.name: job for job in plan.jobs}
    data_sets: dict[str, tuple[data.Splits, float]] = {}  # with the seconds to load them
    rates: dict[str, Rate] = {}  # by kind
    for job in plan.todo:
        key, kind = repr((training.task_of(job.recipe), job.recipe.data)), _kind(Signature(plain(job.recipe)))
        try:
            if key not in data_sets:
                load_start = time.perf_counter()
                splits = training.task_of(job.recipe).load_data(job.recipe.data)
                data_sets[key] = splits, time.perf_counter() - load_start
        except InputError as error:
            cost.unreadable[job.name] = cost.unknown[job.name] = str(error)
            continue
        splits, load_seconds = data_sets[key]
        try:
            if kind not in rates:
                teacher = jobs[job.teacher].recipe if job.teacher else None
                rates[kind] = _rate(job.recipe, teacher, splits, device, earlier_rates[kind])
        except (InputError, RuntimeError) as error:
            cost.unknown[job.name] = first_line(error)
            continue
        rate = cost.rates[job.name] = rates[kind]
        images = (job.epochs - job.epochs_done) * (len(splits.train) + len(splits.test) / _TEST_SPEEDUP)
        cost.seconds[job.name] = start + load_seconds + images / rate.images_per_second
    return cost


def _earlier_rates(runs: Sequence[StoredRun], device: torch.device | None) -> defaultdict[str, list[float]]:
    """Images per second of earlier runs on this kind of device, by kind of run."""
    gpu_name = torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else None
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for run in runs:
        gpu = run.environment.get("gpu")
        same_device = gpu is not None if device is None else gpu == gpu_name
        if same_device and run.images_per_second and not run.problem:
            rates[_kind(Signature(run.recipe))].append(run.images_per_second)
    return rates


def _kind(signature: Signature) -> str:
    """A key that is equal for runs of the same speed: runs of one table cell with images of one size."""
    fields = signature.fields
    return repr((signature.key, fields["data.name"], fields["data.size"], fields["precision"], fields["compile"]))


def _rate(
    recipe: Recipe, teacher: Recipe | None, splits: data.Splits, device: torch.device | None, rates: Sequence[float]
) -> Rate:
    """The rate from those of earlier runs, or a measurement if there are none; a GPU's memory is always measured."""
    if not rates:
        if device is None:
            raise InputError("there is no earlier run on a GPU to estimate from")
        return measured_rate(recipe, teacher, splits, device)
    memory = measured_rate(recipe, teacher, splits, device).memory if device and device.type == "cuda" else 0.0
    return Rate(statistics.median(rates), memory, counted(len(rates), "earlier run"))


def measured_rate(recipe: Recipe, teacher: Recipe | None, splits: data.Splits, device: torch.device) -> Rate:
    """Times a few training steps on random images of the size of the data. A teacher's run is given by its recipe."""
    classes, count = len(splits.train.classes), recipe.schedule.batch_size
    detector = recipe.model.detector is not None
    size = _image_size(recipe, splits)
    if device.type == "cpu" and max(size) > 64:  # a step would take minutes
        count = min(2 if detector else 8, count)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = training.build_network(recipe.model, classes, pretrained=False, data=recipe.data).to(device)
        model = model.to(memory_format=torch.channels_last)
        teachers = [
            training.build_network(network, classes, pretrained=False).to(device).eval()
            for network in ([teacher.model] if teacher else map(ModelRecipe, recipe.transfer.teachers))
        ]
        objective: nn.Module
        inputs: tuple[Any, ...]
        regressors: Iterable[nn.Parameter] = ()
        if detector:
            objective, inputs = training.DetectionObjective(model.train()), _objects(count, classes, size, device)
        else:
            batch = torch.randn(count, 3, *size, device=device).to(memory_format=torch.channels_last)
            regions = torch.rand(count, *size, device=device) < 0.5  # for guidance
            inputs = batch, torch.randint(classes, (count,), device=device), 0.0, regions
            objective = training.make_objective(recipe, model, teachers, size)
            regressors = objective.regressors.parameters()
        optimizer = training.make_optimizer(model, recipe.optimizer, regressors)

        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds, threads = [], torch.get_num_threads()
        try:
            torch.set_num_threads(recipe.threads or threads)
            for _ in range(_STEPS + 1):  # the first step is not counted
                step_start = time.perf_counter()
                objective(*inputs).total.backward()
                optimizer.step()
                optimizer.zero_grad()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds.append(time.perf_counter() - step_start)
        finally:
            torch.set_num_threads(threads)
        memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    return Rate(count / statistics.median(seconds[1:]), memory, f"{_STEPS} steps timed now")


def _image_size(recipe: Recipe, splits: data.Splits) -> tuple[int, int]:
    """Height and width of training images; for detectors 3 to 4, as in most photographs."""
    if recipe.model.detector is not None:
        short, _ = training.detector_size(recipe.data)
        return short, short * 4 // 3
    count = recipe.schedule.batch_size
    size = training.make_loader(splits.train, recipe.data, count, augmentation=recipe.augmentation).image_size
    assert size is not None
    return size


def _objects(count: int, classes: int, size: tuple[int, int], device: torch.device) -> tuple[Any, ...]:
    """Random images with objects, as arguments of a detector's objective."""
    height, width = size
    images, targets = [], []
    for _ in range(count):
        images.append(torch.rand(3, height, width, device=device))
        corners = torch.rand(_OBJECTS, 2, device=device) * torch.tensor([width / 2, height / 2], device=device)
        boxes = torch.cat([corners, corners + min(size) / 4], dim=1)
        masks = torch.ones(_OBJECTS, height, width, dtype=torch.bool, device=device)
        targets.append({"boxes": boxes, "labels": torch.randint(classes, (_OBJECTS,), device=device), "masks": masks})
    return images, targets, list(range(count))
