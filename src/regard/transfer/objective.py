"""The objective of a student: the loss to the labels, transfer from teachers, and penalties on gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from regard.errors import InputError, check_interval, unknown
from regard.maps.taps import Reduce, check_power
from regard.notebook import records_html
from regard.transfer.guided_maps import DERIVED_MAPS, Guide, GuidedMaps, make_guide
from regard.transfer.losses import check_classes, make_regressor, task_loss
from regard.transfer.pairing import LayerSpec, Pair, check_extent, feature_shapes, find_pairs
from regard.transfer.schedule import Weight, as_weight, check_range
from regard.transfer.teacher import PairedTeacher, TappedNetwork, Teacher
from regard.transfer.terms import TERMS, Form, ForwardPass, FullActivationForm, GuidanceForm, Outputs, Task


class Losses(NamedTuple):
    """The losses of one step as scalars; only the total is weighted. Terms whose weight is 0 are left out."""

    total: Tensor
    """The weighted sum, to be minimised."""
    logits: Tensor
    """The student's logits (N, K), or (N, 1) of a binary network."""
    terms: dict[str, Tensor]
    """`task`, the loss to the labels, and the terms of `regard.transfer.losses` by name. Terms that compare with a
    teacher are averaged over several teachers."""
    pairs: dict[str, tuple[Tensor, ...]]
    """For terms that compare layers, the loss of each pair; their sum is the term."""

    def to_records(self) -> list[dict[str, Any]]:
        """Dicts with `term`, `pair` and `loss`: the total, each term, and each pair of layers, numbered from 1."""
        losses: dict[tuple[str, int | None], Tensor] = {("total", None): self.total}
        for name, loss in self.terms.items():
            losses[name, None] = loss
            losses |= {(name, i): pair for i, pair in enumerate(self.pairs.get(name, ()), 1)}
        return [{"term": name, "pair": pair, "loss": loss.item()} for (name, pair), loss in losses.items()]

    def _repr_html_(self) -> str:
        return records_html(self.to_records())


