"""Taps: named places in a model whose outputs are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from regard.errors import InputError
from regard.maps.layers import Layer, find_layers, spatial, unwrapped


class Taps:
    """Reads the outputs of layers while a model runs.

        with Taps(model, ["layer3", "layer4"]) as taps:
            logits = model(images)
            features = taps.features  # {"layer3": (N, C, H, W), "layer4": …}

    Inside the block the layers carry forward hooks; at its end, by error or not, the model is as it was. The block can be
    entered again, also inside itself. Nothing is copied: the features are the very tensors the model works with, part
    of its graph if it has one, and are held until the next forward, `clear()`, or the end of the Taps' life.

    It works in training, under `no_grad`, `inference_mode` and autocast, and with any memory format. A compiled model is
    compiled anew with the taps in it, and its features are copies.

    Args:
        model: any module; it may be compiled or wrapped in `DistributedDataParallel`.
        layers: names as in `model.named_modules()`, or the modules themselves; one or several. None: the stages.

    Raises:
        InputError: a layer the model does not have; when the model runs, a layer whose output is not a tensor
            (N, C, H, W).
    """

    def __init__(self, model: nn.Module, layers: Layer | Sequence[Layer] | None = None) -> None:
        self.model = model
        self.layers = tuple(find_layers(model, layers))
        self._outputs: dict[str, tuple[Tensor, int | None]] = {}
        self._handles: list[RemovableHandle] = []
        self._depth = 0

    def __enter__(self) -> Taps:
        if self._depth == 0:
            found = find_layers(self.model, self.layers)  # again: a module may have been replaced since
            self.clear()
            self._handles.append(unwrapped(self.model).register_forward_pre_hook(self._forget))
            self._handles += [module.register_forward_hook(self._reader(name)) for name, module in found.items()]
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()

    @property
    def features(self) -> dict[str, Tensor]:
        """Name -> features (N, C, H, W) of the last forward, in the order of `layers`.

        A layer that ran several times in it gives its last output.

        Raises:
            InputError: the model has not run, did not run one of the layers, or changed a layer's output in place
                afterwards, so that it can no longer be read. (A change under `inference_mode` goes unseen: PyTorch keeps
                no record there.)
        """
        if not self._outputs:
            raise InputError("no features yet; run the model inside the 'with' block, then read them")
        for name in self.layers:
            if name not in self._outputs:
                raise InputError(f"layer {name!r} did not run in the last forward; tap a layer that runs")
            output, version = self._outputs[name]
            if version is not None and output._version != version:
                raise InputError(
                    f"the output of layer {name!r} was changed in place after it was read, as by a "
                    "ReLU(inplace=True); tap the layer that changes it, or make that one not in-place"
                )
        return {name: self._outputs[name][0] for name in self.layers}

    def clear(self) -> None:
        """Forgets the features, so that their memory can be used again."""
        self._outputs.clear()

    def _forget(self, _module: nn.Module, _args: Any) -> None:
        self._outputs.clear()

    def _reader(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def read(_module: nn.Module, _args: Any, output: Any) -> None:
            features = spatial(name, output)
            if torch.compiler.is_compiling():
                # A compiled graph returns a tensor as it is at the end: later changes in place would be in it, unseen.
                self._outputs[name] = (features.clone(), None)
            else:
                self._outputs[name] = (features, None if features.is_inference() else features._version)

        return read
