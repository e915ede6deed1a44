"""What a training step by attention transfer costs: where its time goes, against peers, its memory, and whole epochs.

    python benchmarks/transfer.py                            # WRN-16-1 from WRN-16-2, ResNet18 from ResNet34
    python benchmarks/transfer.py --pairs wrn-16-1 --parts peers,memory
    python benchmarks/transfer.py --compiled no              # without torch.compile, which takes its minutes
    python benchmarks/transfer.py --parts epoch --epoch_images 2560   # epochs on a processor, shortened
    MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=68719476736 MALLOC_ARENA_MAX=1 python benchmarks/transfer.py
                                                             # glibc keeps memory: no page faults, steadier times

Four parts. Split: a step of regard into student, teacher and losses. Peers: the same step by a textbook loop and by
torchdistill. Memory: the peak of a step and what is saved for backward, with the losses and without. Epoch: CIFAR-10's
size through regard's own batches and loop; on a processor only with --epoch_images.

Forms of regard's step: plain is the objective with a teacher as it is, in float32; fast has a teacher of precision
"auto" with its norms folded; compiled is fast under torch.compile. Peers keep networks contiguous, regard's loop and
so its forms have channels_last. All start from the same weights; before the clock starts, their losses and gradients
have to agree.

torchdistill is left out where it is not installed (`pip install torchdistill`; it needs torch 2.12). Weights and images
are random: time does not depend on them.
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
LEAST = 0.3  # seconds that a figure is taken over, in whole steps
# How far, relatively, losses and gradients may be from the textbook's. A ReLU at 0 that falls to the other side in
# another layout changes the gradient, not the loss.
SAME = {False: (1e-5, 3e-2), True: (2e-3, 5e-2)}  # on a GPU there is TensorFloat-32, another one for every layout
FAST = (5e-2, 0.25)  # a teacher in bfloat16
PARTS = ("split", "peers", "memory", "epoch")
SPLIT = (
    *("step", "whole, ms", "student, ms", "teacher, ms", "losses, ms", "% of the step"),
    *("losses at hand, ms", "% of the step"),
)


@dataclass(frozen=True)
class Pair:
    """A student and its teacher, as they are usually trained."""

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
    """The networks of a pair and a batch for them, from which every form of the step starts."""

    def __init__(self, pair: Pair, batch: int, size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.about = f"{pair.student} from {pair.teacher}, batch {batch}, {size} pixels"
        self.device = device
        self.images = torch.randn(batch, 3, size, size, device=device)
        self.labels = torch.randint(pair.classes, (batch,), device=device)
        self.student, self.teacher = (
            settled(models.create(name, pair.classes).to(device), self.images) for name in (pair.student, pair.teacher)
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
        """Of both networks, the momentum and the batch: what is there besides what a step holds."""
        student = [*self.student.parameters(), *self.student.parameters(), *self.student.buffers()]
        there = [*student, *self.teacher.parameters(), *self.teacher.buffers(), self.images, self.labels]
        return sum(tensor.numel() * tensor.element_size() for tensor in there)


def settled(model: nn.Module, images: Tensor) -> nn.Module:
    """The model with norms as training leaves them: scales, shifts and statistics of their own, none of them 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.momentum = None  # the mean of what is seen
    with torch.no_grad():
        model.train()(images)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model


class Form:
    """One way to take a step.

    Args:
        student: what learns.
        loss: gives the loss, its graph behind it.
        update: backward and optimizer step; the usual ones if not given.
        optimizer: of the student; made if not given.
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
        """Of all parameters in a row, float64; after the first step it is their gradient with the decay."""
        state = [self.optimizer.state[parameter]["momentum_buffer"] for parameter in self.student.parameters()]
        return torch.cat([buffer.reshape(-1).double() for buffer in state])


class Forms(NamedTuple):
    """A step in one form, with attention and in part."""

    whole: Form
    without: Form
    """The same, teacher and all, but for attention."""
    task: Form | None = None
    """The task alone."""
    teacher: Callable[[], object] | None = None
    """The teacher's forward alone."""
    at_hand: tuple[Callable[[], object], Callable[[], object]] | None = None
    """Forward and backward of what lies ready of both networks: with the losses of attention, and without."""


