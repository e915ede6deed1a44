"""What a student is trained for: its task, what it takes over from its teachers, and what is asked of its gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import FunctionType
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import InputError, unknown
from regard.logits import class_logits, logits_of
from regard.maps import MapTaps, Taps
from regard.maps.activation import check_power
from regard.modes import of_its_dtype
from regard.transfer.activation import regressor
from regard.transfer.attention import Form, Reduce
from regard.transfer.distillation import check_classes
from regard.transfer.gradient import input_gradients
from regard.transfer.labels import checked_labels
from regard.transfer.losses import TERMS, ForwardPass, Outputs, Taught
from regard.transfer.pairing import Asked, Pair, check_places, feature_shapes, find_pairs
from regard.transfer.teacher import Teacher, frozen
from regard.transfer.weight import Weight, as_weight, check_range

Task = Literal["cross_entropy", "binary_cross_entropy"]

_COUNTER = itertools.count()
_IN_PLACE = "is being modified inplace"  # what torch says of a layer that changes what a tap gave back


class Losses(NamedTuple):
    """The losses of one step, scalars without their weights but for the total.

    A term whose weight is 0 at this step is not there.
    """

    total: Tensor
    """What is trained for, with the weights."""
    logits: Tensor
    """The student's, (N, K), or (N, 1) of a binary network."""
    terms: dict[str, Tensor]
    """`task`, the loss to the labels, and the terms of `regard.transfer.losses` by name. With several teachers, what is
    taken over is the mean over them."""
    pairs: dict[str, tuple[Tensor, ...]]
    """Of terms that compare layers, the loss of each pair; their sum is the term."""


