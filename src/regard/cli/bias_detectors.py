"""`regard bias` of detectors: each detection against its object."""

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

# Options of one kind of network, which the other does not have.
OF_CLASSIFIERS = ("target", "keep_maps", "interventions", "batch_size")
OF_DETECTORS = ("score", "detections", "box_regions", "masks")
_OF_THE_IMAGE = ("gradcam", "gradcam++", "xgradcam")


class DetectorEvaluation(Evaluation):
    """A trained detector, and images with objects that it is evaluated on."""

    def evaluator(self) -> bias.DetectionEvaluator:
        """What `measured` measures by, as the options say; raises InputError for those that do not fit."""
        return bias.DetectionEvaluator(self.model, self.dataset, **self._measuring())

    def measured(self, command: Command, folder: Path) -> bias.Results:
        """The results, with shards in the folder; releases the model."""
        with command.progress(self.name) as progress:
            results = bias.evaluate_detector(
                self.model,
                self.dataset,
                **self._measuring(),
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

    def _measuring(self) -> dict[str, Any]:
        """What is measured, as arguments of `bias.DetectionEvaluator`."""
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
    """What of a CAM is measured, as arguments of `bias.measure`."""
    return {name: options[name] for name in ("threshold", "margin", "tolerance")}


def detector_evaluations(command: Command, networks: Sequence[Pretrained]) -> list[DetectorEvaluation]:
    """Each detector with its images. Notes say what is assumed.

    Raises:
        InputError: a classifier among the detectors, images without objects, an option that is for classifiers.
    """
    options, first = command.options, networks[0].source
    if classifiers := [one.source for one in networks if one.network.detector is None]:
        raise InputError(f"{first} is a detector, {classifiers[0]} a classifier; measure each kind by itself")
    command.check_not_given(OF_CLASSIFIERS, f"classifiers, {first} is a detector")
    if options.method != maps.DRISE.method:
        command.check_not_given(("masks",), f"--method drise, not {options.method}")
    sets: dict[str, ImageDataset] = {}  # detectors trained on the same data share them
    opened = []
    for one in networks:
        images = detector_images(one, command.given.get("data.name"), options, sets)
        opened.append(DetectorEvaluation(one, images, match_outputs(command, one, images), options))
    if options.method in _OF_THE_IMAGE:
        command.note(
            f"note: the channels of {options.method} are weighted over the whole image, so that its maps show all "
            "objects of a kind; those of hirescam and layercam are of each detection (--method)"
        )
    return opened


def detections_gallery(
    evaluated: Sequence[DetectorEvaluation], results: Sequence[bias.Results], count: int
) -> report.Gallery:
    """Some detections of each detector; releases the models."""
    drawn = report.DetectionsGallery(count, results)
    for evaluation, one in zip(evaluated, results, strict=True):
        drawn.add_detector(evaluation.evaluator(), one, evaluation.device)
        evaluation.release()
    return drawn
