"""The cost of a training step by attention transfer: its parts, peers, memory, and whole epochs.

    python benchmarks/transfer.py                            # WRN-16-1 from WRN-16-2, ResNet18 from ResNet34
    python benchmarks/transfer.py --pairs wrn-16-1 --parts peers,memory
    python benchmarks/transfer.py --compiled no              # without torch.compile, which takes minutes
    python benchmarks/transfer.py --parts epoch --epoch_images 2560   # shortened epochs on a CPU
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=68719476736 MALLOC_ARENA_MAX=1 python benchmarks/transfer.py
                                                             # glibc keeps memory: no page faults, steadier times

Four parts. Split: the time of student, teacher and losses in a step of regard. Peers: the same step by a textbook loop
and by torchdistill. Memory: the peak of a step and the tensors saved for backward, with and without the losses. Epoch:
epochs of CIFAR-10's size with regard's loader and loop; on a CPU only with --epoch_images.

Forms of regard's step: plain is the objective with an unchanged teacher in float32; fast has a teacher of precision
"auto" with folded norms; compiled is fast under torch.compile. The networks of the peers are contiguous, those of
regard's loop, and so of its forms, are channels_last. All start from the same weights; losses and gradients have to
agree before any timing.

torchdistill is optional (`pip install torchdistill`; it needs torch 2.12). Weights and images are random: times do not
depend on them.
"""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import memory
import textbook_transfer
import torch
from common import arguments, in_turn, publish, seconds, spread, table
from memory import MIB
from ready import Ready
from torch import Tensor, nn

from regard import data, maps, models, training, transfer
from regard.stages import stages
from regard.training.distributed import Processes
from regard.training.loop import Loop

BETA = 1e3
OPTIMIZER = training.OptimizerRecipe(lr=0.01)
LEAST = 0.3  # seconds; each time is an average over as many steps as fill it
# Relative tolerances of loss and gradient against the textbook's. A ReLU input near 0 can change sign with the memory
# layout, which changes the gradient, but not the loss.
SAME = {False: (1e-5, 3e-2), True: (2e-3, 5e-2)}  # larger on a GPU, where TensorFloat-32 rounds by layout
FAST = (5e-2, 0.25)  # for a teacher in bfloat16
PARTS = ("split", "peers", "memory", "epoch")
SPLIT = (
    *("step", "whole, ms", "student, ms", "teacher, ms", "losses, ms", "% of the step"),
    *("losses at hand, ms", "% of the step"),
)


@dataclass(frozen=True)
class Pair:
    """A student and its teacher, with their usual training data."""

    student: str
    teacher: str
    classes: int
    size: int
    batch: int
    batch_gpu: int


PAIRS = {
    pair.student: pair
    for pair in (
        Pair("wrn-16-1", "wrn-16-2", 10, 32, 128, 128),
        Pair("resnet18", "resnet34", 1000, 224, 32, 256),
    )
}


