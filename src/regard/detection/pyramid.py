"""A feature pyramid over any network with stages."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from regard.errors import InputError, first_line, unknown
from regard.modes import evaluation_mode, example_images, run_on_meta
from regard.stages import stage_parts

Extra = Literal["pool", "p6p7", "p6p7-from-p5"]


class Pyramid(nn.Module):
    """A feature pyramid network (Lin et al., arXiv 1612.03144) over a classification network.

    The network becomes the child `body`, with unchanged names; only the modules after the last level, its classifier,
    are removed. Each level is the output of the last stage with its stride. One run on the meta device finds the stages
    and strides. Attention may be attached before or after.

    Args:
        model: a network with stages (`regard.stages`), from `models.create`, timm or torchvision. It becomes a part of
            the pyramid; its classifier is removed in place.
        strides: strides of the network's levels in pixels, ascending.
        channels: C of every level.
        extra: additional, coarser levels: 'pool', every second pixel of the last level (as in Faster R-CNN); 'p6p7',
            two convolutions with stride 2 from the last stage (RetinaNet, arXiv 1708.02002); 'p6p7-from-p5', the same
            from the last level (FCOS, arXiv 1904.01355); None for none.

    Shape: images (N, 3, H, W) -> {'0': (N, C, H / strides[0], W / strides[0]), '1': …}, with 'pool', or 'p6' and 'p7'.

    Attributes:
        levels: stride -> name of the stage in `body`.
        strides: strides of all levels, including the extra ones.
        out_channels: C.

    Raises:
        InputError: the network has no stage with one of the strides, or does not run without its classifier.
    """

    def __init__(
        self,
        model: nn.Module,
        strides: Sequence[int] = (4, 8, 16, 32),
        channels: int = 256,
        extra: Extra | None = None,
    ) -> None:
        super().__init__()
        trace = trace_network(model)
        stages = trace.strides()
        if not stages:
            raise InputError(f"{type(model).__name__} has no stage that outputs features (N, C, H, W)")
        if not isinstance(strides, Sequence) or not strides or any(stride not in stages for stride in strides):
            raise InputError(
                f"{type(model).__name__} has stages of the strides {', '.join(map(str, sorted(stages)))}, not "
                f"{strides!r:.60}; give a list of some of them (strides), or take another network"
            )
        self.levels = {stride: stages[stride] for stride in sorted(strides)}
        self.body = model
        _remove_head(model, trace, max(trace.ends[name] for name in self.levels.values()))
        trace_network(model)  # raises an error if the network does not run without its head
        widths = [trace.shapes[name][1] for name in self.levels.values()]
        extras: dict[str | None, tuple[Callable[[], ExtraFPNBlock | None], int]] = {
            None: (lambda: None, 0),
            "pool": (LastLevelMaxPool, 1),
            "p6p7": (lambda: LastLevelP6P7(widths[-1], channels), 2),
            "p6p7-from-p5": (lambda: LastLevelP6P7(channels, channels), 2),
        }
        if extra not in extras:
            raise unknown("extra levels", extra, map(str, extras))
        block, count = extras[extra]
        self.fpn = FeaturePyramidNetwork(widths, channels, extra_blocks=block())
        self.out_channels = channels
        last = max(self.levels)
        self.strides = (*self.levels, *(last * 2**i for i in range(1, count + 1)))
        self._hooked: dict[str, nn.Module] = {}
        self._features: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self._hook()
        self.body(images)
        levels = OrderedDict((str(i), self._features.pop(name)) for i, name in enumerate(self.levels.values()))
        features: dict[str, Tensor] = self.fpn(levels)
        return features

    def _hook(self) -> None:
        """Adds hooks to the stages; also to a new stage, after attention was attached behind the old one."""
        for name in self.levels.values():
            stage = self.body.get_submodule(name)
            if self._hooked.get(name) is not stage:
                if name in self._hooked:
                    hooks = self._hooked[name]._forward_hooks
                    for key in [key for key, hook in hooks.items() if getattr(hook, "func", None) == self._store]:
                        del hooks[key]
                stage.register_forward_hook(partial(self._store, name))
                self._hooked[name] = stage

    def _store(self, name: str, _stage: nn.Module, _args: Any, features: Tensor) -> None:
        self._features[name] = features


@dataclass
class Trace:
    """The calls of modules while a network runs on an image.

    Attributes:
        side: side of the image, in pixels.
        first: module -> step of its first call.
        ends: stage -> step at which it returned its output.
        shapes: stage -> shape (N, C, H, W) of its output.
    """

    side: int
    first: dict[nn.Module, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, torch.Size] = field(default_factory=dict)
    steps: int = 0

    def strides(self) -> dict[int, str]:
        """Stride in pixels -> last stage with this stride."""
        return {2 ** round(math.log2(self.side / shape[-1])): name for name, shape in self.shapes.items()}

    def enter(self, module: nn.Module, _args: Any) -> None:
        self.steps += 1
        self.first.setdefault(module, self.steps)

    def leave(self, name: str, _stage: nn.Module, _args: Any, output: Any) -> None:
        self.steps += 1
        self.ends[name] = self.steps
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
            self.shapes[name] = output.shape


def trace_network(network: nn.Module) -> Trace:
    """Runs a network on the meta device, in evaluation mode; the network is unchanged afterwards."""
    names, problem = list(stage_parts(network)), "it has no convolution over images"
    for images in example_images(network):
        trace = Trace(images.shape[-1])
        handles = [module.register_forward_pre_hook(trace.enter) for module in network.modules()]
        handles += [
            network.get_submodule(name).register_forward_hook(partial(trace.leave, name), prepend=True)
            for name in names
        ]
        try:
            with evaluation_mode(network):
                run_on_meta(network, images)
            return trace
        except Exception as error:  # networks raise almost anything at an image size they do not take
            problem = first_line(error)
        finally:
            for handle in handles:
                handle.remove()
    raise InputError(f"{type(network).__name__} cannot be the body of a pyramid: {problem}")


class _Placeholder(nn.Module):
    """Replaces a removed module: returns the first pixel of every channel, so that later operations are cheap."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x[..., :1, :1].clone()


def _remove_head(network: nn.Module, trace: Trace, end: int) -> None:
    """Replaces the modules that are first called after step `end`."""
    for parent in [network, *trace.first]:
        for name, child in list(parent.named_children()):
            if trace.first.get(child, 0) > end:
                setattr(parent, name, _Placeholder())
