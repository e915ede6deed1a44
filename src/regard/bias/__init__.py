"""Bias: how far the maps of a network are off the object.

- `measure` computes every measure of maps against regions, one value per image.
- `evaluate` measures a model on a data set; its `Results` have rates and means with intervals, and a row per image.
- `evaluate_detector` does the same for a detector, with a row per detection.
- `compare` and `compare_all` compare results of several models on the same images.
- `focus` finds the pixels of a map that count, `scaled` the scaled map that it thresholds.
- `Evaluator` and `DetectionEvaluator` measure one batch, and the detections in one image.
- `Interventions` are images whose object or background is removed or exchanged; `effects` and `effect_records` are the
  effects on accuracy.
"""

from regard.bias.compare import Comparison, compare, compare_all, effect_records, effects
from regard.bias.detections import DetectionEvaluator, evaluate_detector
from regard.bias.evaluate import Evaluator, evaluate
from regard.bias.interventions import VARIANTS, Interventions
from regard.bias.metrics import Measures, focus, measure, scaled
from regard.bias.results import Results
from regard.bias.summary import Summary

__all__ = [
    "VARIANTS",
    "Comparison",
    "DetectionEvaluator",
    "Evaluator",
    "Interventions",
    "Measures",
    "Results",
    "Summary",
    "compare",
    "compare_all",
    "effect_records",
    "effects",
    "evaluate",
    "evaluate_detector",
    "focus",
    "measure",
    "scaled",
]