class _Watched:
    """A network, and what is read of it in a forward."""

    def __init__(
        self,
        model: nn.Module,
        of_maps: Sequence[str],
        of_features: Sequence[str],
        power: float,
        reduce: Reduce,
        *,
        compile: bool,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.taps = [MapTaps(model, list(of_maps), power=power, reduce=reduce)] if of_maps else []
        self.feature_taps = [Taps(model, list(of_features))] if of_features else []
        self.dtype = dtype
        self.forward: Callable[[Tensor], Tensor] = _compiled(model) if compile else model

    def __call__(self, images: Tensor) -> Outputs:
        seen = of_its_dtype(self.model, images) if self.dtype is None else images
        with ExitStack() as stack:
            for taps in (*self.taps, *self.feature_taps):
                stack.enter_context(taps)
            if self.dtype is not None:
                stack.enter_context(torch.autocast(images.device.type, self.dtype))
            try:
                logits = logits_of(self.forward(seen))
            except RuntimeError as error:
                if _IN_PLACE not in str(error):
                    raise
                raise InputError(
                    "a layer whose attention is read is changed in place by the next, as by a ReLU(inplace=True); read "
                    f"the layer that changes it, or make that one not in-place (read are {', '.join(self.read)})"
                ) from error
            maps = {name: made for taps in self.taps for name, made in taps.maps.items()}
            features = {name: given for taps in self.feature_taps for name, given in taps.features.items()}
        for taps in (*self.taps, *self.feature_taps):
            taps.clear()  # or the graph of this step would be held until the next
        if self.dtype is not None:
            logits = logits.float()
        elif seen is not images:
            logits = logits.to(images.dtype)
        return Outputs(logits, maps, features)

    @property
    def read(self) -> list[str]:
        """The layers that are read."""
        return list(dict.fromkeys(name for taps in (*self.taps, *self.feature_taps) for name in taps.layers))


def _compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model compiled, with the taps that come and go around it."""

    def forward(images: Tensor) -> Tensor:
        return model(images)

    # What is compiled is kept with the code of the function, and does not ask whether taps are there. So this one has
    # code of its own, whose taps are always the same.
    code = forward.__code__.replace(co_name=f"forward_{next(_COUNTER)}")
    own = FunctionType(code, forward.__globals__, code.co_name, None, forward.__closure__)
    return torch.compile(own)


class _Lesson(NamedTuple):
    """What is learned from one teacher."""

    teacher: Teacher
    watched: _Watched
    pairs: list[Pair]
    regressors: Sequence[nn.Module]
    """One a pair, if features are compared."""


class Objective:
    """The loss of a student, a sum of terms (see `regard.transfer.losses`) with their weights:

        (1 - alpha) task + alpha distillation + beta attention + full_activation full_activation
            + gradient gradient + symmetry symmetry + input_gradient input_gradient

    with beta / 2 in place of beta for form 'paper'. Every weight is a number or a `Weight` that changes over the run. A
    term whose weight is 0 is not computed.

    Teachers are in evaluation mode and run without gradients (of their parameters; gradient transfer needs those of the
    images). From several, the mean of the losses is taken. Its gradient is that of the loss to the mean of their soft
    labels or, in form 'code' and for maps of one size, to the mean of their maps.

    Layers are paired by name or number, or found; see `pairs`. Maps and features of different size are pooled to the
    smaller.

    Args:
        student: the network to train. Networks give logits (N, K), or a dict or tuple that holds them, see
            `regard.logits`; one output is a binary network's, for classes 0 and 1.
        teacher: the network to learn from, a `Teacher`, or several of these; None for a student that learns alone.
        beta: weight of the attention losses (the published code's 1e3).
        alpha: weight of distillation, in [0, 1].
        temperature: of distillation.
        layers: where attention and features are compared: a list of layers, by name or by number of the stage from 0
            (or from -1 backwards), each the same in both or a pair (student's, teacher's). None: the stages, in order
            if both networks have as many, otherwise matched by resolution and depth.
        power: p of the attention maps, at least 1.
        reduce: of the attention maps over the channels: 'mean', 'sum' or 'max'.
        form: of the attention loss, 'code' or 'paper'; see `attention_loss`.
        label_smoothing: of the task, in [0, 1).
        task: the loss to the labels: 'cross_entropy', or 'binary_cross_entropy', the mean over images and classes of
            the loss of each class for itself.
        image_size: side of the images in pixels, or (h, w). Given, both networks run once on a black image now, so that
            layers are found and checked; otherwise that happens with the first batch.
        compile: compile the student with what is read of it (`torch.compile`); teachers say so themselves. Not possible
            together with the three terms on gradients, which derive twice.
        **weights: of the other terms, 0 if not given: `full_activation`, whose 1 x 1 convolutions learn with the
            student (give the optimizer `parameters()` as well); `gradient`, `symmetry` and `input_gradient`, see
            `regard.transfer.gradient`; and terms that are registered besides.

    Raises:
        InputError: weights out of range; gradient transfer without a teacher; a teacher on another device. With
            `image_size` (otherwise with the first batch): layers that do not exist, do not pair or have one place only,
            class counts that differ where the classes are compared, images on which a network does not run.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher | Sequence[nn.Module | Teacher] | None,
        beta: float | Weight = 1e3,
        alpha: float | Weight = 0.0,
        temperature: float = 4,
        layers: Sequence[Asked] | None = None,
        *,
        power: float = 2,
        reduce: Reduce = "mean",
        form: Form = "code",
        label_smoothing: float = 0.0,
        task: Task = "cross_entropy",
        image_size: int | tuple[int, int] | None = None,
        compile: bool = False,
        **weights: float | Weight,
    ) -> None:
        self.teachers = _teachers(teacher)
        self.weights = _weights({"beta": beta, "alpha": alpha, **weights}, alone=not self.teachers)
        if temperature <= 0:
            raise InputError(f"the temperature of distillation is positive, not {temperature}")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label smoothing lies in [0, 1); it is {label_smoothing}")
        if task not in get_args(Task):
            raise unknown("loss to the labels", task, get_args(Task))
        if form not in get_args(Form):
            raise unknown("form of the attention loss", form, get_args(Form))
        check_power(power, reduce)
        derive = [term.weight for term in TERMS.values() if term.derives]
        self._derives = any(self.weights[name].used for name in derive)
        if compile and self._derives:
            raise InputError(
                f"{', '.join(derive)}: these derive twice, which compiled networks cannot; leave compile out"
            )
        self.student = student
        for one in self.teachers:
            _check_device(student, one)
        self.temperature = temperature
        self.power = power
        self.reduce: Reduce = reduce
        self.form: Form = form
        self.label_smoothing = label_smoothing
        self.task: Task = task
        self.layers = layers
        self.regressors = nn.ModuleList()
        self.compile = compile
        self._pupil: _Watched | None = None
        self._lessons: list[_Lesson] = []
        if image_size is not None:
            self._prepare((image_size, image_size) if isinstance(image_size, int) else image_size)

    @property
    def teacher(self) -> nn.Module | None:
        """The network to learn from, of several the first."""
        return self.teachers[0].model if self.teachers else None

    @property
    def pairs(self) -> list[Pair]:
        """The layers that are compared, of all teachers.

        Raises:
            InputError: they are not known before the first batch, unless `image_size` was given.
        """
        self._check_prepared("pairs are")
        return [pair for lesson in self._lessons for pair in lesson.pairs]

    def parameters(self) -> Iterator[nn.Parameter]:
        """What learns besides the student: the 1 x 1 convolutions of full-activation transfer.

        Raises:
            InputError: there will be some, not known before the first batch, unless `image_size` was given.
        """
        if self.weights["full_activation"].used:
            self._check_prepared("convolutions of full-activation transfer are")
        return self.regressors.parameters()

    def __call__(self, images: Tensor, labels: Tensor, progress: float = 0.0) -> Losses:
        """The losses on a batch.

        Args:
            images: (N, 3, H, W), normalised as the student knows them.
            labels: (N,), whole numbers in [0, K); or (N, K), the share of each class, as mixed images have.
            progress: the share of the run that is over, in [0, 1], for weights that change.

        Raises:
            InputError: see `Objective` and `checked_labels`.
        """
        pupil = self._pupil or self._prepare((images.shape[2], images.shape[3]))
        weights = {name: weight.at(progress) for name, weight in self.weights.items()}
        used = {name: term for name, term in TERMS.items() if weights[term.weight]}
        if any(term.derives for term in used.values()):
            images = images.detach().requires_grad_()
        # Teachers first: what they need is free again when the student fills the memory.
        lessons = self._lessons if any(term.teacher for term in used.values()) else []
        gradients = any(term.teacher and term.derives for term in used.values())
        taught = [self._teach(lesson, images, labels, gradients=gradients) for lesson in lessons]
        step = ForwardPass(self.student, images, labels, pupil(images), taught, self.form, self.temperature)

        task = task_loss(step.outputs.logits, labels, self.task, self.label_smoothing)
        total = (1 - weights["alpha"]) * task if weights["alpha"] else task
        terms, pairs = {"task": task}, {}
        for name, term in used.items():
            loss = term.loss(step)
            if isinstance(loss, tuple):
                pairs[name] = loss
                loss = sum(loss[1:], start=loss[0])
            terms[name] = loss
            half = name == "attention" and self.form == "paper"
            total = total + (weights[term.weight] / 2 if half else weights[term.weight]) * loss
        return Losses(total, step.outputs.logits, terms, pairs)

    def _teach(self, lesson: _Lesson, images: Tensor, labels: Tensor, *, gradients: bool) -> Taught:
        """What a teacher gives, without a graph."""
        teacher, watched = lesson.teacher, lesson.watched
        if not gradients:
            with torch.no_grad():
                return Taught(watched(teacher.seen(images)), lesson.pairs, lesson.regressors)
        with torch.enable_grad(), frozen(watched.model):
            own = images.detach().requires_grad_()
            outputs = watched(teacher.seen(own))
            found = input_gradients(outputs.logits, labels, own, create_graph=False)
        maps, features = (
            {name: value.detach() for name, value in part.items()} for part in (outputs.maps, outputs.features)
        )
        return Taught(Outputs(outputs.logits.detach(), maps, features, found), lesson.pairs, lesson.regressors)

    def _prepare(self, size: tuple[int, int]) -> _Watched:
        """Finds and checks the layers, once the size of the images is known."""
        lessons = [self._lesson(teacher, size) for teacher in self.teachers]
        for lesson in lessons:  # only now, so that an error leaves nothing half prepared
            self.regressors.extend(lesson.regressors)
        self._lessons = lessons
        own = list(dict.fromkeys(pair.student for lesson in lessons for pair in lesson.pairs))
        self._pupil = self._watched(self.student, own, compile=self.compile)
        return self._pupil

    def _lesson(self, teacher: Teacher, size: tuple[int, int]) -> _Lesson:
        compares = self.weights["beta"].used or self.weights["full_activation"].used
        seen = teacher.size or size
        pairs = find_pairs(self.student, teacher.model, self.layers, size, seen) if compares else []
        of_teacher, there = feature_shapes(teacher.model, [pair.teacher for pair in pairs], seen, "teacher")
        of_student, here = feature_shapes(self.student, [pair.student for pair in pairs], size, "student")
        self._check_classes(here.shape[1], there.shape[1])
        if self.weights["beta"].used:
            check_places(pairs, of_student, of_teacher)
        regressors: list[nn.Module] = []
        if self.weights["full_activation"].used:
            like = next(self.student.parameters())
            regressors = [
                regressor(of_student[pair.student][0], of_teacher[pair.teacher][0]).to(like.device, like.dtype)
                for pair in pairs
            ]
        names = list(dict.fromkeys(pair.teacher for pair in pairs))
        exact = self.weights["gradient"].used
        watched = self._watched(
            teacher.network(names, exact=exact),
            names,
            compile=teacher.compile and not self._derives,
            dtype=None if exact else teacher.dtype(),
        )
        return _Lesson(teacher, watched, pairs, regressors)

    def _watched(
        self, model: nn.Module, layers: list[str], *, compile: bool, dtype: torch.dtype | None = None
    ) -> _Watched:
        of_maps = layers if self.weights["beta"].used else []
        of_features = layers if self.weights["full_activation"].used else []
        reduce: Reduce = "sum" if self.reduce == "mean" else self.reduce  # the same once normalised, and less to do
        return _Watched(model, of_maps, of_features, self.power, reduce, compile=compile, dtype=dtype)

    def _check_classes(self, own: int, taught: int) -> None:
        if self.weights["alpha"].used:
            check_classes(own, taught)
        if self.weights["gradient"].used and own != taught:
            raise InputError(
                f"gradient transfer compares losses of the same labels; the student has {own} classes and the teacher "
                f"{taught} (gradient = 0 leaves it out)"
            )

    def _check_prepared(self, what: str) -> None:
        if self._pupil is None:
            raise InputError(f"the {what} not known before the first batch; give image_size= to have them now")


def _weights(given: dict[str, float | Weight], *, alone: bool) -> dict[str, Weight]:
    """The weights of all terms by name.

    Raises:
        InputError: there is no such term, a weight out of range, gradient transfer without a teacher.
    """
    needed = {term.weight: term for term in TERMS.values()}
    for name in given.keys() - needed.keys():
        raise unknown("weight of a loss", name, needed)
    weights = {}
    for name, term in needed.items():
        weight = as_weight(given.get(name, 0.0))
        check_range(name, weight, 0, 1 if name == "alpha" else torch.inf)
        if alone and term.teacher:  # beta has a default, so it does not ask for a teacher
            if term.derives and weight.used:
                raise InputError(
                    "gradient transfer needs a teacher, and there is none (symmetry and input_gradient do not)"
                )
            weight = as_weight(0.0)
        weights[name] = weight
    return weights


def _teachers(given: nn.Module | Teacher | Sequence[nn.Module | Teacher] | None) -> tuple[Teacher, ...]:
    if given is None:
        return ()
    several = [given] if isinstance(given, nn.Module | Teacher) else list(given)
    if not several:
        raise InputError("the list of teachers is empty; give at least one, or None for a student that learns alone")
    return tuple(one if isinstance(one, Teacher) else Teacher(one) for one in several)


def _check_device(student: nn.Module, teacher: Teacher) -> None:
    here = next((parameter.device for parameter in student.parameters()), teacher.device)
    if here != teacher.device:
        raise InputError(
            f"the student is on {here} and a teacher on {teacher.device}; bring both to one (teacher.to({str(here)!r}))"
        )


def task_loss(logits: Tensor, labels: Tensor, task: Task, label_smoothing: float) -> Tensor:
    """The loss to the labels; see `Objective`. Of one output both tasks are its binary cross entropy."""
    labels = checked_labels(labels, logits)
    if task == "cross_entropy" or logits.shape[1] == 1:
        return F.cross_entropy(class_logits(logits), labels, label_smoothing=label_smoothing)
    classes = logits.shape[1]
    shares = F.one_hot(labels, classes).to(logits.dtype) if labels.ndim == 1 else labels
    shares = shares * (1 - label_smoothing) + label_smoothing / classes
    return F.binary_cross_entropy_with_logits(logits, shares)
