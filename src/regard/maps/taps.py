"""Taps: layers of a model whose outputs, or attention maps, are read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import InputError
from regard.maps.activation import Reduce, activation_map, check_power
from regard.maps.features import Reshape, arrangement
from regard.maps.layers import Layer, find_layers, is_compiled, unwrapped


class Taps:
    """Reads the outputs of layers while a model runs.

    Example::

        with Taps(model, ["layer3", "layer4"]) as taps:
            logits = model(images)
            features = taps.features  # {"layer3": (N, C, H, W), "layer4": …}

    Inside the block the layers carry forward hooks; at its end, also after an error, they are removed. The block can
    be entered again, also inside itself. Nothing is copied: the features are the very tensors the model works with, or
    views of them, part of its graph if it has one, and are kept until the next forward, `clear()`, or the end of the
    Taps' life.

    Tokens (N, T, C) of vision transformers become a grid, without prefix tokens, and (N, H, W, C) is turned; which it
    is, is read off the images, the first argument of the model.

    It works in training, under `no_grad`, `inference_mode` and autocast, and with any memory format. Compiled code
    ignores hooks added later: if the model or a part of it is compiled, nothing runs compiled inside the block.

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
        self.layers = tuple(find_layers(model, layers))
        self._network = unwrapped(model)
        self._images: Tensor | None = None
        self._kept: dict[str, tuple[Tensor, Tensor, int | None]] = {}
        self._arrangements: dict[tuple[object, ...], Reshape] = {}  # by layer and shapes
        self._ran = False
        self._undo = ExitStack()
        self._depth = 0

    def __enter__(self) -> Taps:
        if self._depth == 0:
            self.clear()
            if is_compiled(self.model):
                self._undo.enter_context(torch.compiler.set_stance("force_eager"))
            self._undo.callback(self._network.register_forward_pre_hook(self._begin).remove)
            for name in self.layers:  # by name: a module may have been replaced since
                module = self._network.get_submodule(name)
                self._undo.callback(module.register_forward_hook(partial(self._read, name)).remove)
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
        return self._values()

    def _values(self) -> dict[str, Tensor]:
        if not self._kept and not self._ran:
            raise InputError(
                "no features yet; run the model inside the 'with' block (if it is compiled, give Taps the compiled one)"
            )
        for name in self.layers:
            if name not in self._kept:
                raise InputError(f"layer {name!r} did not run in the last forward; tap a layer that runs")
            _, needed, version = self._kept[name]
            if version is not None and needed._version != version:
                raise InputError(
                    f"the output of layer {name!r} was changed in place after it was read, as by a "
                    "ReLU(inplace=True); tap the layer that changes it, or make that one not in-place"
                )
        return {name: self._kept[name][0] for name in self.layers}

    def take(self) -> dict[str, Tensor]:
        """What is kept of the last forward, see `features`; it is then forgotten here."""
        kept = self._values()
        self.clear()
        return kept

    def clear(self) -> None:
        """Forgets the features, so that their memory can be used again."""
        self._kept.clear()
        self._ran = False
        self._images = None

    def _begin(self, _module: nn.Module, args: Any) -> None:
        self.clear()
        self._ran = True
        images = args[0] if args else None
        self._images = images if isinstance(images, Tensor) and images.ndim == 4 else None

    def _read(self, name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        features = self._arranged(name, output)
        value = self._value(features)
        needed = features if value.requires_grad else value  # unchanged, until the gradients are computed
        known = not torch.compiler.is_compiling() and not needed.is_inference()
        self._kept[name] = (value, needed, needed._version if known else None)

    def _arranged(self, name: str, output: Any) -> Tensor:
        """The features in a layer's output; where they are is found out once for each shape."""
        if torch.compiler.is_compiling() or not isinstance(output, Tensor):
            return arrangement(self._network, name, output, self._images, self.reshape)(output)
        key = name, output.shape, None if self._images is None else self._images.shape
        if key not in self._arrangements:
            self._arrangements[key] = arrangement(self._network, name, output, self._images, self.reshape)
        return self._arrangements[key](output)

    def _value(self, features: Tensor) -> Tensor:
        """What is kept of a layer's features."""
        # Within a compiled function a tensor is given as it is at the function's end, later changes in it unseen.
        return features.clone() if torch.compiler.is_compiling() else features


class MapTaps(Taps):
    """Reads the attention maps of layers while a model runs: `Taps` that keep maps instead of features.

    Example::

        with MapTaps(model, ["layer3", "layer4"]) as taps:
            logits = model(images)
            maps = taps.maps  # {"layer3": (N, H, W), "layer4": …}

    A map is computed as soon as the layer has run, while its features are in the cache; features that the model does
    not need are not kept.

    Unlike `Taps` it can run within a compiled function, which then compiles the maps with the model.

    Args:
        power: at least 1; see `activation_map`.
        reduce: "mean", "sum" or "max". The others are those of `Taps`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layer | Sequence[Layer] | None = None,
        *,
        power: float = 2,
        reduce: Reduce = "mean",
        reshape: Reshape | None = None,
    ) -> None:
        check_power(power, reduce)
        super().__init__(model, layers, reshape=reshape)
        self.power = power
        self.reduce: Reduce = reduce

    @property
    def maps(self) -> dict[str, Tensor]:
        """Name -> map (N, H, W) of the last forward, in the order of `layers`; see `Taps.features` for the errors."""
        return self._values()

    @property
    def features(self) -> dict[str, Tensor]:
        raise InputError("MapTaps keep maps, no features; ask for .maps, or use Taps")

    def _value(self, features: Tensor) -> Tensor:
        return activation_map(features, self.power, self.reduce)
