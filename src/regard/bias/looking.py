"""What one batch of images comes to: maps, measures, and whether the class was right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from regard.bias.measures import check_pixels, check_threshold, measure
from regard.bias.rows import COLUMNS
from regard.errors import InputError
from regard.logits import class_logits, predicted_classes
from regard.maps import MapMethod, create
from regard.maps.layers import Layer, unwrapped
from regard.maps.registry import MapFunction, method_name

Mapper = MapMethod | MapFunction
Target = Literal["predicted", "label"]

_WHOLE = [name for name, dtype in COLUMNS.items() if dtype is not np.float32]
_REAL = [name for name, dtype in COLUMNS.items() if dtype is np.float32]


class Looker:
    """A model, what makes its maps, and how these are judged.

    Args:
        model: maps images to class scores (N, classes).
        method: the name of a method of `regard.maps`, a `MapMethod` of the model, or a function `(model, images,
            classes) -> maps`; see `maps.create`.
        layer: for a method by name; None: the last spatial features.
        target: whose maps: of the "predicted" class, or of the "label", where an image has one.
        threshold: of the focus, above 0, at most 1.
        margin: of range bias, in pixels; see `measure`.
        tolerance: of the pointing game, likewise.

    Attributes:
        method: the name of the method.
        layer: the names of its layers, joined by "+"; "" where the method has its own way.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Mapper = "gradcam",
        layer: Layer | Sequence[Layer] | None = None,
        target: Target = "predicted",
        threshold: float = 0.5,
        margin: int = 0,
        tolerance: int = 0,
    ) -> None:
        self.model = model
        self.target = target
        self.threshold = check_threshold(threshold)
        self.margin = check_pixels("margin", margin)
        self.tolerance = check_pixels("tolerance", tolerance)
        if isinstance(method, MapMethod):
            if layer is not None:
                raise InputError("a layer is for a method by name; this one knows its layer: leave it out")
            if unwrapped(method.model) is not unwrapped(model):
                raise InputError(f"the {type(method).__name__} is of another model; make one of the model to evaluate")
            self.mapper = method
        else:
            self.mapper = create(method, model, layer)
        self.method = method_name(method)
        self.layer = self.mapper.layer

    def maps(self, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (B, h, w), class scores (B, classes), and the classes explained (B,).

        Args:
            images: (B, 3, H, W), as the model wants them.
            classes: outputs of the model, (B,); None: the predicted ones.
        """
        maps = self.mapper(images, classes)
        assert self.mapper.logits is not None and self.mapper.classes is not None
        return maps, self.mapper.logits, self.mapper.classes

    def measured(self, images: Tensor, labels: Tensor, targets: Tensor, regions: Tensor) -> Measured:
        """The rows of a batch, still on the device.

        Args:
            images: (B, 3, H, W), as the model wants them.
            labels: int64 (B,), classes of the set; -1: none.
            targets: int64 (B,), the outputs of the model that stand for them; -1: none.
            regions: bool (B, H, W).
        """
        maps, logits, explained = self.maps(images, targets if self.target == "label" else None)
        predicted, scores = predicted_classes(logits), class_logits(logits)
        measures = measure(maps, regions.to(maps.device), self.threshold, margin=self.margin, tolerance=self.tolerance)
        columns = {
            "label": labels,
            "predicted": predicted,
            "explained": explained,
            "probability": scores.float().softmax(1).gather(1, explained[:, None])[:, 0],
            "correct": predicted == targets.to(predicted.device),
            **dict(measures.items()),
        }
        whole, real = (
            torch.stack([columns[name].to(logits.device, dtype) for name in names])
            for names, dtype in ((_WHOLE, torch.int64), (_REAL, torch.float32))
        )
        return Measured(whole, real, scores.shape[1])


class Measured:
    """Rows of some images, in two tensors, so that they come from the device in two transfers."""

    def __init__(self, whole: Tensor, real: Tensor, outputs: int) -> None:
        self.whole = whole  # int64 (columns, B)
        self.real = real  # float32 (columns, B)
        self.outputs = outputs

    @staticmethod
    def columns(parts: Sequence[Measured]) -> dict[str, np.ndarray]:
        """Name -> (N,), of all parts one after another."""
        if not parts:
            return {name: np.empty(0, dtype) for name, dtype in COLUMNS.items()}
        whole = torch.cat([part.whole for part in parts], 1).cpu().numpy()
        real = torch.cat([part.real for part in parts], 1).cpu().numpy()
        arrays = {**dict(zip(_WHOLE, whole, strict=True)), **dict(zip(_REAL, real, strict=True))}
        return {name: arrays[name].astype(dtype) for name, dtype in COLUMNS.items()}
