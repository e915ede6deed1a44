"""Recipes: everything that decides the outcome of a training run, as typed fields with defaults.

A recipe file is YAML with the fields that differ from the defaults; command-line options override any field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from regard import detection
from regard.data import Augmentation, all_options
from regard.errors import InputError, check_fields, unknown
from regard.files import atomic_write
from regard.models.create import reject_attention_options
from regard.transfer import DERIVED_MAPS, TERMS, Weight, as_weight, check_range

WeightValue = float | dict[str, Any]
"""A number, or the fields of a `transfer.Weight`."""

WHERE = (
    *("source", "device", "threads", "trackers", "save_minutes", "wait_minutes"),
    *("data.folder", "data.download", "data.workers"),
)
"""Fields that do not affect the result of a run; they may change when it is resumed."""


@dataclass
class DataRecipe:
    """Data set to use.

    Args:
        name: data set to use. In memory: clutter (built in), composites (objects of a data set with masks, pasted onto
            photographs), cifar10, cifar100, stl10, cub (CUB-200-2011), scenes (MIT indoor 67), folder (train/ and test/
            with one folder per class). Streamed from disk, of any size: files (such folders, also ImageNet's), wds
            (WebDataset shards), hfds (Hugging Face data sets), coco, imagenet, masks, pets, voc.
        folder: folder of the data, and of downloads; for wds also an address.
        download: download the data set if the folder does not have it (cifar10, cifar100, stl10, hfds).
        size: side of the images in pixels. Data sets in memory: the images are resized by their shorter side and
            centre-cropped; needed for cub, scenes, and folders whose images differ in size. Streamed data sets: side of
            the training images, 224 by default. Detectors: shorter side, 800 by default; the longer side is at most 5/3
            of it.
        crop_pct: side of the centre crop of test images, as a fraction of the resized image's shorter side (streamed
            data sets).
        interpolation: interpolation for resizing test images: bilinear, bicubic, … (streamed data sets).
        unreadable: what to do with an image file that cannot be read: stop with an error, or skip and count it.
        workers: number of DataLoader workers per process (streamed data sets).
        train_images: number of training images to use, the same for every seed and mixed over the classes; all by
            default.
        mean: mean per channel, in [0, 1], to subtract from images; by default the mean of the training images, or of a
            detector's backbone.
        std: standard deviation per channel, to divide images by; by default that of the training images, or of a
            detector's backbone.
        options: options of the data set, such as {cue: 0.9} of clutter, crop of cub (box or none), or train and test of
            wds (names of shards).
    """

    name: str = "clutter"
    folder: str | None = None
    download: bool = False
    size: Annotated[int | None, "[1, 16384]"] = None
    crop_pct: Annotated[float, "(0, 1]"] = 0.875
    interpolation: str = "bilinear"
    unreadable: Literal["error", "skip"] = "error"
    workers: Annotated[int, "[0, 1024]"] = 4
    train_images: Annotated[int | None, "[1, 2^40]"] = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ModelRecipe:
    """The network to train.

    Args:
        name: cifar-resnet<depth> or cifar-resnet<depth>x<width>, wrn-<depth>-<width>, nin-wide, nin-thin,
            resnet<depth>-cifar, vgg<depth>-cifar, mobilenetv2-cifar, shufflenetv1-cifar, shufflenetv2-cifar, any name
            of timm, or torchvision/NAME.
        attention: attention module at the end of every residual branch; none by default.
        gate: gate of the attention module: sigmoid, sub-attention (the published LSAS) or sub-attention-K for order K.
        attention_stages: stages that get attention, counted from 1; all by default.
        attention_options: options of the attention module, such as {groups: 16} of shuffle.
        attention_start: initialisation of the attention: published, as its authors have it, or identity, which does not
            change the network's output at first; by default identity with pretrained weights, and published without.
        pretrained: weights to start from: true for the published weights of timm or torchvision; or a run folder or its
            address, an imported .safetensors file, a name of timm, or NAME=CHECKPOINT, which also give the network and
            its attention. A classifier with another number of classes is newly initialised. A detector takes its
            backbone from a run folder or an imported file.
        options: options of the network, for example block of cifar-resnet.
        frozen: layers to freeze, for example [conv1, bn1, layer1]: their parameters are not trained, and their batch
            norms keep their statistics.
        fixed_norms: keep the statistics and parameters of all batch norms.
        detector: detector to train, with the network as its backbone: faster-rcnn, mask-rcnn, cascade-rcnn,
            cascade-mask-rcnn, retinanet or fcos; a classifier by default.
        detector_options: options of the detector: norm and frozen_stages of its backbone, and others of
            detection.create, for example box_detections_per_img.
    """

    name: str = "wrn-16-1"
    attention: str | None = None
    gate: str = "sigmoid"
    attention_stages: list[int] | None = None
    attention_options: dict[str, Any] = field(default_factory=dict)
    attention_start: Literal["published", "identity"] | None = None
    pretrained: bool | str = False
    options: dict[str, Any] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    fixed_norms: bool = False
    detector: str | None = None
    detector_options: dict[str, Any] = field(default_factory=dict)


@dataclass
class OptimizerRecipe:
    """The optimizer.

    Args:
        name: optimizer to use: sgd, adamw, or any of timm (lamb, lion, muon, …).
        lr: highest learning rate of the schedule.
        momentum: momentum of sgd and other optimizers that have one.
        nesterov: use Nesterov momentum in sgd.
        weight_decay: factor of the weight decay in each step.
        decay: parameters that decay: all, or only the weights of convolutions and matrices.
        clip: maximum norm of the gradient over all parameters; larger gradients are scaled down to it. Not clipped by
            default.
        options: further arguments of the optimizer, for example betas of adamw.
    """

    name: str = "sgd"
    lr: Annotated[float, "(0, 10^9]"] = 0.1
    momentum: Annotated[float, "[0, 1)"] = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, "[0, 10^9]"] = 5e-4
    decay: Literal["all", "weights"] = "all"
    clip: Annotated[float | None, "(0, inf)"] = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ScheduleRecipe:
    """Epochs, batches and the learning rate over time.

    Args:
        epochs: number of passes over the training images.
        batch_size: number of images per step, over all processes.
        accumulate: number of micro-batches into which each process splits its images of a step, to save memory
            (gradient accumulation); each has at least two images.
        shape: how the learning rate falls: by factor at the milestones, or along a half cosine or a line to floor.
        milestones: epochs at whose start the learning rate falls.
        factor: factor by which the learning rate is multiplied at a milestone.
        floor: fraction of the learning rate that is left at the end of a cosine or a line.
        warmup: number of epochs, whole or not, in which the learning rate first rises from zero.
        reset_momentum: reset the momentum to zero at every milestone.
    """

    epochs: Annotated[int, "[1, 10^6]"] = 200
    batch_size: Annotated[int, "[1, 2^24]"] = 128
    accumulate: Annotated[int, "[1, 2^24]"] = 1
    shape: Literal["milestones", "cosine", "linear"] = "milestones"
    milestones: list[int] = field(default_factory=lambda: [60, 120, 160])
    factor: Annotated[float, "(0, 10^9]"] = 0.2
    floor: Annotated[float, "[0, 1]"] = 0.0
    warmup: Annotated[float, "[0, 10^6]"] = 0.0
    reset_momentum: bool = False


@dataclass
class TransferRecipe:
    """Losses that compare the network with a teacher, and losses on its own input gradients.

    A weight is a number, or changes over the run: {start: 1000, end: 0, shape: linear}. Shapes are constant, linear and
    cosine (with begin and until, fractions of the run), and step (with milestones, also fractions, and factor).

    Args:
        teacher: network to learn from: a run folder or its address (s3://bucket/runs/NAME), an imported .safetensors
            file, a name of timm or torchvision/NAME with pretrained weights, or NAME=CHECKPOINT; or several, whose
            losses are averaged; none by default.
        weights: which weights of a teacher's run to use: those of the last epoch, or those that tested best.
        beta: weight of the attention losses.
        alpha: weight of distillation, 0 to 1.
        temperature: temperature of distillation, by which logits are divided.
        layers: layers whose attention is compared: pairs of a layer of the student and one of the teacher, each by name
            or by number of the stage (from 0, or from -1 backwards); by default the stages, in order or by depth and
            resolution.
        power: exponent of the activations in an attention map.
        reduce: how an attention map reduces the channels: mean or sum (equal, as maps are normalised), or max.
        form: form of the attention loss: as in the published code, or as in the paper.
        full_activation: weight of the loss that compares the features, through learned 1 x 1 convolutions.
        full_activation_form: how features are compared: fitnets is the mean squared difference; paper is the squared
            distance of normalised features, without a convolution where student and teacher have equally many channels.
        gradient: weight of the squared distance between the input gradients of student and teacher.
        symmetry: weight of the squared distance between the student's input gradients of images and of their mirrors.
        input_gradient: weight of the squared length of the student's input gradients (min-l2).
        teacher_size: side of the teacher's images in pixels; by default that of the student's.
        precision: precision of the teacher's forward pass: float32, bfloat16, or auto, which is bfloat16 on devices
            that support it.
        fold: fold the teacher's batch norms into its convolutions.
    """

    teacher: str | list[str] | None = None
    weights: Literal["last", "best"] = "last"
    beta: WeightValue = 0.0
    alpha: WeightValue = 0.0
    temperature: Annotated[float, "(0, inf)"] = 4.0
    layers: list[tuple[str | int, str | int]] | None = None
    power: Annotated[float, "[1, 100]"] = 2.0
    reduce: Literal["mean", "sum", "max"] = "mean"
    form: Literal["code", "paper"] = "code"
    full_activation: WeightValue = 0.0
    full_activation_form: Literal["fitnets", "paper"] = "fitnets"
    gradient: WeightValue = 0.0
    symmetry: WeightValue = 0.0
    input_gradient: WeightValue = 0.0
    teacher_size: Annotated[int | None, "[1, 16384]"] = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    fold: bool = True

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers, as a tuple."""
        if self.teacher is None:
            return ()
        return (self.teacher,) if isinstance(self.teacher, str) else tuple(self.teacher)

    def weight(self, name: str) -> Weight:
        """The weight in the field `name`. Raises InputError if it is invalid."""
        return _weight(f"transfer.{name}", getattr(self, name))

    def uses(self, *names: str) -> bool:
        """Whether any of these weights is ever other than 0."""
        return any(self.weight(name).used for name in names)

    def check(self) -> None:
        """Raises InputError for a weight out of range, or if weights and teacher do not match."""
        for name in TRANSFER_WEIGHTS:
            check_range(f"transfer.{name}", self.weight(name), 0, 1 if name == "alpha" else math.inf)
        if not self.teachers and self.uses(*TEACHER_WEIGHTS):
            fields = [f"transfer.{name}" for name in TEACHER_WEIGHTS if self.uses(name)]
            raise InputError(
                f"{' and '.join(fields)} given without transfer.teacher; name a run folder, an imported file, "
                "a network of timm or torchvision/NAME"
            )
        if self.teachers and not self.uses(*TEACHER_WEIGHTS):
            raise InputError(
                f"transfer.teacher is given, but {', '.join(f'transfer.{name}' for name in TEACHER_WEIGHTS)} are all "
                "0; give one of these weights, or leave the teacher out"
            )


TRANSFER_WEIGHTS = tuple(term.weight for term in TERMS.values() if term.weight != "guidance")
"""Names of the fields of `TransferRecipe` that are weights of losses."""
TEACHER_WEIGHTS = tuple(term.weight for term in TERMS.values() if term.teacher)
"""The weights of losses that need a teacher."""
GRADIENT_WEIGHTS = tuple(term.weight for term in TERMS.values() if term.derives)
"""The weights of losses that need input gradients."""


@dataclass
class GuidanceRecipe:
    """Guidance: a loss that compares the network's maps with the regions of the objects in the training images.

    Args:
        weight: weight of the guidance loss, a number or the fields of a weight that changes (see transfer).
        form: form of the loss: energy (fraction of the map outside the region), l1, ppce, or rrr (Rao et al. 2023).
        maps: maps to guide: cam, the label's class activation map at the layer before the global pooling; gradcam, at
            any layer, with second derivatives; input_gradient (Ross et al. 2017); attention, attention maps; or gate,
            the spatial gates of attention modules such as cbam and shuffle.
        layers: layers of the maps (gradcam, attention, gate), for example [layer3, layer4]; the last one by default.
        detach: let the loss change the features only, not the classifier that weights them (cam, gradcam).
        share: fraction of the training images whose regions are used, the same images for every seed, balanced over
            the classes.
        box: use the bounding boxes of the regions.
        dilate: pixels by which to enlarge each region, or box, on every side.
    """

    weight: WeightValue = 0.0
    form: Literal["energy", "l1", "ppce", "rrr"] = "energy"
    maps: Literal["cam", "gradcam", "input_gradient", "attention", "gate"] = "cam"
    layers: list[str] | None = None
    detach: bool = False
    share: Annotated[float, "(0, 1]"] = 1.0
    box: bool = False
    dilate: Annotated[int, "[0, 16384]"] = 0

    @property
    def schedule(self) -> Weight:
        """The weight over the run. Raises InputError if it is invalid."""
        return _weight("guidance.weight", self.weight)

    @property
    def used(self) -> bool:
        """Whether the weight is ever other than 0."""
        return self.schedule.used

    @property
    def derives(self) -> bool:
        """Whether the loss needs second derivatives."""
        return self.used and self.maps in DERIVED_MAPS


@dataclass
class Recipe:
    """A training run.

    Args:
        source: published run that this recipe reproduces, or its purpose.
        data: data set to use.
        augmentation: augmentation of the training images.
        model: the network to train.
        optimizer: the optimizer and its settings.
        schedule: epochs, batches and learning rate.
        transfer: losses that compare the network with a teacher.
        guidance: loss that guides the network to the objects.
        task: loss for the labels: cross_entropy, or binary_cross_entropy, one for each class.
        label_smoothing: fraction of the label that is spread over all classes.
        ema: decay per step of a moving average of the weights, which is tested and saved instead of them; 0 for none.
        seed: seed of the initial weights, the order of the images and their augmentation.
        device: device to train on: auto (a GPU if there is one), cpu, cuda, cuda:1, mps; each of several processes uses
            its own GPU.
        precision: precision of the forward pass: float32, or mixed precision with bfloat16 or float16 (with a scaled
            loss).
        channels_last: use the memory layout in which convolutions are fastest. Not used where oneDNN has a fault with
            it on the CPU: strided 1 x 1 convolutions of fewer than 16 channels, with a number of threads that does not
            divide the batch.
        sync_norms: compute the statistics of batch norms over all processes instead of within each.
        threads: number of threads of a run on the CPU; torch's choice by default.
        deterministic: get the same weights from the same recipe, bit for bit, on the same machine.
        compile: compile the networks (torch.compile); not possible with gradient, symmetry and input_gradient of
            transfer, which need second derivatives.
        nonfinite: what to do if a gradient is not finite: stop, or skip the step and count it. With float16 such steps
            are always skipped, and the loss is scaled less.
        trackers: trackers that log the metrics besides the run folder: tensorboard, wandb, mlflow.
        save_minutes: minutes after which a checkpoint is saved within an epoch.
        wait_minutes: minutes that processes wait for each other before they give up.
    """

    source: str = ""
    data: DataRecipe = field(default_factory=DataRecipe)
    augmentation: Augmentation = field(default_factory=Augmentation)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    transfer: TransferRecipe = field(default_factory=TransferRecipe)
    guidance: GuidanceRecipe = field(default_factory=GuidanceRecipe)
    task: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, "[0, 1)"] = 0.0
    ema: Annotated[float, "[0, 1)"] = 0.0
    seed: Annotated[int, "[0, 2^63)"] = 0
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = True
    sync_norms: bool = False
    threads: Annotated[int | None, "[1, 1024]"] = None
    deterministic: bool = True
    compile: bool = False
    nonfinite: Literal["stop", "skip"] = "stop"
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = field(default_factory=list)
    save_minutes: Annotated[float, "(0, 10^6]"] = 15.0
    wait_minutes: Annotated[float, "(0, 10^6]"] = 10.0

    @property
    def sources(self) -> tuple[str, ...]:
        """The other networks that the recipe names: the teachers, and the source of the initial weights."""
        return (*self.transfer.teachers, *([self.model.pretrained] if isinstance(self.model.pretrained, str) else []))

    def check(self) -> None:
        """Raises InputError for a field out of range, or for fields that exclude each other."""
        check_fields(self)
        all_options(self.data.name, **self.data.options)
        if self.optimizer.nesterov and not self.optimizer.momentum:
            raise InputError("optimizer.nesterov needs momentum; set optimizer.nesterov to false")
        self.transfer.check()
        check_range("guidance.weight", self.guidance.schedule)
        if self.guidance.used:
            self._check_regions()
        self._check_attention()
        self._check_detector()
        if self.schedule.reset_momentum and self.optimizer.name != "sgd":
            raise InputError(f"schedule.reset_momentum is for sgd; optimizer.name is {self.optimizer.name}")
        if self.compile and (self.transfer.uses(*GRADIENT_WEIGHTS) or self.guidance.derives):
            raise InputError(
                f"compile cannot be used with {', '.join(f'transfer.{name}' for name in GRADIENT_WEIGHTS)}, nor with "
                f"guidance.maps {' or '.join(DERIVED_MAPS)}, which need second derivatives; leave compile out"
            )

    def _check_attention(self) -> None:
        """Raises InputError for attention options without an attention module.

        attention_start is allowed, because the network of `model.pretrained` may have attention.
        """
        model = self.model
        if model.attention is None:
            try:
                reject_attention_options(model.gate, model.attention_stages, model.attention_options, None)
            except InputError as error:
                raise InputError(f"model.{error}") from error

    def _check_regions(self) -> None:
        """Raises InputError for augmentation that cannot be applied to regions."""
        if self.augmentation.mixes:
            raise InputError(
                "guidance needs the region of the label, but augmentation.mixup and cutmix mix two images; leave them "
                "out, or guidance.weight"
            )
        if self.augmentation.policy is not None:
            raise InputError(
                f"augmentation.policy {self.augmentation.policy} rotates and moves images but not their regions, which "
                "guidance needs; leave it out (color_jitter and erasing can be used), or guidance.weight"
            )

    def _check_detector(self) -> None:
        """Raises InputError for fields that only detectors have, or only classifiers."""
        model = self.model
        self.augmentation.check_for(detector=model.detector is not None)
        if model.detector is None:
            if model.detector_options:
                raise InputError("model.detector_options is for detectors; give model.detector, or leave it out")
            return
        if model.detector not in detection.names():
            raise unknown("detector", model.detector, detection.names())
        values, defaults = flat(plain(self)), flat(plain(Recipe()))
        names = ("task", "label_smoothing", "data.crop_pct", "data.interpolation")
        fields = [name for name in names if values[name] != defaults[name]]
        fields += [f"transfer.{name}" for name in (*TEACHER_WEIGHTS, *GRADIENT_WEIGHTS) if self.transfer.uses(name)]
        fields += ["guidance"] if self.guidance.used else []
        if fields:
            raise InputError(f"{', '.join(fields)} is for classifiers; leave it out, or model.detector")


def _weight(name: str, value: WeightValue) -> Weight:
    """The weight in the field `name`. Raises InputError, with this name, if it is invalid."""
    try:
        return as_weight(value)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Writes the recipe, with all defaults, as YAML; after an error the file is unchanged. Raises OSError."""
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True), encoding="utf-8")


def plain(recipe: Recipe | DataRecipe) -> dict[str, Any]:
    """Converts a recipe, or a part of one, to nested dicts for YAML and JSON; tuples become lists."""
    return json.loads(json.dumps(asdict(recipe)))


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested fields to dotted names such as `data.folder`; dicts of options stay dicts."""
    flattened: dict[str, Any] = {}
    for name, value in fields.items():
        nested = isinstance(value, dict) and not name.endswith("options")
        flattened |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flattened


def with_fields(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Copies a recipe with changed fields, given by dotted names such as `data.folder` and `device`."""
    for name, value in changes.items():
        group, _, field_name = name.rpartition(".")
        change: dict[str, Any] = {field_name: value}
        recipe = replace(recipe, **({group: replace(getattr(recipe, group), **change)} if group else change))
    return recipe
