"""Bias: how far from the object a network looks, with numbers that stand.

- `measure`: maps against regions, a number an image.
- `evaluate`: a model over a data set; its `Report` has rates with intervals.
- `compare`: two reports on the same images.
- `focus`, `wilson`, `paired_difference`, `paired_bootstrap`, `holm`: what these are made of.
- `Looker`: maps and measures of one batch.
"""

from regard.bias.comparison import ComparedMean, Comparison, Difference, compare
from regard.bias.evaluation import evaluate
from regard.bias.intervals import MeanDifference, PairedDifference, holm, paired_bootstrap, paired_difference, wilson
from regard.bias.looking import Looker
from regard.bias.measures import Measures, focus, measure, scaled
from regard.bias.report import Report
from regard.bias.summary import Mean, Rate, Summary

__all__ = [
    "ComparedMean",
    "Comparison",
    "Difference",
    "Looker",
    "Mean",
    "MeanDifference",
    "Measures",
    "PairedDifference",
    "Rate",
    "Report",
    "Summary",
    "compare",
    "evaluate",
    "focus",
    "holm",
    "measure",
    "paired_bootstrap",
    "paired_difference",
    "scaled",
    "wilson",
]
