"""Transfer: a student network learns to look where its teacher looks::

    objective = transfer.Objective(student, teacher, beta=1e3)
    losses = objective(images, labels)
    losses.total.backward()

- `Objective` computes the sum of all terms and returns `Losses`.
- `Teacher` is a network that is not trained, with its own normalisation, image size and precision.
- `Weight` is a weight that changes over the run.
- `term` registers a function of a `ForwardPass` as a further term of the loss; `TERMS` has all terms.
- `guidance_loss` compares a network's maps with the regions of objects; `make_guide` makes differentiable maps.
- `attention_loss`, `distillation_loss`, `full_activation_loss`, `gradient_loss`, `symmetry_loss` … are the formulas.
"""

from regard.maps.taps import Reduce
from regard.transfer.guidance import guidance_loss
from regard.transfer.guided_maps import DERIVED_MAPS, Guide, GuidedMaps, make_guide
from regard.transfer.losses import (
    attention_loss,
    distillation_loss,
    equivalent_beta,
    full_activation_loss,
    gradient_loss,
    make_regressor,
    map_loss,
    soft_label_loss,
    squared_length,
    symmetry_loss,
    task_loss,
)
from regard.transfer.objective import Losses, Objective
from regard.transfer.pairing import LayerSpec, Pair, find_pairs
from regard.transfer.schedule import Weight, as_weight, check_range
from regard.transfer.teacher import Teacher
from regard.transfer.terms import (
    TERMS,
    Form,
    ForwardPass,
    FullActivationForm,
    GuidanceForm,
    Outputs,
    Task,
    Term,
    input_gradients,
    term,
)

__all__ = [
    "DERIVED_MAPS",
    "Form",
    "ForwardPass",
    "FullActivationForm",
    "GuidanceForm",
    "Guide",
    "GuidedMaps",
    "LayerSpec",
    "Losses",
    "Objective",
    "Outputs",
    "Pair",
    "Reduce",
    "TERMS",
    "Task",
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
    "guidance_loss",
    "input_gradients",
    "make_guide",
    "make_regressor",
    "map_loss",
    "soft_label_loss",
    "squared_length",
    "symmetry_loss",
    "task_loss",
    "term",
]