class Case:
    """The networks of a pair and a batch, the same for all forms of the step."""

    def __init__(self, pair: Pair, batch: int, size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.title = f"{pair.student} from {pair.teacher}, batch {batch}, {size} pixels"
        self.device = device
        self.images = torch.randn(batch, 3, size, size, device=device)
        self.labels = torch.randint(pair.classes, (batch,), device=device)
        self.student, self.teacher = (
            set_norms(models.create(name, pair.classes).to(device), self.images)
            for name in (pair.student, pair.teacher)
        )
        self.layers = list(stages(self.student))
        with torch.no_grad(), maps.Taps(self.student) as taps:
            self.student(self.images)
        sizes = [4 * features[:, 0].numel() for features in taps.features.values()]
        self.map_bytes, self.largest_map = sum(sizes), max(sizes)  # in float32

    def copies(self, channels_last: bool) -> tuple[nn.Module, nn.Module]:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        student, teacher = copy.deepcopy(self.student), copy.deepcopy(self.teacher)
        return student.to(memory_format=layout).train(), teacher.to(memory_format=layout).eval()

    @property
    def own_bytes(self) -> int:
        """Bytes of both networks, the momentum and the batch, which exist outside a step."""
        student = [*self.student.parameters(), *self.student.parameters(), *self.student.buffers()]  # momentum: twice
        tensors = [*student, *self.teacher.parameters(), *self.teacher.buffers(), self.images, self.labels]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def set_norms(model: nn.Module, images: Tensor) -> nn.Module:
    """Gives the norms of a model random scales and shifts, and the statistics of the images, as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.momentum = None  # cumulative average
    with torch.no_grad():
        model.train()(images)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model


class Form:
    """One way to take a step.

    Args:
        student: the network that is trained.
        loss: function that returns the loss with its graph.
        update: function for backward and optimizer step; None: the usual ones.
        optimizer: the student's optimizer; None: SGD.
    """

    def __init__(
        self,
        student: nn.Module,
        loss: Callable[[], Tensor],
        update: Callable[[Tensor], object] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.student, self.loss = student, loss
        self.optimizer = optimizer or training.make_optimizer(student, OPTIMIZER)
        self.update = update or self.usual_update

    def usual_update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    def step(self) -> Tensor:
        loss = self.loss()
        self.update(loss)
        return loss.detach()

    def momentum(self) -> Tensor:
        """The momentum of all parameters, concatenated, float64; after the first step: gradient plus weight decay."""
        state = [self.optimizer.state[parameter]["momentum_buffer"] for parameter in self.student.parameters()]
        return torch.cat([buffer.reshape(-1).double() for buffer in state])


class Forms(NamedTuple):
    """A step in one form, and parts of it.

    Attributes:
        whole: the step with attention transfer.
        without: the step with the teacher's forward, but without the attention losses.
        task: the step with the task loss alone, without a teacher.
        teacher: the teacher's forward.
        at_hand: forward and backward on precomputed features of both networks, with and without the attention losses.
    """

    whole: Form
    without: Form
    task: Form | None = None
    teacher: Callable[[], object] | None = None
    at_hand: tuple[Callable[[], object], Callable[[], object]] | None = None


def regard_forms(case: Case, *, fast: bool, compiled: bool = False) -> Forms:
    student, teacher = case.copies(channels_last=True)
    images, labels = case.images.contiguous(memory_format=torch.channels_last), case.labels
    wrapper = transfer.Teacher(teacher, precision="auto" if fast else None, fold=fast, compile=compiled)
    objective = transfer.Objective(student, wrapper, beta=BETA, compile=compiled)
    network, dtype = wrapper.network(list(stages(teacher))), wrapper.dtype()  # as the objective runs it
    student_alone, teacher_alone = (torch.compile(model) if compiled else model for model in (student, network))
    task = transfer.Objective(student_alone, None)

    def teacher_forward() -> None:
        with torch.no_grad(), torch.autocast(case.device.type, dtype, enabled=dtype is not None):
            teacher_alone(images)

    def without() -> Tensor:
        teacher_forward()
        return task(images, labels).total

    whole = Form(student, lambda: objective(images, labels).total)
    return Forms(
        whole,
        Form(student, without, optimizer=whole.optimizer),
        Form(student, lambda: task(images, labels).total, optimizer=whole.optimizer),
        teacher_forward,
        None if compiled else losses_at_hand(student, network, dtype, images, labels),
    )


def losses_at_hand(
    student: nn.Module, teacher: nn.Module, dtype: torch.dtype | None, images: Tensor, labels: Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    precomputed = Ready(student, images)
    whole = transfer.Objective(precomputed, Ready(teacher, images, dtype), beta=BETA)
    without = transfer.Objective(precomputed, None)
    return lambda: whole(images, labels).total.backward(), lambda: without(images, labels).total.backward()


def textbook_forms(case: Case, *, channels_last: bool = False) -> Forms:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = case.images.contiguous(memory_format=layout)

    def form(layers: Sequence[str]) -> Form:
        student, teacher = case.copies(channels_last)  # because the hooks stay on the networks
        loss = textbook_transfer.AttentionTransfer(student, teacher, layers, BETA)
        return Form(student, lambda: loss(images, case.labels))

    return Forms(form(case.layers), form(()))


def torchdistill_forms(case: Case) -> Forms:
    """The step by torchdistill's DistillationBox, called as by its trainer."""

    def form(layers: Sequence[str]) -> Form:
        student, teacher = case.copies(channels_last=False)
        box = torchdistill_box(case, student, teacher, layers)
        return Form(
            student,
            lambda: box.forward_process(case.images, case.labels, None),
            lambda loss: box.post_forward_process(loss=loss),
            box.optimizer,
        )

    return Forms(form(case.layers), form(()))


def torchdistill_box(case: Case, student: nn.Module, teacher: nn.Module, layers: Sequence[str]):
    from torchdistill.core.distillation import get_distillation_box

    output = {"is_from_teacher": False, "module_path": ".", "io": "output"}
    terms = {
        "task": {
            "criterion": {"key": "CrossEntropyLoss", "kwargs": {"reduction": "mean"}},
            "criterion_wrapper": {
                "key": "SimpleLossWrapper",
                "kwargs": {"input": output, "target": {"uses_label": True}},
            },
            "weight": 1.0,
        }
    }
    hooks = {}
    if layers:
        pairs = {layer: {who: {"io": "output", "path": layer} for who in ("student", "teacher")} for layer in layers}
        terms["attention"] = {
            "criterion": {"key": "ATLoss", "kwargs": {"at_pairs": pairs, "mode": "code"}},
            "weight": BETA,
        }
        hooks = {"forward_hook": {"input": [], "output": list(layers)}}
    options = {"lr": OPTIMIZER.lr, "momentum": OPTIMIZER.momentum, "weight_decay": OPTIMIZER.weight_decay}
    config = {
        "num_epochs": 1,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False, **hooks},
        "student": {"forward_proc": "forward_batch_only", **hooks},
        "optimizer": {"key": "SGD", "kwargs": options},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }
    box = get_distillation_box(teacher, student, {}, config, case.device, None, False, 1.0)
    teacher.eval()
    box.pre_epoch_process(epoch=0)
    return box


