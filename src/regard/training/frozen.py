"""Fine-tuning: layers whose parameters do not learn, batch norms that stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from regard.errors import InputError
from regard.maps.layers import find_layers


def freeze(model: nn.Module, frozen: Sequence[str] = (), *, fixed_norms: bool = False) -> None:
    """Takes parts of `model` out of training, in place.

    A fixed batch norm does not learn, is in evaluation mode and stays in it, whatever `model.train()` says: it goes by
    its running mean and variance, and keeps them. Copies and pickles of the model keep that, its state dict knows
    nothing of it.

    Args:
        model: to be trained.
        frozen: names of layers, as in `model.named_modules()`, whose parameters do not learn. All batch norms in them
            are fixed; dropout is not, and drops in training as before.
        fixed_norms: fix all batch norms of the model.

    Raises:
        InputError: the model has no layer of such a name, no batch norms to fix, or nothing is left that learns.
    """
    if isinstance(frozen, str):
        raise InputError(f"model.frozen is {frozen!r}; give a list of layers, [{frozen}]")
    try:
        layers = list(find_layers(model, frozen).values()) if frozen else []
    except InputError as error:
        raise InputError(f"model.frozen: {error}") from error
    norms = _batch_norms(model) if fixed_norms else [norm for layer in layers for norm in _batch_norms(layer)]
    if fixed_norms and not norms:
        raise InputError(f"model.fixed_norms: the {type(model).__name__} has no batch norms; leave it out")
    for module in (*layers, *norms):
        module.requires_grad_(False)
    for norm in norms:
        norm.eval()
        # In the instance, where it is found before the method of the class; a partial of a function of this module can
        # be copied and pickled.
        norm.train = partial(_stay, norm)  # type: ignore[method-assign]
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"model.frozen ({', '.join(frozen)}){' and model.fixed_norms' if fixed_norms else ''} leave nothing that "
            "learns; leave a layer out"
        )


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def _stay(norm: nn.Module, mode: bool = True) -> nn.Module:
    """In place of `norm.train`."""
    return norm
