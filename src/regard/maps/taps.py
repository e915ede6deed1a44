"""Taps: named places in a model whose outputs are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.maps.features import Reshape, arrangement
from regard.maps.layers import Layer, find_layers, is_compiled, unwrapped


class Taps:
    """Reads the outputs of layers while a model runs.

        with Taps(model, ["layer3", "layer4"]) as taps:
            logits = model(images)
            features = taps.features  # {"layer3": (N, C, H, W), "layer4": …}

    Inside the block the layers carry forward hooks; at its end, by error or not, the model is as it was. The block can
    be entered again, also inside itself. Nothing is copied: the features are the very tensors the model works with, or
    views of them, part of its graph if it has one, and are held until the next forward, `clear()`, or the end of the
    Taps' life.

    Tokens (N, T, C) of vision transformers become a grid, without those in front that stand for no place, and
    (N, H, W, C) is turned; which it is, is read off the images, the first argument of the model.

    It works in training, under `no_grad`, `inference_mode` and autocast, and with any memory format. Compiled code
    takes no notice of hooks that come and go: if the model or a part of it is compiled, nothing runs compiled inside
    the block.

    Args:
        model: any module; it may be compiled or wrapped in `DistributedDataParallel`, or in a `DataParallel` of one
            device.
        layers: names as in `model.named_modules()`, or the modules themselves; one or several. None: the stages.
        reshape: makes features (N, C, H, W) of what a layer gives, where that is none of the above.

    Raises:
        InputError: a layer the model does not have; when the model runs, a layer that gives no features.
    """

    def __init__(
        self, model: nn.Module, layers: Layer | Sequence[Layer] | None = None, *, reshape: Reshape | None = None
    ) -> None:
        self.model = model
        self.reshape = reshape
        self._images: Tensor | None = None
        self.layers = tuple(find_layers(model, layers))
        self._outputs: dict[str, tuple[Tensor, int | None]] = {}
        self._ran = False
        self._undo = ExitStack()
        self._depth = 0

    def __enter__(self) -> Taps:
        if self._depth == 0:
            found = find_layers(self.model, self.layers)  # again: a module may have been replaced since
            self.clear()
            if is_compiled(self.model):
                self._undo.enter_context(torch.compiler.set_stance("force_eager"))
            self._undo.callback(unwrapped(self.model).register_forward_pre_hook(self._forget).remove)
            for name, module in found.items():
                self._undo.callback(module.register_forward_hook(self._reader(name)).remove)
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._undo.close()

    @property
    def features(self) -> dict[str, Tensor]:
        """Name -> features (N, C, H, W) of the last forward, in the order of `layers`.

        A layer that ran several times in it gives its last output.

        Raises:
            InputError: the model has not run, did not run one of the layers, or changed a layer's output in place
                afterwards, so that it can no longer be read. (A change under `inference_mode` goes unseen: PyTorch
                keeps no record there.)
        """
        if not self._outputs and not self._ran:
            raise InputError(
                "no features yet; run the model inside the 'with' block (if it is compiled, give Taps the compiled one)"
            )
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
        self._ran = False
        self._images = None

    def _forget(self, _module: nn.Module, args: Any) -> None:
        self.clear()
        self._ran = True
        images = args[0] if args else None
        self._images = images if isinstance(images, Tensor) and images.ndim == 4 else None

    def _reader(self, name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def read(_module: nn.Module, _args: Any, output: Any) -> Tensor | None:
            return self._take(
                name, output, arrangement(unwrapped(self.model), name, output, self._images, self.reshape)
            )

        return read

    def _take(self, name: str, output: Any, arrange: Reshape) -> Tensor | None:
        """Takes what there is to read of a layer's output; what it returns, if anything, goes on in its place."""
        features = arrange(output)
        # Within a compiled function a tensor is given as it is at the function's end, later changes in it unseen.
        self._keep(name, features.clone() if torch.compiler.is_compiling() else features)
        return None

    def _keep(self, name: str, value: Tensor) -> None:
        known = not torch.compiler.is_compiling() and not value.is_inference()
        self._outputs[name] = (value, value._version if known else None)
