"""Transfer: a student network learns to look where its teacher looks.

objective = transfer.Objective(student, teacher, beta=1e3)
losses = objective(images, labels)
losses.total.backward()
"""

from regard.transfer.losses import Form, attention_loss, distillation_loss, soft_label_loss
from regard.transfer.objective import Losses, Objective

__all__ = ["Form", "Losses", "Objective", "attention_loss", "distillation_loss", "soft_label_loss"]
