"""`regard bias` for detectors: compares the map of each detection with its object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from regard import bias, maps, report
from regard.cli.command import Command
from regard.cli.detect import detector_images
from regard.cli.evaluation import Evaluation
from regard.cli.inputs import match_outputs
from regard.data import ImageDataset
from regard.errors import InputError
from regard.training import Pretrained

# Options that only one kind of network has.
CLASSIFIER_OPTIONS = ("target", "keep_maps", "interventions", "batch_size")
DETECTOR_OPTIONS = ("score", "detections", "box_regions", "masks")
_IMAGE_WIDE_METHODS = ("gradcam", "gradcam++", "xgradcam")


class DetectorEvaluation(Evaluation):
    """A trained detector and the images with objects that it is evaluated on."""

    def evaluator(self) -> bias.DetectionEvaluator:
        """The evaluator for the options of the command; raises InputError if they are wrong."""
        return bias.DetectionEvaluator(self.model, self.dataset, **self._evaluator_arguments())

    def evaluate(self, command: Command, folder: Path) -> bias.Results:
        """Evaluates the detector, with shards in the folder, and releases the model."""
        with command.progress(self.name) as progress:
            results = bias.evaluate_detector(
                self.model,
                self.dataset,
                **self._evaluator_arguments(),
                workers=self.options.workers,
                unreadable=self.options.unreadable or "error",
                outputs=self.pretrained.output_names,
                folder=folder,
                shard=self.options.shard,
                progress=progress,
                name=self.name,
            )
        self.release()
        return results

    def _evaluator_arguments(self) -> dict[str, Any]:
        options = self.options
        drise = {"masks": options.masks} if options.method == maps.DRISE.method else {}
        return {
            "method": maps.create_for_detections(options.method, self.model, options.layer or None, **drise),
            "region": "box" if options.box_regions else "object",
            "score_threshold": options.score,
            "limit": options.detections,
            "label_outputs": self.label_outputs,
            **focus(options),
        }


def focus(options: Namespace) -> dict[str, Any]:
    """The options for the focus, as arguments of `bias.measure`."""
    return {name: options[name] for name in ("threshold", "margin", "tolerance")}


def detector_evaluations(command: Command, networks: Sequence[Pretrained]) -> list[DetectorEvaluation]:
    """Returns each detector with its images, after checking networks and options. Notes state assumptions."""
    options, first = command.options, networks[0].source
    if classifiers := [network.source for network in networks if network.network.detector is None]:
        raise InputError(f"{first} is a detector, {classifiers[0]} a classifier; measure them in separate commands")
    command.reject_options(CLASSIFIER_OPTIONS, f"classifiers, {first} is a detector")
    if options.method != maps.DRISE.method:
        command.reject_options(("masks",), f"--method drise, not {options.method}")
    sets: dict[str, ImageDataset] = {}  # shared by detectors trained on the same data
    evaluated = []
    for network in networks:
        images = detector_images(network, command.typed.get("data.name"), options, sets)
        evaluated.append(DetectorEvaluation(network, images, match_outputs(command, network, images), options))
    if options.method in _IMAGE_WIDE_METHODS:
        command.note(
            f"note: {options.method} weights channels over the whole image, so its maps show all objects of a class; "
            "hirescam and layercam give one map per detection (--method)"
        )
    return evaluated


def detections_gallery(
    evaluated: Sequence[DetectorEvaluation], results: Sequence[bias.Results], count: int
) -> report.Gallery:
    """Some detections of each detector. Releases the models."""
    gallery = report.DetectionsGallery(count, results)
    for evaluation, result in zip(evaluated, results, strict=True):
        gallery.add_detector(evaluation.evaluator(), result, evaluation.device)
        evaluation.release()
    return gallery