def regard_forms(case: Case, *, fast: bool, compiled: bool = False) -> Forms:
    student, teacher = case.copies(channels_last=True)
    images, labels = case.images.contiguous(memory_format=torch.channels_last), case.labels
    guide = transfer.Teacher(teacher, precision="auto" if fast else None, fold=fast, compile=compiled)
    objective = transfer.Objective(student, guide, beta=BETA, compile=compiled)
    network, dtype = guide.network(list(stages(teacher))), guide.dtype()  # as the objective runs it
    alone, running = (torch.compile(one) if compiled else one for one in (student, network))
    task = transfer.Objective(alone, None)

    def look() -> None:
        with torch.no_grad(), torch.autocast(case.device.type, dtype, enabled=dtype is not None):
            running(images)

    def without() -> Tensor:
        look()
        return task(images, labels).total

    whole = Form(student, lambda: objective(images, labels).total)
    return Forms(
        whole,
        Form(student, without, optimizer=whole.optimizer),
        Form(student, lambda: task(images, labels).total, optimizer=whole.optimizer),
        look,
        None if compiled else losses_at_hand(student, network, dtype, images, labels),
    )


def losses_at_hand(
    student: nn.Module, teacher: nn.Module, dtype: torch.dtype | None, images: Tensor, labels: Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    pupil = Ready(student, images)
    whole = transfer.Objective(pupil, Ready(teacher, images, dtype), beta=BETA)
    without = transfer.Objective(pupil, None)
    return lambda: whole(images, labels).total.backward(), lambda: without(images, labels).total.backward()


def textbook_forms(case: Case, *, channels_last: bool = False) -> Forms:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = case.images.contiguous(memory_format=layout)

    def form(layers: Sequence[str]) -> Form:
        student, teacher = case.copies(channels_last)  # anew, as the hooks stay
        loss = textbook_transfer.AttentionTransfer(student, teacher, layers, BETA)
        return Form(student, lambda: loss(images, case.labels))

    return Forms(form(case.layers), form(()))


def torchdistill_forms(case: Case) -> Forms:
    """By torchdistill's own distillation box, as its trainer drives it."""

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
    """The step in every form, or in those named."""
    torch.compiler.reset()  # there is a limit to how many networks the same compiled function serves
    made: dict[str, Callable[[], Forms]] = {
        "textbook": lambda: textbook_forms(case),
        "textbook, channels_last": lambda: textbook_forms(case, channels_last=True),
        "torchdistill": lambda: torchdistill_forms(case),
        "regard, plain": lambda: regard_forms(case, fast=False),
        "regard, fast": lambda: regard_forms(case, fast=True),
        "regard, compiled": lambda: regard_forms(case, fast=True, compiled=True),
    }
    if find_spec("torchdistill") is None:
        del made["torchdistill"]
    if not compiled:
        del made["regard, compiled"]
    return {name: make() for name, make in made.items() if names is None or name in names}


def check(forms: dict[str, Form], device: torch.device) -> str:
    """Takes one step with every form, and fails unless losses and gradients are the textbook's."""
    steps = {name: (form.step().item(), form.momentum()) for name, form in forms.items()}
    base, gradient = steps["textbook"]
    agree: dict[tuple[float, float], list[tuple[float, float]]] = {}
    for name, (loss, own) in steps.items():
        away = abs(loss / base - 1), ((own - gradient).norm() / gradient.norm()).item()
        allowed = FAST if name in ("regard, fast", "regard, compiled") else SAME[device.type == "cuda"]
        assert all(one < most for one, most in zip(away, allowed, strict=True)), (
            f"{name}: loss {loss} and the textbook's {base}, gradients {away[1]:.1%} apart"
        )
        agree.setdefault(allowed, []).append(away)
    deviations = [" and ".join(f"{max(values):.1g}" for values in zip(*pairs, strict=True)) for pairs in agree.values()]
    text = f"Loss ({base:.4f}) and gradient agree with the textbook's to {deviations[0]}"
    return text + "".join(f", with fast teachers to {those}" for those in deviations[1:]) + "."


def clock(work: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Milliseconds of `work`, over as many runs as fill the least time; it has run before."""
    count = max(1, math.ceil(LEAST / seconds(work, device)))
    return lambda: seconds(lambda: [work() for _ in range(count)], device) / count * 1e3


def split_table(case: Case, compiled: bool, repeats: int) -> str:
    names = ("textbook", "regard, plain", "regard, fast", "regard, compiled")
    rows = []
    for name, forms in make_forms(case, compiled, names).items():
        works: dict[str, Callable[[], object]] = {"whole": forms.whole.step, "without": forms.without.step}
        if forms.task is not None and forms.teacher is not None:
            works |= {"student": forms.task.step, "teacher": forms.teacher}
        if forms.at_hand is not None:
            works |= dict(zip(("at hand", "nothing"), forms.at_hand, strict=True))
        order = [*works, "without", "whole"]
        for work in (*works.values(), *works.values()):  # compilation, caches
            work()
        clocks = {what: clock(work, case.device) for what, work in works.items()}
        taken = in_turn([clocks[what] for what in order], repeats)
        whole, without = ([statistics.mean(two) for two in zip(taken[i], taken[-1 - i], strict=True)] for i in (0, 1))
        losses = [one - other for one, other in zip(whole, without, strict=True)]
        row = [name, spread(whole)]
        row += [spread(taken[order.index(what)]) if what in works else "" for what in ("student", "teacher")]
        row += [spread(losses, ".2f"), spread([100 * loss / one for loss, one in zip(losses, whole, strict=True)])]
        if forms.at_hand is not None:
            figures = taken[order.index("at hand")], taken[order.index("nothing")]
            alone = [one - other for one, other in zip(*figures, strict=True)]
            row += [spread(alone, ".2f"), f"{100 * statistics.median(alone) / statistics.median(whole):.1f}"]
        rows.append(row + [""] * (len(SPLIT) - len(row)))
    about = (
        "Student: forward, backward and optimizer of the task alone. Teacher: its forward. Losses: the whole step less "
        "the same step, teacher and all, without attention, each the mean of two figures taken in the order whole, "
        "without, …, without, whole (with the others between); shares are of these differences, round by round, and "
        "below 0 they are noise. At hand: forward and backward of the same losses where features and the gradients "
        "that meet them lie ready, less the same without losses; a steadier figure of the same work, on features that "
        "no cache holds."
    )
    return f"{about}\n\n{table(SPLIT, rows)}"


def peers_table(case: Case, compiled: bool, repeats: int) -> str:
    forms = {name: split.whole for name, split in make_forms(case, compiled).items()}
    agreement = check(forms, case.device)
    for form in forms.values():
        form.step()
    clocks = [clock(form.step, case.device) for form in forms.values()]
    figures = dict(zip(forms, in_turn(clocks, repeats), strict=True))
    peers = [name for name in ("textbook", "torchdistill") if name in forms]
    rows = []
    for name, taken in figures.items():
        ratios = [[other / own for other, own in zip(figures[peer], taken, strict=True)] for peer in peers]
        rows.append([name, spread(taken), *(spread(ratio, ".2f") for ratio in ratios)])
    about = "Columns of peers: how many times as long as the step of the row theirs takes, round by round. " + agreement
    if "torchdistill" in forms:
        about += f" torchdistill {version('torchdistill')}: ATLoss in mode code, driven by its DistillationBox."
    else:
        about += " torchdistill is not installed: its column is left out."
    return f"{about}\n\n{table(['step', 'ms', *peers], rows)}"


def memory_table(case: Case, compiled: bool) -> str:
    memory.check_peak(case.device)
    rows = []
    for name, forms in make_forms(case, compiled).items():
        if name == "textbook, channels_last":
            continue
        peaks, kept = [], []
        for form in (forms.without, forms.whole):
            form.step()
            form.step()
            form.optimizer.zero_grad(set_to_none=True)
            peaks.append(case.own_bytes + memory.peak(form.step, case.device))
            form.optimizer.zero_grad(set_to_none=True)
            kept.append(memory.saved(form.loss, form.student.parameters()))
        added = sum(kept[1].values()) - sum(kept[0].values())
        new = Counter(kept[1].values()) - Counter(kept[0].values())  # of every size those that came
        rows.append(
            [
                name,
                *(f"{found / MIB:.1f}" for found in peaks),
                f"{100 * (peaks[1] / peaks[0] - 1):.2f}",
                *(f"{sum(found.values()) / MIB:.1f}" for found in kept),
                f"{added / MIB:.2f}",
                f"{added / case.map_bytes:.2f}",
                f"{max(new, default=0) / case.largest_map:.2f}",
            ]
        )
    how = "the allocator's count" if case.device.type == "cuda" else "every allocation that torch's profiler sees"
    about = (
        f"Peak: networks, momentum, batch, and what a step holds at most, by {how}, with the same teacher. Saved: the "
        "storages kept for backward, parameters left out. Maps: float32 of (N, H, W), one a stage, "
        f"{case.map_bytes / MIB:.2f} MiB together; of the storages that the losses add, the largest is given in the "
        "largest of the maps."
    )
    header = ["step", "peak without losses, MiB", "with", "losses add, %"]
    header += ["saved without losses, MiB", "with", "losses add, MiB", "in maps", "largest"]
    return f"{about}\n\n{table(header, rows)}"


def epoch_table(images: int, batch: int, compiled: bool, repeats: int, device: torch.device) -> str:
    torch.compiler.reset()
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8)
    names = tuple(str(i) for i in range(10))
    train = data.InMemoryDataset(
        pixels, torch.randint(10, (images,)), names, "made up", "train", (0.5,) * 3, (0.29,) * 3
    )
    works: dict[str, Callable[[], float]] = {}
    for compile in (False, True) if compiled else (False,):
        kind = "compiled" if compile else "eager"
        for student, teacher in (("wrn-16-1", "wrn-16-2"), ("cifar-resnet164", None)):
            name = f"{student} from {teacher}, fast" if teacher else f"{student} alone"
            works[f"{name}, {kind}"] = epoch(train, batch, student, teacher, compile, device)
    in_turn(list(works.values()), 1)  # warm-up and compilation
    figures = in_turn(list(works.values()), repeats)
    steps = math.ceil(images / batch)
    rows = [
        [name, spread(figure, ".2f"), f"{1000 * statistics.median(figure) / steps:.2f}"]
        for name, figure in zip(works, figures, strict=True)
    ]
    about = (
        f"Epochs of {images:,} random images of 32 pixels, {steps} steps of {batch}, through regard's own batches "
        "(pad-crop and flip) and training loop, with its losses and accuracy kept, without the test after it."
    )
    return f"{about}\n\n{table(['epoch of', 'seconds', 'ms a step'], rows)}"


def epoch(
    train: data.InMemoryDataset, batch: int, student: str, teacher: str | None, compiled: bool, device: torch.device
) -> Callable[[], float]:
    """Seconds of an epoch, one after another."""

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
            "--save_minutes=1e6",  # there is no folder to save to
        ],
    )
    model = network(student)
    guide = transfer.Teacher(network(teacher), precision="auto", fold=True, compile=compiled) if teacher else None
    objective = transfer.Objective(model, guide, beta=BETA, compile=compiled)
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

    def work() -> float:
        loop.step = 0
        loop.meter.rows.zero_()
        took = seconds(lambda: loop.train_epoch(), device)
        loop.epoch += 1
        return took

    return work


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pairs", default=",".join(PAIRS), help="students")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--batch_size", type=int, default=None, help="128 for WRNs; for ResNets 32, 256 on a GPU")
    parser.add_argument("--size", type=int, default=None, help="height and width: 32 for WRNs, 224 for ResNets")
    parser.add_argument("--compiled", choices=["yes", "no"], default="yes", help="the step under torch.compile")
    parser.add_argument("--epoch_images", type=int, default=None, help="50,000 on a GPU; on a processor no epochs")
    options = parser.parse_args()
    device = torch.device(options.device)
    gpu = device.type == "cuda"
    wanted, compiled = options.parts.split(","), options.compiled == "yes"
    torch.backends.cudnn.benchmark = True
    texts = []
    for name in options.pairs.split(","):
        pair = PAIRS[name]
        batch = options.batch_size or (pair.batch_gpu if gpu else pair.batch)
        case = Case(pair, batch, options.size or pair.size, device)
        made = {
            "split": lambda case=case: split_table(case, compiled, options.repeats),
            "peers": lambda case=case: peers_table(case, compiled, options.repeats),
            "memory": lambda case=case: memory_table(case, compiled),
        }
        parts = [made[part]() for part in wanted if part in made]
        if parts:
            texts += [f"### {case.about}", *parts]
    if "epoch" in wanted:
        images = options.epoch_images or (50_000 if gpu else 0)
        if images:
            texts.append(epoch_table(images, options.batch_size or 128, compiled, options.repeats, device))
        else:
            texts.append("Epochs of CIFAR-10's size are left out on a processor (--epoch_images asks for them).")
    texts.insert(
        0, f"Medians of {options.repeats} (smallest to largest), each over steps that fill {LEAST} s, or an epoch."
    )
    publish("Transfer: a step and what it costs", "\n\n".join(texts), device, save=not options.dry)


if __name__ == "__main__":
    main()
