"""The glossary of pages: each term is defined once, and a page lists the terms that it uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from markupsafe import Markup, escape

from regard.bias import VARIANTS


class Term(NamedTuple):
    """A term of the glossary; in its definition, `[key]` and `[key|text]` link to other terms."""

    name: str
    definition: str
    better: str = ""  # "higher" or "lower", for a measure
    source: str = ""  # the paper that defines it


_LSAS = "LSAS, arXiv 2305.05200"
_SHARE = "The share of images, among those with a [region] and a CAM that is not a [constant_map|constant map],"
_XIAO = "Xiao et al. 2020, arXiv 2006.09994"

# The keys of measures are also the keys of their records.
TERMS = {
    "accuracy": Term("accuracy", "The share of images whose highest class score is that of their label.", "higher"),
    "box_ap": Term(
        "AP",
        "The average precision of a detector's boxes, averaged over classes and IoU thresholds from 0.5 to 0.95.",
        "higher",
        "COCO, arXiv 1405.0312",
    ),
    "mask_ap": Term(
        "mask AP",
        "The average precision of a detector's masks, averaged over classes and IoU thresholds from 0.5 to 0.95.",
        "higher",
        "COCO, arXiv 1405.0312",
    ),
    "position_bias": Term(
        "position bias", f"{_SHARE} whose [focus] and region do not intersect.", "lower", f"after {_LSAS}"
    ),
    "range_bias": Term(
        "range bias",
        f"{_SHARE} whose [focus] intersects the region but is not inside it; with a [margin], whose focus extends "
        "farther than the margin beyond the region. No image has both biases, so one may rise as the other falls.",
        "lower",
        f"after {_LSAS}",
    ),
    "inside": Term("inside", f"{_SHARE} whose [focus] lies inside the region or within the [margin].", "higher"),
    "pointing": Term(
        "pointing game",
        f"{_SHARE} in which a pixel with the highest value lies in the region or within the tolerance around it.",
        "higher",
        "Zhang et al. 2016, arXiv 1608.00507",
    ),
    "energy_inside": Term(
        "energy inside",
        "The share of the [cam|CAM]'s sum that lies in the [region]. For a [constant_map|constant map] it would be "
        "the region's share of the image.",
        "higher",
        "Wang et al. 2020, arXiv 1910.01279",
    ),
    "spill": Term("spill", "The share of the [focus] that lies outside the [region]: 1 minus precision.", "lower"),
    "miss": Term("miss", "The share of the [region] that lies outside the [focus]: 1 minus recall.", "lower"),
    "iou": Term("IoU", "The intersection of [focus] and [region] divided by their union.", "higher"),
    "mean_iou": Term("mean IoU", "The mean [iou|IoU] over thresholds of the focus from 0.05 to 0.95.", "higher"),
    "best_iou": Term("best IoU", "The highest [iou|IoU] over thresholds of the focus from 0.05 to 0.95.", "higher"),
    "auc": Term(
        "AUC",
        "The probability that a random pixel in the [region] has a higher value than a random pixel outside; 0.5 for "
        "random values.",
        "higher",
        "Fawcett 2006",
    ),
    "rank_accuracy": Term(
        "rank accuracy",
        "The share of the N highest pixels that lies in the [region], where N is the number of pixels of the region.",
        "higher",
        "Arras et al. 2020, arXiv 2003.07258",
    ),
    "top_k": Term(
        "top-k",
        "The share of the highest 2% of the image's pixels that lies in the [region].",
        "higher",
        "Theiner et al. 2021, arXiv 2104.14995",
    ),
    "focus_area": Term("focus area", "The share of the image's pixels that lies in the [focus]."),
    "region_area": Term("region area", "The share of the image's pixels that lies in the [region]."),
    "only_fg": Term("Only-FG", "The object alone: all pixels outside its [region] have the mean colour.", source=_XIAO),
    "only_fg_blur": Term(
        "Only-FG, blurred", "The object on its own background, which is blurred without the object's colours."
    ),
    "only_bg_b": Term(
        "Only-BG-B", "The background alone: the bounding box of the [region] has the mean colour.", source=_XIAO
    ),
    "only_bg_t": Term(
        "Only-BG-T",
        "The background alone: the bounding box of the [region] is covered with tiles of the adjacent background.",
        source=_XIAO,
    ),
    "mixed_same": Term(
        "Mixed-Same",
        "The object on the background ([only_bg_t]) of another random image of its class.",
        source=_XIAO,
    ),
    "mixed_other": Term(
        "Mixed-Other",
        "The object on the background ([only_bg_t]) of a random image of another class: Mixed-Rand without the "
        "object's own class.",
        source=_XIAO,
    ),
    "background_gap": Term(
        "BG-Gap",
        "Accuracy on [mixed_same] minus accuracy on [mixed_other]: how much the network relies on the class of the "
        "background when the object is present.",
        source=_XIAO,
    ),
    "drop": Term("drop", "Accuracy on the original images minus accuracy on the same images after a change."),
    "lost": Term("lost predictions", "The share of correct predictions that become wrong after a change."),
    "cam": Term(
        "CAM",
        "Class activation map: how much each pixel supports a class, computed from the activations and gradients of a "
        "layer of the network. It does not show whether the class is right.",
    ),
    "constant_map": Term(
        "constant map",
        "A [cam|CAM] that has the same value everywhere after it is clipped at 0, or has values that are not finite. "
        "It has no focus, and is left out of every measure except accuracy.",
    ),
    "region": Term("region", "The pixels of the object, from a mask, polygons, boxes or a grid.", source=_LSAS),
    "focus": Term(
        "focus",
        "The pixels where the [cam|CAM], clipped at 0 and scaled to [0, 1] by its lowest and highest value in the "
        "image, is at least the [threshold].",
        source=_LSAS,
    ),
    "threshold": Term("threshold", "The lowest value, from 0 to 1, of a pixel in the [focus]; 0.5 unless stated."),
    "margin": Term(
        "margin", "How many pixels the [focus] may extend beyond the [region] without [range_bias|range bias]."
    ),
    "gate": Term(
        "gate",
        "The value in [0, 1] by which an attention module multiplies a feature: the sigmoid of a gate logit, or a "
        "product of sigmoids (sub-attention, LSAS).",
    ),
    "eta_squared": Term(
        "eta squared",
        "The share of a value's variance over the images that lies between classes: 1 if the class determines the "
        "value, near 0 if it makes no difference.",
    ),
    "group_score": Term(
        "group score",
        "The probability of a class when the image is masked with the mean activation of a group of channels, "
        "enlarged to the image and scaled to [0, 1].",
        source="SA-Net, arXiv 2102.00240",
    ),
    "multiply_adds": Term("multiply-adds", "Multiplications with an addition in the forward pass of one test image."),
    "interval": Term(
        "95% interval",
        "A confidence interval. Rate over images: Wilson. Mean over images or over [seeds]: Student's t. Difference "
        "of rates on the same images: Newcombe. Difference of means on the same images or over seeds: paired t.",
    ),
    "seeds": Term(
        "seeds",
        "Runs of one recipe that differ only in their seed. An interval over seeds covers repeated training on the "
        "same data, an interval over images covers other test images; neither covers both.",
    ),
    "p": Term(
        "p",
        "The two-sided p value. Rates on the same images: McNemar's exact test; rates on different images: Fisher's "
        "exact test. Means on the same images or over seeds: paired t test, which needs at least three seeds.",
    ),
    "holm": Term(
        "adjusted p",
        "[p] after Holm's correction for all comparisons on this page: if no two networks differ, the probability "
        "that any comparison is called significant is at most 5%.",
        source="Holm 1979",
    ),
    "significant": Term("significant", "The [holm|adjusted p] is below 0.05. Nothing else is called significant."),
    "compatible": Term(
        "compatible with published",
        "The published difference lies in the 95% prediction interval of our [significant] difference. The interval "
        "takes both errors into account: ours over the [seeds], and the published one for the number of published "
        "runs (one if the source does not state it). With a shortened schedule or other data, comparisons are "
        "preliminary and never called compatible.",
    ),
    "reference": Term("reference", "The network that is subtracted from each of the other networks."),
    "shortened": Term("shortened schedule", "Fewer epochs than the recipe has, with proportional milestones."),
}
TERMS |= {f"drop_{name}": Term(f"drop, {TERMS[name].name}", f"The [drop] after [{name}].") for name in VARIANTS}


def name_of(key: str) -> str:
    """The name of a term as pages show it."""
    return TERMS[key].name


_LINK = re.compile(r"\[(\w+)(?:\|([^\]]+))?\]")


class Glossary:
    """Links to the terms that one page uses, and their definitions."""

    def __init__(self) -> None:
        self._used: dict[str, None] = {}

    def term(self, key: str, text: str = "") -> Markup:
        """A link to the definition of a term; the link text is the term's name if `text` is empty."""
        self._used[key] = None
        return Markup('<a href="#term-{}">{}</a>').format(key, text or name_of(key))

    def linked(self, text: str) -> Markup:
        """Escapes a caption, and turns `[key]` and `[key|text]` into links to terms."""
        return Markup(_replaced(str(escape(text)), self.term))

    def entries(self) -> list[tuple[str, str, Markup, str]]:
        """(anchor, name, definition, source) of the terms used so far, and of the terms in their definitions."""
        entries: dict[str, Markup] = {}
        while missing := [key for key in self._used if key not in entries]:
            for key in missing:
                term = TERMS[key]
                better = f" {term.better.capitalize()} is better." if term.better else ""
                entries[key] = self.linked(term.definition + better)
        ordered = sorted(entries, key=lambda key: name_of(key).lower())
        return [(f"term-{key}", name_of(key), entries[key], TERMS[key].source) for key in ordered]


def plain(text: str) -> str:
    """A caption without links, for a terminal."""
    return _replaced(text, lambda key, text: text or name_of(key))


def _replaced(text: str, write: Callable[[str, str], str]) -> str:
    return _LINK.sub(lambda match: write(match[1], match[2] or ""), text)