def make_forms(case: Case, compiled: bool, names: Sequence[str] | None = None) -> dict[str, Forms]:
    """The step in every form, or in the named ones."""
    torch.compiler.reset()  # torch limits the number of networks per compiled function
    factories: dict[str, Callable[[], Forms]] = {
        "textbook": lambda: textbook_forms(case),
        "textbook, channels_last": lambda: textbook_forms(case, channels_last=True),
        "torchdistill": lambda: torchdistill_forms(case),
        "regard, plain": lambda: regard_forms(case, fast=False),
        "regard, fast": lambda: regard_forms(case, fast=True),
        "regard, compiled": lambda: regard_forms(case, fast=True, compiled=True),
    }
    if find_spec("torchdistill") is None:
        del factories["torchdistill"]
    if not compiled:
        del factories["regard, compiled"]
    return {name: factory() for name, factory in factories.items() if names is None or name in names}


def check(forms: dict[str, Form], device: torch.device) -> str:
    """Takes one step with every form; fails unless losses and gradients agree with the textbook's."""
    steps = {name: (form.step().item(), form.momentum()) for name, form in forms.items()}
    base, base_gradient = steps["textbook"]
    deviations: dict[tuple[float, float], list[tuple[float, float]]] = {}  # by tolerance
    for name, (loss, gradient) in steps.items():
        deviation = abs(loss / base - 1), ((gradient - base_gradient).norm() / base_gradient.norm()).item()
        tolerance = FAST if name in ("regard, fast", "regard, compiled") else SAME[device.type == "cuda"]
        assert all(value < limit for value, limit in zip(deviation, tolerance, strict=True)), (
            f"{name}: loss {loss} and the textbook's {base}, gradients {deviation[1]:.1%} apart"
        )
        deviations.setdefault(tolerance, []).append(deviation)
    largest = [
        " and ".join(f"{max(values):.1g}" for values in zip(*pairs, strict=True)) for pairs in deviations.values()
    ]
    text = f"Loss ({base:.4f}) and gradient agree with the textbook's to {largest[0]}"
    return text + "".join(f", with fast teachers to {values}" for values in largest[1:]) + "."


