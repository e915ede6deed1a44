"""The objective of a student: the loss to the labels, what it learns from teachers, and penalties on its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

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
    """The losses of one step, scalars without their weights but for the total.

    A term whose weight is 0 at this step is not there.
    """

    total: Tensor
    """The weighted sum, to be minimised."""
    logits: Tensor
    """The student's, (N, K), or (N, 1) of a binary network."""
    terms: dict[str, Tensor]
    """`task`, the loss to the labels, and the terms of `regard.transfer.losses` by name. With several teachers, those
    that compare with a teacher are the mean over them."""
    pairs: dict[str, tuple[Tensor, ...]]
    """For terms that compare layers, the loss of each pair; their sum is the term."""

    def to_records(self) -> list[dict[str, Any]]:
        """A dict with `term` and `loss` for the total, for each term, and, with its number from 1 as `pair`, for each
        pair of layers."""
        losses: dict[tuple[str, int | None], Tensor] = {("total", None): self.total}
        for name, loss in self.terms.items():
            losses[name, None] = loss
            losses |= {(name, i): one for i, one in enumerate(self.pairs.get(name, ()), 1)}
        return [{"term": name, "pair": pair, "loss": loss.item()} for (name, pair), loss in losses.items()]

    def _repr_html_(self) -> str:
        return records_html(self.to_records())


class Objective(nn.Module):
    """The loss of a student, a sum of terms with their weights::

        (1 - alpha) task + alpha distillation + beta attention + full_activation full_activation
            + gradient gradient + symmetry symmetry + input_gradient input_gradient + guidance guidance

    with beta / 2 instead of beta for form 'paper'. Every weight is a number or a `Weight` that changes over the run. A
    term whose weight is 0 is not computed.

    A module: it moves to a device with its teachers, and can be wrapped as a whole (`DistributedDataParallel`). Its
    parameters and its state dict are those that learn, of `student` and `regressors`, without the teachers.

    Teachers are in evaluation mode and run without gradients (of their parameters; gradient transfer needs those of the
    images). From several, the mean of the losses is taken. Its gradient is that of the loss to the mean of their soft
    labels or, in form 'code' and for maps of one size, to the mean of their maps.

    Maps and features of different size are pooled to the smaller.

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
        full_activation_form: 'fitnets' or 'paper'; see `full_activation_loss`.
        label_smoothing: of the task, in [0, 1).
        task: the loss to the labels: 'cross_entropy', or 'binary_cross_entropy', the mean over images and classes of
            the loss of each class for itself.
        image_size: side of the images in pixels, or (h, w). Given, both networks run once on a black image now, so that
            layer pairs are known and checked; otherwise with the first batch. `full_activation` needs it.
        compile: compile the student with its taps (`torch.compile`); a `Teacher` has its own `compile`. Not possible
            together with the terms on gradients, which need a double backward.
        guidance_form: of the guidance loss: 'energy', 'l1', 'ppce' or 'rrr'; see `guidance_loss`.
        guidance_maps: what is guided to the regions: 'cam', class activation maps of the label where the network pools;
            'gradcam', of any layer; 'input_gradient'; 'attention', attention maps; or 'gate', the spatial gates of
            attention modules. See `make_guide`.
        guidance_layers: names of the layers of 'gradcam', 'attention' and 'gate'; None for the last.
        guidance_detach: of 'cam' and 'gradcam', no gradient to the weights of the channels.
        **weights: of the other terms, 0 if not given: `full_activation`, whose 1 x 1 convolutions (`regressors`) learn
            with the student; `gradient`, `symmetry`, `input_gradient` and `guidance`; and terms that are registered
            besides.

    Raises:
        InputError: weights out of range; gradient transfer without a teacher; full activations without `image_size`; a
            teacher on another device. With `image_size` (otherwise with the first batch): layers that do not exist, do
            not pair or have one pixel only, class counts that differ where the classes are compared, images on which a
            network does not run.
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
        self.weights = _as_weights({"beta": beta, "alpha": alpha, **weights}, alone=not self.teachers)
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
        self._guided = (guidance_maps, guidance_layers, guidance_detach)
        if compile and self._derives:
            raise InputError(
                "gradient, symmetry, input_gradient, and guidance of maps gradcam or input_gradient: compiled networks "
                "have no double backward; leave compile out"
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
        # Both are known with the size of the images. Teachers do not learn, and so are no submodules.
        self._student: TappedNetwork | None = None
        self._paired_teachers: list[PairedTeacher] = []
        self._guide: Guide | None = None
        if image_size is not None:
            self._prepare((image_size, image_size) if isinstance(image_size, int) else image_size)
        elif "full_activation" in self.weights:
            raise InputError("full_activation makes convolutions for the features of both networks; give image_size")

    @property
    def pairs(self) -> list[Pair]:
        """The layers that are compared, of all teachers.

        Raises:
            InputError: they are not known before the first batch, unless `image_size` was given.
        """
        if self._student is None:
            raise InputError("the pairs are not known before the first batch; give image_size= to have them now")
        return [pair for teacher in self._paired_teachers for pair in teacher.pairs]

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        progress: float = 0.0,
        regions: Tensor | None = None,
        guided: Tensor | float | None = None,
    ) -> Losses:
        """The losses on a batch.

        Args:
            images: (N, 3, H, W), normalised as the student knows them.
            labels: (N,), whole numbers in [0, K); or (N, K), the proportion of each class, as mixed images have.
            progress: the fraction of the run that is over, in [0, 1], for weights that change.
            regions: bool (N, H, W), the object in each image, for guidance; all False in an image whose region is not
                known.
            guided: where these images are a part of a batch, the share of the images of the whole batch that have a
                region, in (0, 1]: the guidance loss is the mean over those. None: they are the batch.

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
        if any(term.derives for term in terms.values()) or (self._guide is not None and self._guide.of_images):
            images = images.detach().requires_grad_()
        # Teachers first: their memory is free again when the student fills it.
        teachers: list[Outputs] = []
        if any(term.teacher for term in terms.values()):
            gradients = any(term.teacher and term.derives for term in terms.values())
            teachers = [teacher.outputs(images, labels, gradients=gradients) for teacher in self._paired_teachers]
        with self._guide or nullcontext():  # also while its weight is 0: a compiled student keeps its hooks
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
            half = name == "attention" and self.form == "paper"
            total = total + (weights[term.weight] / 2 if half else weights[term.weight]) * loss
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
        guides = "guidance" in self.weights and self._guided[0] in DERIVED_MAPS
        return guides or any(term.derives for term in TERMS.values() if term.weight in self.weights)

    def _prepare(self, size: tuple[int, int]) -> TappedNetwork:
        """Finds and checks the layers, once the size of the images is known."""
        paired = [self._paired(teacher, size) for teacher in self.teachers]
        guide = None
        if "guidance" in self.weights:
            maps, guided_layers, detach = self._guided
            guide = make_guide(self.student, maps, guided_layers, detach=detach, size=size)
        layers = [pair.student for teacher in paired for pair in teacher.pairs]
        student = self._network(self.student, layers, compiles=self.compiled)
        # Only now, so that an error leaves nothing half prepared.
        self._paired_teachers, self._guide, self._student = paired, guide, student
        self.regressors.extend(regressor for teacher in paired for regressor in teacher.regressors)
        return student

    def _paired(self, teacher: Teacher, size: tuple[int, int]) -> PairedTeacher:
        """The teacher as it runs in a step, paired with the student."""
        pairs: list[Pair] = []
        teacher_size = teacher.size or size
        if self.weights.keys() & {"beta", "full_activation"}:
            pairs = find_pairs(self.student, teacher.model, self.layers, size, teacher_size)
        layers = [pair.teacher for pair in pairs]
        theirs, teacher_logits = feature_shapes(teacher.model, layers, teacher_size, "teacher")
        ours, student_logits = feature_shapes(self.student, [pair.student for pair in pairs], size, "student")
        classes = student_logits.shape[1], teacher_logits.shape[1]
        if "alpha" in self.weights:
            check_classes(*classes)
        if "gradient" in self.weights and classes[0] != classes[1]:
            raise InputError(
                f"gradient transfer compares losses of the same labels; the student has {classes[0]} classes and the "
                f"teacher {classes[1]} (gradient = 0 leaves it out)"
            )
        if "beta" in self.weights:
            check_extent(ours, "student")
            check_extent(theirs, "teacher")
        regressors: list[nn.Module] = []
        if "full_activation" in self.weights:
            like = next(self.student.parameters())
            for pair in pairs:
                regressor = make_regressor(ours[pair.student][0], theirs[pair.teacher][0], self.full_activation_form)
                regressors.append(regressor.to(like.device, like.dtype))
        exact = "gradient" in self.weights
        network = self._network(
            teacher.network(list(theirs), exact=exact),
            layers,
            dtype=None if exact else teacher.dtype(),
            compiles=teacher.compile and not self._derives,
        )
        return PairedTeacher(teacher, network, pairs, regressors)

    def _network(self, model: nn.Module, layers: list[str], **options: Any) -> TappedNetwork:
        reduce: Reduce = "sum" if self.reduce == "mean" else self.reduce  # the same once normalised, and less to do
        attention = (self.power, reduce) if "beta" in self.weights else None
        features = "full_activation" in self.weights
        return TappedNetwork(model, list(dict.fromkeys(layers)), attention, features=features, **options)


