"""The measures of a bias report in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A measure, as a reader meets it.

    Attributes:
        name: in words.
        better: "higher", "lower", or "" where neither is.
        says: what it is, in a sentence.
        source: where it comes from; "" if it needs none.
    """

    name: str
    better: str
    says: str
    source: str = ""


# In the order of a page; the names are those of `bias.Measures`, and accuracy.
MEASURES = {
    "accuracy": Measure("accuracy", "higher", "Share of the images whose highest class score is that of their label."),
    "position_bias": Measure(
        "position bias",
        "lower",
        "Share of the images whose focus does not meet the region.",
        "the diagnosis of LSAS, arXiv 2305.05200",
    ),
    "range_bias": Measure(
        "range bias",
        "lower",
        "Share of the images whose focus meets the region but is not inside it. No image has both biases, so one may "
        "rise as the other falls.",
        "the diagnosis of LSAS, arXiv 2305.05200",
    ),
    "pointing": Measure(
        "pointing game",
        "higher",
        "Share of the images where a highest value of the map lies in the region.",
        "Zhang et al. 2016, arXiv 1608.00507",
    ),
    "energy_inside": Measure(
        "energy inside",
        "higher",
        "Share of the map’s sum that lies in the region. A map that is the same everywhere has the region’s share of "
        "the image.",
        "Wang et al. 2020, arXiv 1910.01279",
    ),
    "spill": Measure("spill", "lower", "Share of the focus that lies outside the region."),
    "miss": Measure("miss", "lower", "Share of the region that lies outside the focus."),
    "iou": Measure("IoU", "higher", "Intersection of focus and region over their union."),
    "mean_iou": Measure("mean IoU", "higher", "IoU in the mean over thresholds of the focus from 0.05 to 0.95."),
    "best_iou": Measure("best IoU", "higher", "The highest IoU over these thresholds."),
    "auc": Measure(
        "AUC",
        "higher",
        "Probability that a random pixel of the region has a higher value than a random pixel outside; 0.5 is chance.",
        "Fawcett 2006",
    ),
    "rank_accuracy": Measure(
        "rank accuracy",
        "higher",
        "Of the highest pixels, as many as the region has, the share that lies in the region.",
        "Arras et al. 2020, arXiv 2003.07258",
    ),
    "top_k": Measure(
        "top-k",
        "higher",
        "Of the highest pixels, one in 50 of the image, the share that lies in the region.",
        "Theiner et al. 2021, arXiv 2104.14995",
    ),
    "focus_area": Measure("focus area", "", "Share of the image’s pixels that lie in the focus."),
    "region_area": Measure("region area", "", "Share of the image’s pixels that lie in the region."),
}

RATES = ("accuracy", "position_bias", "range_bias", "pointing")
MAIN_MEANS = ("energy_inside", "spill", "auc")


def measure_of(name: str) -> Measure:
    """The words for a measure; for one that has none, its name."""
    return MEASURES.get(name) or Measure(name.replace("_", " "), "", "")
