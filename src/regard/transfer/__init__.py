"""Transfer: a student network learns to look where its teacher looks.

objective = transfer.Objective(student, teacher, beta=1e3)
losses = objective(images, labels)
losses.total.backward()

- `Objective`: the sum of all terms; `Losses`: what it gives.
- `Teacher`: a network to learn from that sees images in its own way, or runs faster than it is.
- `Weight`: a weight that changes over the run.
- `term` registers a further term of the loss, of a `ForwardPass`; `TERMS` has them all.
- `attention_loss`, `distillation_loss`, `full_activation_loss`, `gradient_loss`, `symmetry_loss` …: formulas.
"""

from regard.transfer.activation import full_activation_loss, regressor
from regard.transfer.attention import Form, Reduce, attention_loss, equivalent_beta, map_loss
from regard.transfer.distillation import distillation_loss, soft_label_loss
from regard.transfer.gradient import gradient_loss, input_gradients, squared_length, symmetry_loss
from regard.transfer.losses import TERMS, ForwardPass, Term, term
from regard.transfer.objective import Losses, Objective
from regard.transfer.pairing import Pair, find_pairs
from regard.transfer.teacher import Teacher
from regard.transfer.weight import Weight, as_weight, check_range

__all__ = [
    "Form",
    "ForwardPass",
    "Losses",
    "Objective",
    "Pair",
    "Reduce",
    "TERMS",
    "Teacher",
    "Term",
    "Weight",
    "as_weight",
    "attention_loss",
    "check_range",
    "distillation_loss",
    "equivalent_beta",
    "find_pairs",
    "full_activation_loss",
    "gradient_loss",
    "input_gradients",
    "map_loss",
    "regressor",
    "soft_label_loss",
    "squared_length",
    "symmetry_loss",
    "term",
]