class Objective(nn.Module):
    """The loss of a student, a weighted sum of terms::

        (1 - alpha) task + alpha distillation + beta attention + full_activation full_activation
            + gradient gradient + symmetry symmetry + input_gradient input_gradient + guidance guidance

    with beta / 2 instead of beta for form 'paper'. Each weight is a number or a `Weight` that changes over the run.
    Terms whose weight is 0 are not computed.

    As a module it moves to a device together with its teachers, and can be wrapped (`DistributedDataParallel`). Its
    parameters and its state dict are those of `student` and `regressors`, without the teachers.

    Teachers are in evaluation mode and run without gradients by their parameters. Losses are averaged over several
    teachers; the gradient is that of the loss to the teachers' mean soft labels or, for form 'code' and maps of one
    size, to their mean maps.

    Maps and features of different size are pooled to the smaller.

    Args:
        student: the network to train. Networks return logits (N, K), or a dict or tuple that contains them, see
            `regard.logits`; a single output is that of a binary network with classes 0 and 1.
        teacher: the network to learn from, a `Teacher`, or several of these; None to train without a teacher.
        beta: weight of the attention losses; 1e3 in the published code.
        alpha: weight of distillation, in [0, 1].
        temperature: temperature of distillation.
        layers: the layers whose attention and features are compared: a list of names or of stage numbers, from 0 (or
            from -1 backwards), each the same in both networks or a pair (student's, teacher's). None: the stages, in
            order if both networks have the same number, otherwise matched by resolution and depth.
        power: p of the attention maps, at least 1.
        reduce: reduction of the attention maps over the channels, 'mean', 'sum' or 'max'.
        form: form of the attention loss, 'code' or 'paper'; see `attention_loss`.
        full_activation_form: 'fitnets' or 'paper'; see `full_activation_loss`.
        label_smoothing: label smoothing of the task, in [0, 1).
        task: the loss to the labels: 'cross_entropy', or 'binary_cross_entropy', the mean over images and classes.
        image_size: side of the images in pixels, or (h, w). If given, both networks run once on a black image to find
            and check layer pairs, otherwise on the first batch. `full_activation` needs it.
        compile: whether to compile the student with its taps (`torch.compile`); a `Teacher` has its own `compile`. Not
            together with terms on gradients, which need a double backward.
        guidance_form: form of the guidance loss, 'energy', 'l1', 'ppce' or 'rrr'; see `guidance_loss`.
        guidance_maps: the maps to guide: 'cam', 'gradcam', 'input_gradient', 'attention' or 'gate'; see `make_guide`.
        guidance_layers: names of the layers for 'gradcam', 'attention' and 'gate'; None: the last one.
        guidance_detach: for 'cam' and 'gradcam', whether the weights of the channels get no gradient.
        **weights: weights of the other terms, by default 0: `full_activation`, whose 1 x 1 convolutions (`regressors`)
            learn with the student; `gradient`, `symmetry`, `input_gradient` and `guidance`; and further registered
            terms.

    Raises:
        InputError: weights out of range; gradient transfer without a teacher; full activations without `image_size`; a
            teacher on another device. With `image_size`, or on the first batch: layers that do not exist, do not pair
            or have one pixel, different numbers of classes where they are compared, images on which a network does not
            run.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Teacher | Sequence[nn.Module | Teacher] | None,
        beta: float | Weight = 1e3,
        alpha: float | Weight = 0.0,
        temperature: float = 4,
        layers: Sequence[LayerSpec] | None = None,
        *,
        power: float = 2,
        reduce: Reduce = "mean",
        form: Form = "code",
        full_activation_form: FullActivationForm = "fitnets",
        label_smoothing: float = 0.0,
        task: Task = "cross_entropy",
        image_size: int | tuple[int, int] | None = None,
        compile: bool = False,
        guidance_form: GuidanceForm = "energy",
        guidance_maps: GuidedMaps = "cam",
        guidance_layers: Sequence[str] | None = None,
        guidance_detach: bool = False,
        **weights: float | Weight,
    ) -> None:
        super().__init__()
        self.teachers = _as_teachers(teacher, student)
        self.weights = _as_weights({"beta": beta, "alpha": alpha, **weights}, has_teacher=bool(self.teachers))
        check_interval("temperature", temperature, "(0, inf)")
        check_interval("label_smoothing", label_smoothing, "[0, 1)")
        for what, value, known in (
            ("loss to the labels", task, Task),
            ("form of the attention loss", form, Form),
            ("form of the full-activation loss", full_activation_form, FullActivationForm),
            ("form of the guidance loss", guidance_form, GuidanceForm),
            ("kind of maps to guide", guidance_maps, GuidedMaps),
        ):
            if value not in get_args(known):
                raise unknown(what, value, get_args(known))
        check_power(power, reduce)
        self.guidance_form: GuidanceForm = guidance_form
        self._guidance = (guidance_maps, guidance_layers, guidance_detach)
        if compile and self._derives:
            raise InputError(
                "gradient, symmetry, input_gradient, and guidance of maps gradcam or input_gradient need a double "
                "backward, which compiled networks do not have; leave compile out"
            )
        self.student = student
        self.regressors = nn.ModuleList()
        self.temperature = temperature
        self.power = power
        self.reduce: Reduce = reduce
        self.form: Form = form
        self.full_activation_form: FullActivationForm = full_activation_form
        self.label_smoothing = label_smoothing
        self.task: Task = task
        self.layers = layers
        self.compiled = compile
        # Set by _prepare, which needs the size of the images. Teachers are no submodules, because they do not learn.
        self._student: TappedNetwork | None = None
        self._paired_teachers: list[PairedTeacher] = []
        self._guide: Guide | None = None
        if image_size is not None:
            self._prepare((image_size, image_size) if isinstance(image_size, int) else image_size)
        elif "full_activation" in self.weights:
            raise InputError("full_activation creates convolutions, whose shapes depend on the images; give image_size")

    @property
    def pairs(self) -> list[Pair]:
        """The pairs of compared layers, of all teachers; InputError before the first batch without `image_size`."""
        if self._student is None:
            raise InputError("the pairs are not known before the first batch; give image_size= to find them now")
        return [pair for teacher in self._paired_teachers for pair in teacher.pairs]

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        progress: float = 0.0,
        regions: Tensor | None = None,
        guided: Tensor | float | None = None,
    ) -> Losses:
        """The losses on a batch. Under `no_grad`, terms on gradients are computed as well.

        Args:
            images: (N, 3, H, W), normalised for the student.
            labels: (N,), whole numbers in [0, K); or (N, K), the share of each class, for mixed images.
            progress: the fraction of the run that is over, in [0, 1], for weights that change.
            regions: bool (N, H, W), the object in each image, for guidance; all False if it is unknown.
            guided: for a rank's slice of a batch, the share of images with a region in the full batch, in (0, 1], over
                which the guidance loss is averaged. None: the images are the full batch.

        Raises:
            InputError: see `Objective`, `guidance_loss` and `checked_labels`; guidance without regions.
        """
        if images.ndim != 4:
            raise InputError(f"images are {tuple(images.shape)}; expected (N, 3, H, W)")
        student = self._student or self._prepare((images.shape[2], images.shape[3]))
        weights = {name: weight.at(progress) for name, weight in self.weights.items()}
        terms = {name: term for name, term in TERMS.items() if weights.get(term.weight)}
        if "guidance" in terms and regions is None:
            raise InputError("guidance needs the regions of the images, bool (N, H, W); give regions")
        if self._derives and not torch.is_grad_enabled():
            with torch.enable_grad():
                with_graph = self.forward(images, labels, progress, regions, guided)
            return tree_map_only(Tensor, Tensor.detach, with_graph)
        if any(term.derives for term in terms.values()) or (self._guide is not None and self._guide.of_images):
            images = images.detach().requires_grad_()
        # Teachers first: their memory is free again when the student needs it.
        teachers: list[Outputs] = []
        if any(term.teacher for term in terms.values()):
            gradients = any(term.teacher and term.derives for term in terms.values())
            teachers = [teacher.outputs(images, labels, gradients=gradients) for teacher in self._paired_teachers]
        with self._guide or nullcontext():  # also while its weight is 0, because a compiled student keeps its hooks
            outputs = student.outputs(images)
        step = ForwardPass(
            self.student,
            images,
            labels,
            outputs,
            teachers,
            self.form,
            self.full_activation_form,
            self.temperature,
            self._guide,
            self.guidance_form,
            regions,
            guided,
        )
        losses = {"task": task_loss(outputs.logits, labels, self.task, self.label_smoothing)}
        total = losses["task"] * (1 - weights.get("alpha", 0.0))
        pairs = {}
        for name, term in terms.items():
            loss = term.loss(step)
            if isinstance(loss, tuple):
                pairs[name] = loss
                loss = sum(loss[1:], start=loss[0])
            losses[name] = loss
            halved = name == "attention" and self.form == "paper"
            total = total + (weights[term.weight] / 2 if halved else weights[term.weight]) * loss
        if self._guide is not None:
            self._guide.clear()
        return Losses(total, outputs.logits, losses, pairs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts the teachers, too."""
        super()._apply(fn, recurse)
        networks = [teacher.model for teacher in self.teachers] + [
            teacher.network.model for teacher in self._paired_teachers
        ]
        for network in {id(network): network for network in networks}.values():
            network._apply(fn, recurse)
        return self

    @property
    def _derives(self) -> bool:
        derived_maps = "guidance" in self.weights and self._guidance[0] in DERIVED_MAPS
        return derived_maps or any(term.derives for term in TERMS.values() if term.weight in self.weights)

    def _prepare(self, size: tuple[int, int]) -> TappedNetwork:
        """Finds and checks the layers for images of a size (H, W)."""
        teachers = [self._pair(teacher, size) for teacher in self.teachers]
        guide = None
        if "guidance" in self.weights:
            maps, guided_layers, detach = self._guidance
            guide = make_guide(self.student, maps, guided_layers, detach=detach, size=size)
        layers = [pair.student for teacher in teachers for pair in teacher.pairs]
        student = self._network(self.student, layers, compiles=self.compiled)
        # Set only here, so that an error leaves the objective unchanged.
        self._paired_teachers, self._guide, self._student = teachers, guide, student
        self.regressors.extend(regressor for teacher in teachers for regressor in teacher.regressors)
        return student

    def _pair(self, teacher: Teacher, size: tuple[int, int]) -> PairedTeacher:
        pairs: list[Pair] = []
        teacher_size = teacher.size or size
        if self.weights.keys() & {"beta", "full_activation"}:
            pairs = find_pairs(self.student, teacher.model, self.layers, size, teacher_size)
        layers = [pair.teacher for pair in pairs]
        teacher_shapes, teacher_logits = feature_shapes(teacher.model, layers, teacher_size, "teacher")
        student_shapes, student_logits = feature_shapes(self.student, [pair.student for pair in pairs], size, "student")
        classes = student_logits.shape[1], teacher_logits.shape[1]
        if "alpha" in self.weights:
            check_classes(*classes)
        if "gradient" in self.weights and classes[0] != classes[1]:
            raise InputError(
                f"gradient transfer compares losses of the same labels; the student has {classes[0]} classes and the "
                f"teacher {classes[1]} (gradient = 0 leaves it out)"
            )
        if "beta" in self.weights:
            check_extent(student_shapes, "student")
            check_extent(teacher_shapes, "teacher")
        regressors: list[nn.Module] = []
        if "full_activation" in self.weights:
            like = next(self.student.parameters())
            for pair in pairs:
                channels = student_shapes[pair.student][0], teacher_shapes[pair.teacher][0]
                regressors.append(make_regressor(*channels, self.full_activation_form).to(like.device, like.dtype))
        exact = "gradient" in self.weights
        network = self._network(
            teacher.network(list(teacher_shapes), exact=exact),
            layers,
            dtype=None if exact else teacher.dtype(),
            compiles=teacher.compile and not self._derives,
        )
        return PairedTeacher(teacher, network, pairs, regressors)

    def _network(self, model: nn.Module, layers: list[str], **options: Any) -> TappedNetwork:
        reduce: Reduce = "sum" if self.reduce == "mean" else self.reduce  # equal after normalisation, and cheaper
        attention = (self.power, reduce) if "beta" in self.weights else None
        features = "full_activation" in self.weights
        return TappedNetwork(model, list(dict.fromkeys(layers)), attention, features=features, **options)


