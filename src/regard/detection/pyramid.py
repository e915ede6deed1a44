"""A feature pyramid over any network that has stages."""

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
from regard.modes import evaluation_mode, example_images, run_without_values
from regard.stages import stage_parts

Extra = Literal["pool", "p6p7", "p6p7-from-p5"]


class Pyramid(nn.Module):
    """A feature pyramid network (Lin et al., arXiv 1612.03144) over a classification network.

    The network stays whole, under its own names, as the child `body`; only what it runs after the last level, its
    classifier, is removed. Levels are the outputs of its stages: of several stages of one stride the last. They are
    found by one run on the meta device, which computes nothing. Attention may be attached before or after.

    Args:
        model: a network with stages (`regard.stages`): one of `models.create`, timm or torchvision. It becomes a part
            of the pyramid; its classifier is removed in place.
        strides: of the levels that the network gives, in pixels, ascending.
        channels: C of every level.
        extra: further, coarser levels: 'pool', every second pixel of the last level (as in Faster R-CNN); 'p6p7', two
            convolutions of stride 2 from the last stage (RetinaNet, arXiv 1708.02002); 'p6p7-from-p5', the same from
            the last level (FCOS, arXiv 1904.01355); None for none.

    Shape: images (N, 3, H, W) -> {'0': (N, C, H / strides[0], W / strides[0]), '1': …}, with 'pool', or 'p6' and 'p7'.

    Attributes:
        levels: stride -> name of the stage in `body`.
        strides: of all levels, the extra ones included.
        out_channels: C.

    Raises:
        InputError: the network has no stage of one of the strides, or does not run without its classifier.
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
        known = trace.strides()
        if not known:
            raise InputError(f"{type(model).__name__} has no stage that gives features (N, C, H, W)")
        if not isinstance(strides, Sequence) or not strides or any(stride not in known for stride in strides):
            raise InputError(
                f"{type(model).__name__} has stages of the strides {', '.join(map(str, sorted(known)))}, not "
                f"{strides!r:.60}; give a list of some of them (strides), or take another network"
            )
        self.levels = {stride: known[stride] for stride in sorted(strides)}
        self.body = model
        _remove_head(model, trace, max(trace.ends[name] for name in self.levels.values()))
        trace_network(model)  # it runs without
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
        """Hooks the stages, again where one was exchanged: by attention that was attached behind it."""
        for name in self.levels.values():
            stage = self.body.get_submodule(name)
            if self._hooked.get(name) is not stage:
                keep = partial(self._keep, name)
                if name in self._hooked:
                    hooks = self._hooked[name]._forward_hooks
                    for key in [key for key, hook in hooks.items() if getattr(hook, "func", None) == self._keep]:
                        del hooks[key]
                stage.register_forward_hook(keep)
                self._hooked[name] = stage

    def _keep(self, name: str, _stage: nn.Module, _args: Any, features: Tensor) -> None:
        self._features[name] = features


@dataclass
class Trace:
    """What a network does with an image, in order.

    Attributes:
        side: of the image, in pixels.
        first: module -> the step at which it is first called.
        ends: stage -> the step at which it has given its output.
        shapes: stage -> (N, C, H, W) of that.
    """

    side: int
    first: dict[nn.Module, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, torch.Size] = field(default_factory=dict)
    steps: int = 0

    def strides(self) -> dict[int, str]:
        """Stride in pixels -> the last stage of it."""
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
    """Runs a network on the meta device, in evaluation mode; it stays as it is.

    Raises:
        InputError: it has no stages, or does not run.
    """
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
                run_without_values(network, images)
            return trace
        except Exception as error:  # networks raise almost anything at an image size they do not take
            problem = first_line(error)
        finally:
            for handle in handles:
                handle.remove()
    raise InputError(f"{type(network).__name__} cannot be the body of a pyramid: {problem}")


class _Removed(nn.Module):
    """Stands where a classifier was: gives the first value of every channel, so that what follows runs and is cheap."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x[..., :1, :1].clone()


def _remove_head(network: nn.Module, trace: Trace, end: int) -> None:
    """Removes the modules that are called only after step `end`."""
    for parent in [network, *trace.first]:
        for name, child in list(parent.named_children()):
            if trace.first.get(child, 0) > end:
                setattr(parent, name, _Removed())
