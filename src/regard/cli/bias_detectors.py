"""`regard bias` of detectors: each detection against its object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jsonargparse import Namespace

from regard import bias, maps, report, training
from regard.cli.detect import detector_images
from regard.cli.inputs import Evaluation, check_common, match_outputs
from regard.cli.output import Output
from regard.data import ImageDataset
from regard.errors import InputError
from regard.parser import Parser

# Options of classifiers that detectors do not have, with their values if not given.
_OF_CLASSIFIERS = {"target": "predicted", "keep_maps": False, "interventions": False, "batch_size": None}
# Options that classifiers do not have.
_OF_DETECTORS = {"score": 0.5, "detections": 20, "box_regions": False, "masks": 1000}
_OF_THE_IMAGE = ("gradcam", "gradcam++", "xgradcam")


class DetectorEvaluation(Evaluation):
    """A trained detector, and images with objects that it is evaluated on."""

    def evaluator(self) -> bias.DetectionEvaluator:
        """What `measured` measures by, as the options say; raises InputError for those that do not fit."""
        options = self.options
        return bias.DetectionEvaluator(
            self.model,
            self.dataset,
            self._method(),
            None,
            "box" if options.box_regions else "object",
            options.score,
            options.detections,
            options.threshold,
            options.margin,
            options.tolerance,
            self.label_outputs,
        )

    def measured(self, folder: Path, output: Output) -> bias.Results:
        """The results, with shards in the folder; releases the model."""
        options = self.options
        with output.progress(self.name) as progress:
            one = bias.evaluate_detector(
                self.model,
                self.dataset,
                method=self._method(),
                region="box" if options.box_regions else "object",
                score_threshold=options.score,
                limit=options.detections,
                threshold=options.threshold,
                margin=options.margin,
                tolerance=options.tolerance,
                workers=options.workers,
                unreadable=options.unreadable or "error",
                outputs=self.pretrained.output_names,
                label_outputs=self.label_outputs,
                folder=folder,
                shard=options.shard,
                progress=progress,
                name=self.name,
            )
        self.release()
        return one

    def _method(self) -> maps.DetectionCAM | maps.DRISE:
        layers = self.options.layer
        drise = {"masks": self.options.masks} if self.options.method == maps.DRISE.method else {}
        return maps.create_for_detections(self.options.method, self.model, layers or None, **drise)


def open_detectors(
    parser: Parser, arguments: Sequence[str], say: Callable[[str], None]
) -> list[DetectorEvaluation] | None:
    """The detectors that are named, each with its images; None if the first network is a classifier.

    Args:
        parser: of the command.
        arguments: of the command.
        say: is told what is assumed.

    Raises:
        InputError: a network that cannot be opened, a classifier among detectors, images without objects, an option
            that is for classifiers.
    """
    options = parser.parse_args(arguments)
    check_common(options)
    first, *others = options.models
    network = training.load_pretrained(first, options.weights, ema=options.ema, say=say)
    if network.network.detector is None:
        _check_left_out(options, _OF_DETECTORS, f"detectors, {first} is a classifier")
        return None
    networks = [network, *(training.load_pretrained(name, options.weights, say=say) for name in others)]
    if classifiers := [one.source for one in networks if one.network.detector is None]:
        raise InputError(f"{first} is a detector, {classifiers[0]} a classifier; measure each kind by itself")
    _check_left_out(options, _OF_CLASSIFIERS, f"classifiers, {first} is a detector")
    if options.method != maps.DRISE.method:
        _check_left_out(options, {"masks": _OF_DETECTORS["masks"]}, f"--method drise, not {options.method}")
    given = parser.parse_args(arguments, defaults=False).get("data", Namespace())
    sets: dict[str, ImageDataset] = {}  # detectors trained on the same data share them
    device = training.pick_device(options.device)
    opened = []
    for one in networks:
        images = detector_images(one, given.get("name"), options, sets)
        opened.append(DetectorEvaluation(one, images, match_outputs(one, images, True, say), device, options))
    if options.method in _OF_THE_IMAGE:
        say(
            f"note: the channels of {options.method} are weighted over the whole image, so that its maps show all "
            "objects of a kind; those of hirescam and layercam are of each detection (--method)"
        )
    return opened


def _check_left_out(options: Namespace, usual: Mapping[str, object], meant: str) -> None:
    """Raises InputError for an option that has another value than its usual one."""
    for name, value in usual.items():
        if options[name] != value:
            raise InputError(f"--{name.replace('_', '-')} is for {meant}; leave it out")


def detections_gallery(
    evaluated: Sequence[DetectorEvaluation], results: Sequence[bias.Results], count: int
) -> report.Gallery:
    """Some detections of each detector; releases the models."""
    drawn = report.DetectionsGallery(count, results)
    for evaluation, one in zip(evaluated, results, strict=True):
        drawn.add_detector(evaluation.evaluator(), one, evaluation.device)
        evaluation.release()
    return drawn