def _as_weights(given: dict[str, float | Weight], *, alone: bool) -> dict[str, Weight]:
    """The weights that are ever other than 0, by name.

    Raises:
        InputError: there is no such term, a weight out of range, gradient transfer without a teacher.
    """
    terms = {term.weight: term for term in TERMS.values()}
    weights = {}
    for name, value in given.items():
        if name not in terms:
            raise unknown("weight of a loss", name, terms)
        weight = as_weight(value)
        check_range(name, weight, 0, 1 if name == "alpha" else torch.inf)
        if not weight.used:
            continue
        if not alone or not terms[name].teacher:
            weights[name] = weight
        elif terms[name].derives:  # beta has a default, so it does not ask for a teacher
            raise InputError(
                "gradient transfer needs a teacher, and there is none (symmetry and input_gradient do not)"
            )
    return weights


def _as_teachers(
    given: nn.Module | Teacher | Sequence[nn.Module | Teacher] | None, student: nn.Module
) -> tuple[Teacher, ...]:
    """The teachers, which have to be on the student's device."""
    if given is None:
        return ()
    several = [given] if isinstance(given, nn.Module | Teacher | str) else list(given)
    if not several:
        raise InputError("the list of teachers is empty; give at least one, or None for a student that learns alone")
    for one in several:
        if not isinstance(one, nn.Module | Teacher):
            raise InputError(f"a teacher is a network or a Teacher, not {one!r:.40}; load or create it first")
    teachers = tuple(one if isinstance(one, Teacher) else Teacher(one) for one in several)
    device = next((parameter.device for parameter in student.parameters()), teachers[0].device)
    for teacher in teachers:
        if teacher.device != device:
            raise InputError(
                f"the student is on {device} and a teacher on {teacher.device}; bring both to one "
                f"(teacher.to({str(device)!r}))"
            )
    return teachers