def _as_weights(values: dict[str, float | Weight], *, has_teacher: bool) -> dict[str, Weight]:
    """The checked weights by name, without those that are 0 throughout or need a teacher that is missing."""
    terms = {term.weight: term for term in TERMS.values()}
    weights = {}
    for name, value in values.items():
        if name not in terms:
            raise unknown("weight of a loss", name, terms)
        weight = as_weight(value)
        check_range(name, weight, 0, 1 if name == "alpha" else torch.inf)
        if not weight.used:
            continue
        if has_teacher or not terms[name].teacher:
            weights[name] = weight
        elif terms[name].derives:  # others are dropped silently, because beta has a default
            raise InputError(
                "gradient transfer needs a teacher, and there is none (symmetry and input_gradient need none)"
            )
    return weights


def _as_teachers(
    teacher: nn.Module | Teacher | Sequence[nn.Module | Teacher] | None, student: nn.Module
) -> tuple[Teacher, ...]:
    """The teachers; raises InputError unless they are on the student's device."""
    if teacher is None:
        return ()
    networks = [teacher] if isinstance(teacher, nn.Module | Teacher | str) else list(teacher)
    if not networks:
        raise InputError("the list of teachers is empty; give at least one, or None to train without a teacher")
    for network in networks:
        if not isinstance(network, nn.Module | Teacher):
            raise InputError(f"a teacher is a network or a Teacher, not {network!r:.40}; load or create it first")
    teachers = tuple(network if isinstance(network, Teacher) else Teacher(network) for network in networks)
    device = next((parameter.device for parameter in student.parameters()), teachers[0].device)
    for teacher in teachers:
        if teacher.device != device:
            raise InputError(
                f"the student is on {device} and a teacher on {teacher.device}; move both to one device "
                f"(teacher.to({str(device)!r}))"
            )
    return teachers
