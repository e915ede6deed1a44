"""The definitions of all terms on pages, each written once; pages link to those that they use."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from markupsafe import Markup, escape

from regard.bias import VARIANTS


class Term(NamedTuple):
    """A term of the glossary.

    Attributes:
        name: as pages write it.
        definition: one or two sentences; `[key]` and `[key|text]` link to other terms.
        better: "higher" or "lower" for a measure where that is better; else empty.
        source: paper that defines it; empty where none is needed.
    """

    name: str
    definition: str
    better: str = ""
    source: str = ""


_LSAS = "LSAS, arXiv 2305.05200"
_SHARE = "Share of the images with a [region] and a CAM that is not a [constant_map|constant map]"

_XIAO = "Xiao et al. 2020, arXiv 2006.09994"

# The keys of measures are those of their records.
TERMS = {
    "accuracy": Term("accuracy", "Share of the images whose highest class score is that of their label.", "higher"),
    "box_ap": Term(
        "AP",
        "Average precision of the boxes of a detector, over classes and thresholds of the overlap from 0.5 to 0.95.",
        "higher",
        "COCO, arXiv 1405.0312",
    ),
    "mask_ap": Term(
        "mask AP", "Average precision of the masks of a detector, as AP.", "higher", "COCO, arXiv 1405.0312"
    ),
    "position_bias": Term(
        "position bias", f"{_SHARE} whose [focus] and region do not intersect.", "lower", f"{_LSAS}, made exact"
    ),
    "range_bias": Term(
        "range bias",
        f"{_SHARE} whose [focus] intersects the region and is not inside it; with a [margin], reaches beyond it "
        "farther than that. No image has both biases: one may rise as the other falls.",
        "lower",
        f"{_LSAS}, made exact",
    ),
    "inside": Term("inside", f"{_SHARE} whose [focus] lies inside the region, or within the [margin].", "higher"),
    "pointing": Term(
        "pointing game",
        f"{_SHARE} where a pixel of the highest value lies in the region, or within the tolerance of it.",
        "higher",
        "Zhang et al. 2016, arXiv 1608.00507",
    ),
    "energy_inside": Term(
        "energy inside",
        "Share of the [cam|CAM]'s sum that lies in the [region]. A [constant_map|constant map] has the region's share "
        "of the image.",
        "higher",
        "Wang et al. 2020, arXiv 1910.01279",
    ),
    "spill": Term("spill", "Share of the [focus] outside the [region]: 1 minus its precision.", "lower"),
    "miss": Term("miss", "Share of the [region] outside the [focus]: 1 minus the recall.", "lower"),
    "iou": Term("IoU", "Intersection of [focus] and [region] over their union.", "higher"),
    "mean_iou": Term("mean IoU", "Mean of the [iou|IoU] over thresholds of the focus from 0.05 to 0.95.", "higher"),
    "best_iou": Term("best IoU", "Highest [iou|IoU] over thresholds of the focus from 0.05 to 0.95.", "higher"),
    "auc": Term(
        "AUC",
        "Probability that a random pixel of the [region] has a higher value than a random pixel outside; 0.5 for "
        "random values.",
        "higher",
        "Fawcett 2006",
    ),
    "rank_accuracy": Term(
        "rank accuracy",
        "Of the highest pixels, as many as the [region] has, the share that lies in the region.",
        "higher",
        "Arras et al. 2020, arXiv 2003.07258",
    ),
    "top_k": Term(
        "top-k",
        "Of the highest pixels, one in 50 of the image, the share that lies in the [region].",
        "higher",
        "Theiner et al. 2021, arXiv 2104.14995",
    ),
    "focus_area": Term("focus area", "Share of the image's pixels that lie in the [focus]."),
    "region_area": Term("region area", "Share of the image's pixels that lie in the [region]."),
    "only_fg": Term("Only-FG", "The object alone: everything outside its [region] has the mean colour.", source=_XIAO),
    "only_fg_blur": Term("Only-FG, blurred", "The object on its own background, blurred without the object's colours."),
    "only_bg_b": Term(
        "Only-BG-B", "The background alone: the bounding box of the [region] has the mean colour.", source=_XIAO
    ),
    "only_bg_t": Term(
        "Only-BG-T",
        "The background alone: the bounding box of the [region] is covered with tiles of the background beside it.",
        source=_XIAO,
    ),
    "mixed_same": Term(
        "Mixed-Same",
        "The object on the background ([only_bg_t]) of a random other image of its class.",
        source=_XIAO,
    ),
    "mixed_other": Term(
        "Mixed-Other",
        "The object on the background ([only_bg_t]) of a random image of another class: Mixed-Rand without its own "
        "class.",
        source=_XIAO,
    ),
    "background_gap": Term(
        "BG-Gap",
        "Accuracy on [mixed_same] minus accuracy on [mixed_other]: what the class of the background is worth to the "
        "network when the object is there.",
        source=_XIAO,
    ),
    "drop": Term("drop", "Accuracy on the original images minus accuracy on the changed ones, of the same images."),
    "lost": Term(
        "lost predictions",
        "Of the images that are predicted right, the share that is predicted wrong once they are changed.",
    ),
    "cam": Term(
        "CAM",
        "Class activation map: for each pixel, how much it speaks for a class to the network, computed from the "
        "activations and gradients of a layer. It does not say whether the class is right.",
    ),
    "constant_map": Term(
        "constant map",
        "A [cam|CAM] that, clipped at 0, has the same value everywhere, or values that are not finite: it has no focus "
        "and counts in no measure but accuracy.",
    ),
    "region": Term("region", "The pixels of the object, from a mask, polygons, boxes or a grid.", source=_LSAS),
    "focus": Term(
        "focus",
        "The pixels where the [cam|CAM], clipped at 0 and scaled to [0, 1] by its own lowest and highest value in the "
        "image, is at least the [threshold].",
        source=_LSAS,
    ),
    "threshold": Term("threshold", "Least value, from 0 to 1, of a pixel of the [focus]; 0.5 unless stated."),
    "margin": Term("margin", "Pixels that the [focus] may reach beyond the [region] without [range_bias|range bias]."),
    "gate": Term(
        "gate",
        "Value in [0, 1] by which an attention module multiplies a feature: the sigmoid of a gate logit, or a product "
        "of sigmoids (sub-attention, LSAS).",
    ),
    "eta_squared": Term(
        "eta squared",
        "Share of a value's variance over the images that lies between the classes: 1 where the class decides, near 0 "
        "where it makes no difference.",
    ),
    "group_score": Term(
        "group score",
        "Probability that the network gives to a class when the mean activation of a group of channels, enlarged to "
        "the image and scaled to [0, 1], masks the image.",
        source="SA-Net, arXiv 2102.00240",
    ),
    "multiply_adds": Term("multiply-adds", "Multiplications with an addition in the forward pass of one test image."),
    "interval": Term(
        "95% interval",
        "Confidence interval. Of a rate over images: Wilson's. Of a mean over images or over [seeds|seeds]: Student's "
        "t. Of a difference of rates on the same images: Newcombe's; of means: the paired t.",
    ),
    "seeds": Term(
        "seeds",
        "Runs of one recipe that differ only in their seed. Intervals over seeds speak of training again on the same "
        "data, intervals over images of other test images; neither speaks of the other.",
    ),
    "p": Term(
        "p",
        "Two-sided p value. Rates on the same images: McNemar's exact test; of different images: Fisher's. Means on "
        "the same images, and over seeds: the paired t test; over seeds it needs three.",
    ),
    "holm": Term(
        "adjusted p",
        "[p] after Holm's correction for all comparisons on this page: where no two networks differ, the probability "
        "that any comparison is called significant is at most 5%.",
        source="Holm 1979",
    ),
    "significant": Term("significant", "The [holm|adjusted p] is below 0.05. Nothing else is called significant."),
    "compatible": Term(
        "compatible with published",
        "Our [significant] difference has the published one inside its 95% prediction interval, which takes the errors "
        "of both into account: ours over the [seeds], and that of as many runs as were published, one where the source "
        "does not say. With a shortened schedule or other data a comparison is preliminary, and nothing is "
        "called compatible.",
    ),
    "reference": Term("reference", "The network that the others are compared with: each of them minus the reference."),
    "shortened": Term("shortened schedule", "Fewer epochs than the recipe has, with milestones in proportion."),
}
TERMS |= {f"drop_{name}": Term(f"drop, {TERMS[name].name}", f"The [drop] by [{name}].") for name in VARIANTS}


def name_of(key: str) -> str:
    """The name of a term as pages write it."""
    return TERMS[key].name


_LINK = re.compile(r"\[(\w+)(?:\|([^\]]+))?\]")


class Glossary:
    """The terms that one page uses."""

    def __init__(self) -> None:
        self._used: dict[str, None] = {}

    def term(self, key: str, text: str = "") -> Markup:
        """A link to the definition of a term; `text`: of the link, the term's name if empty."""
        self._used[key] = None
        return Markup('<a href="#term-{}">{}</a>').format(key, text or name_of(key))

    def linked(self, text: str) -> Markup:
        """A fixed sentence with `[key]` and `[key|text]` as links to terms."""
        return Markup(_replaced(str(escape(text)), self.term))

    def entries(self) -> list[tuple[str, str, Markup, str]]:
        """(anchor, name, definition, source) of the terms used so far and of those that their definitions use."""
        entries: dict[str, Markup] = {}
        while missing := [key for key in self._used if key not in entries]:
            entries |= {key: self.linked(_with_direction(TERMS[key])) for key in missing}
        ordered = sorted(entries, key=lambda key: name_of(key).lower())
        return [(f"term-{key}", name_of(key), entries[key], TERMS[key].source) for key in ordered]


def plain(text: str) -> str:
    """A fixed sentence without links, for a terminal."""
    return _replaced(text, lambda key, text: text or name_of(key))


def _with_direction(term: Term) -> str:
    return f"{term.definition} {term.better.capitalize()} is better." if term.better else term.definition


def _replaced(text: str, write: Callable[[str, str], str]) -> str:
    """`[0, 1]` is no link."""
    return _LINK.sub(lambda match: write(match[1], match[2] or ""), text)