def timer(function: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Returns a function that times as many calls as fill `LEAST` seconds, and returns milliseconds per call.

    `function` has to be warmed up.
    """
    count = max(1, math.ceil(LEAST / seconds(function, device)))
    return lambda: seconds(lambda: [function() for _ in range(count)], device) / count * 1e3


def split_table(case: Case, compiled: bool, repeats: int) -> str:
    names = ("textbook", "regard, plain", "regard, fast", "regard, compiled")
    rows = []
    for name, forms in make_forms(case, compiled, names).items():
        calls: dict[str, Callable[[], object]] = {"whole": forms.whole.step, "without": forms.without.step}
        if forms.task is not None and forms.teacher is not None:
            calls |= {"student": forms.task.step, "teacher": forms.teacher}
        if forms.at_hand is not None:
            calls |= dict(zip(("at hand", "nothing"), forms.at_hand, strict=True))
        order = [*calls, "without", "whole"]
        for call in (*calls.values(), *calls.values()):  # compilation, caches
            call()
        timers = {key: timer(call, case.device) for key, call in calls.items()}
        times = in_turn([timers[key] for key in order], repeats)
        whole, without = ([statistics.mean(pair) for pair in zip(times[i], times[-1 - i], strict=True)] for i in (0, 1))
        losses = [a - b for a, b in zip(whole, without, strict=True)]
        row = [name, spread(whole)]
        row += [spread(times[order.index(key)]) if key in calls else "" for key in ("student", "teacher")]
        row += [spread(losses, ".2f"), spread([100 * loss / step for loss, step in zip(losses, whole, strict=True)])]
        if forms.at_hand is not None:
            at_hand = times[order.index("at hand")], times[order.index("nothing")]
            alone = [a - b for a, b in zip(*at_hand, strict=True)]
            row += [spread(alone, ".2f"), f"{100 * statistics.median(alone) / statistics.median(whole):.1f}"]
        rows.append(row + [""] * (len(SPLIT) - len(row)))
    caption = (
        "Student: forward, backward and optimizer of the task alone. Teacher: its forward. Losses: the whole step "
        "minus the same step, with the teacher's forward, without attention. Each is the mean of two times, in order "
        "whole, without, …, without, whole, with the other parts in between; shares are those of the differences, "
        "round by round, and below 0 they are noise. At hand: forward and backward of the same losses on precomputed "
        "features and gradients, minus the same without losses; a steadier measurement of the same work, on features "
        "that are in no cache."
    )
    return f"{caption}\n\n{table(SPLIT, rows)}"


def peers_table(case: Case, compiled: bool, repeats: int) -> str:
    forms = {name: split.whole for name, split in make_forms(case, compiled).items()}
    agreement = check(forms, case.device)
    for form in forms.values():
        form.step()
    timers = [timer(form.step, case.device) for form in forms.values()]
    times = dict(zip(forms, in_turn(timers, repeats), strict=True))
    peers = [name for name in ("textbook", "torchdistill") if name in forms]
    rows = []
    for name, values in times.items():
        ratios = [[reference / value for reference, value in zip(times[peer], values, strict=True)] for peer in peers]
        rows.append([name, spread(values), *(spread(ratio, ".2f") for ratio in ratios)])
    caption = "Columns of peers: the time of their step divided by that of the row, round by round. " + agreement
    if "torchdistill" in forms:
        caption += f" torchdistill {version('torchdistill')}: ATLoss in mode code, driven by its DistillationBox."
    else:
        caption += " torchdistill is not installed: its column is left out."
    return f"{caption}\n\n{table(['step', 'ms', *peers], rows)}"


def memory_table(case: Case, compiled: bool) -> str:
    memory.check_peak(case.device)
    rows = []
    for name, forms in make_forms(case, compiled).items():
        if name == "textbook, channels_last":
            continue
        peaks, saved = [], []
        for form in (forms.without, forms.whole):
            form.step()
            form.step()
            form.optimizer.zero_grad(set_to_none=True)
            peaks.append(case.own_bytes + memory.peak(form.step, case.device))
            form.optimizer.zero_grad(set_to_none=True)
            saved.append(memory.saved(form.loss, form.student.parameters()))
        added = sum(saved[1].values()) - sum(saved[0].values())
        new = Counter(saved[1].values()) - Counter(saved[0].values())  # sizes of the additional storages
        rows.append(
            [
                name,
                *(f"{peak / MIB:.1f}" for peak in peaks),
                f"{100 * (peaks[1] / peaks[0] - 1):.2f}",
                *(f"{sum(storages.values()) / MIB:.1f}" for storages in saved),
                f"{added / MIB:.2f}",
                f"{added / case.map_bytes:.2f}",
                f"{max(new, default=0) / case.largest_map:.2f}",
            ]
        )
    source = "the allocator's count" if case.device.type == "cuda" else "the allocations in torch's profiler"
    caption = (
        f"Peak: networks, momentum, batch, and the peak of a step, by {source}, with the same teacher. Saved: the "
        "storages saved for backward, without parameters. Maps: float32 of (N, H, W), one per stage, "
        f"{case.map_bytes / MIB:.2f} MiB together. Largest: the largest storage that the losses add, divided by the "
        "largest map."
    )
    header = ["step", "peak without losses, MiB", "with", "losses add, %"]
    header += ["saved without losses, MiB", "with", "losses add, MiB", "in maps", "largest"]
    return f"{caption}\n\n{table(header, rows)}"


def epoch_table(images: int, batch: int, compiled: bool, repeats: int, device: torch.device) -> str:
    torch.compiler.reset()
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)
    names = tuple(str(i) for i in range(10))
    train = data.InMemoryDataset(
        pixels, torch.randint(10, (images,)), names, "made up", "train", (0.5,) * 3, (0.29,) * 3
    )
    timers: dict[str, Callable[[], float]] = {}
    for compile in (False, True) if compiled else (False,):
        kind = "compiled" if compile else "eager"
        for student, teacher in (("wrn-16-1", "wrn-16-2"), ("cifar-resnet164", None)):
            name = f"{student} from {teacher}, fast" if teacher else f"{student} alone"
            timers[f"{name}, {kind}"] = epoch_timer(train, batch, student, teacher, compile, device)
    in_turn(list(timers.values()), 1)  # warm-up and compilation
    times = in_turn(list(timers.values()), repeats)
    steps = math.ceil(images / batch)
    rows = [
        [name, spread(values, ".2f"), f"{1000 * statistics.median(values) / steps:.2f}"]
        for name, values in zip(timers, times, strict=True)
    ]
    caption = (
        f"Epochs of {images:,} random images of 32 pixels, {steps} steps of {batch}, with regard's loader (pad-crop "
        "and flip) and training loop, including its meters of losses and accuracy, without the test after an epoch."
    )
    return f"{caption}\n\n{table(['epoch of', 'seconds', 'ms a step'], rows)}"


def epoch_timer(
    train: data.InMemoryDataset, batch: int, student: str, teacher: str | None, compiled: bool, device: torch.device
) -> Callable[[], float]:
    """Returns a function that trains the next epoch and returns its seconds."""

    def network(name: str) -> nn.Module:
        return models.create(name, len(train.classes)).to(device, memory_format=torch.channels_last)

    recipe = training.load_recipe(
        None,
        [
            f"--model.name={student}",
            f"--optimizer.lr={OPTIMIZER.lr}",
            "--augmentation.flip=true",
            f"--schedule.batch_size={batch}",
            f"--device={device}",
            "--save_minutes=1e6",  # the run folder is temporary
        ],
    )
    model = network(student)
    wrapper = transfer.Teacher(network(teacher), precision="auto", fold=True, compile=compiled) if teacher else None
    objective = transfer.Objective(model, wrapper, beta=BETA, compile=compiled)
    batches = data.create_loader(
        train,
        batch,
        transform=data.Transform(augmentation=recipe.augmentation),
        shuffle=True,
        device=device,
        channels_last=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = training.Run.create(Path(folder) / "run", recipe, train.classes)
        processes = Processes(str(device), recipe.precision, recipe.wait_minutes)
        task = training.Classification(recipe, model, objective, batches, batches)
        loop = Loop(recipe, run, task, processes)

    def train_epoch() -> float:
        loop.step = 0
        loop.meter.rows.zero_()
        epoch_time = seconds(lambda: loop.train_epoch(), device)
        loop.epoch += 1
        return epoch_time

    return train_epoch


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pairs", default=",".join(PAIRS), help="students of the pairs to time")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--batch_size", type=int, default=None, help="by default 128 for WRNs; for ResNets 32, GPU 256")
    parser.add_argument("--size", type=int, default=None, help="height and width; by default 32 (WRNs), 224 (ResNets)")
    parser.add_argument("--compiled", choices=["yes", "no"], default="yes", help="also time with torch.compile")
    parser.add_argument("--epoch_images", type=int, default=None, help="by default 50,000 on a GPU, no epochs on a CPU")
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    parts, compiled = options.parts.split(","), options.compiled == "yes"
    torch.backends.cudnn.benchmark = True
    texts = []
    for name in options.pairs.split(","):
        pair = PAIRS[name]
        batch = options.batch_size or (pair.batch_gpu if gpu else pair.batch)
        case = Case(pair, batch, options.size or pair.size, device)
        tables = {
            "split": lambda case=case: split_table(case, compiled, options.repeats),
            "peers": lambda case=case: peers_table(case, compiled, options.repeats),
            "memory": lambda case=case: memory_table(case, compiled),
        }
        pair_texts = [tables[part]() for part in parts if part in tables]
        if pair_texts:
            texts += [f"### {case.title}", *pair_texts]
    if "epoch" in parts:
        images = options.epoch_images or (50_000 if gpu else 0)
        if images:
            texts.append(epoch_table(images, options.batch_size or 128, compiled, options.repeats, device))
        else:
            texts.append("Epochs of CIFAR-10's size are left out on a CPU; --epoch_images N adds them.")
    texts.insert(
        0, f"Medians of {options.repeats} (smallest to largest), each over steps that fill {LEAST} s, or an epoch."
    )
    publish("Transfer: a step and what it costs", "\n\n".join(texts), device, save=not options.dry)


if __name__ == "__main__":
    main()
