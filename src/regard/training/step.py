"""The network with what it is trained for, as one module."""

from __future__ import annotations

from torch import Tensor, nn

from regard.transfer import Losses, Objective


class Step(nn.Module):
    """Images and labels to losses.

    As one module with all that learns in it, it can be wrapped by what averages gradients over processes and by what
    chooses the precision. Teachers do not learn, and are no part of it.

    Args:
        objective: what the network is trained for.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.student, self.regressors = objective.student, objective.regressors
        self._losses = objective.__call__

    def forward(self, images: Tensor, labels: Tensor, progress: float) -> Losses:
        return self._losses(images, labels, progress)
