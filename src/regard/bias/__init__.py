"""Bias: how far from the object a network's maps are.

- `measure`: every measure of maps against regions, one value per image.
- `evaluate`: a model over a data set; its `Results` have rates and means with intervals, and a row per image.
- `evaluate_detector`: the same for a detector, with a row per detection.
- `compare`, `compare_all`: results of several models on the same images.
- `focus`, `scaled`: the pixels of a map that count, and what they are taken from.
- `Evaluator`, `DetectionEvaluator`: measures of one batch, and of the detections in one image.
- `Interventions`, `effects`, `effect_records`: images whose object or background is removed or exchanged, and what that
  does to accuracy.
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
