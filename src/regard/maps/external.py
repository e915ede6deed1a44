"""The methods of the grad-cam package, under the same call as the own ones."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import InputError, first_line, unknown
from regard.logits import logits_of
from regard.maps.features import Reshape, arrangement
from regard.maps.graph import check_ran, hooked, run
from regard.maps.layers import Layer, find_layers, stands_for, unwrapped
from regard.maps.method import Asked, MapMethod

PREFIX = "grad-cam:"
INSTALL = "pip install 'regard[cams]'"

_PACKAGE = "pytorch_grad_cam"
_CONSTRUCTED = ("self", "model", "target_layers", "reshape_transform")  # what an option cannot be
_CALLED = ("self", "input_tensor", "targets", "target_idx")

_ALL_LAYERS = ("FullGrad",)  # takes every layer with a bias, whatever it is given
_BIASES = "biases"
_FULL_SIZE = ("FullGrad", "SESS")  # puts its maps together at the size of the images
_ONE_LAYER = ("ShapleyCAM",)  # frees the graph after the first
_PLAIN_FEATURES = ("ShapleyCAM",)  # multiplies weights of reshaped features with features that are not
_FINER_RANKS = (1, 2, 3)  # FinerCAM's own: the three classes of nearest score
_ONE_BY_ONE = ("ScoreCAM",)  # holds a masked image for every channel, for all images it is given at once


class ExternalMap(MapMethod):
    """A method of the grad-cam package (https://github.com/jacobgil/pytorch-grad-cam, version 1.5).

    The package scales every map to [0, 1] before and after it enlarges it, and fuses layers by the mean. The model runs
    in its own precision, without autocast. For (N, K) classes the package is called K times. `FullGrad` and `SESS`
    always give maps as large as the images; `FullGrad` takes all biases of the network in place of a layer.

    What the package changes in a model is put back: modes, hooks, gradients, `requires_grad`, exchanged layers.

    Not among them are what gives no map of a class: `GuidedBackpropReLUModel` gives a gradient in colour, of one image,
    and leaves a model behind whose ReLUs are another module; `DeepFeatureFactorization` gives concepts that are shared
    by the images. `ShapleyCAM` cannot read several layers, nor one that gives tokens or (N, H, W, C).

    Args:
        name: of a class of the package, in capitals or not.
        model: see `MapMethod`.
        layer: see `MapMethod`; None is the only one for "FullGrad".
        reshape: see `MapMethod`.
        options: those of the package's class and of its call, for example `batch_size` of "AblationCAM" or
            `eigen_smooth`; a `base_method` is given by its name.

    Raises:
        InputError: the package is not installed; an unknown name, layer or option.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        layer: Layer | Sequence[Layer] | None = None,
        *,
        reshape: Reshape | None = None,
        **options: Any,
    ) -> None:
        self._package = _imported()
        methods = _methods(self._package)
        self.name = {known.lower(): known for known in methods}.get(name.lower(), name)
        if self.name not in methods:
            raise unknown("method of the grad-cam package", name, methods)
        self._method = methods[self.name]
        self._channels_last = False  # the layer's outputs, as the last call found them
        self._constructed, self._called = _sorted_options(self.name, self._method, methods, options)
        super().__init__(model, layer, reshape=reshape)

    def _find(self, layer: Layer | Sequence[Layer] | None) -> tuple[str, ...]:
        if self.name not in _ALL_LAYERS:
            layers = super()._find(layer)
            if self.name in _ONE_LAYER and len(layers) > 1:
                raise InputError(f"{self.name} of the grad-cam package reads one layer; {len(layers)} given")
            return layers
        if layer is not None and not stands_for(layer, _BIASES, self.model):
            raise InputError(f"{self.name} reads the biases of all layers; leave the layer out")
        if not _with_biases(unwrapped(self.model)):
            raise InputError(
                f"{self.name} of the grad-cam package reads the biases of nn.Conv2d and nn.BatchNorm2d, and "
                f"{type(unwrapped(self.model)).__name__} has none; take another method"
            )
        return (_BIASES,)

    def _whole(self, images: Tensor, asked: Asked, upsample: bool) -> Tensor:
        logits, sizes = self._first_run(images)
        size = None if upsample or self.name in _FULL_SIZE else max(sizes.values(), key=math.prod)
        return self._of_classes(images, logits, self._choose(logits, asked), self.layers, size)

    def _by_layer(self, images: Tensor, asked: Asked) -> dict[str, Tensor]:
        logits, sizes = self._first_run(images)
        chosen = self._choose(logits, asked)
        return {name: self._of_classes(images, logits, chosen, (name,), sizes.get(name)) for name in self.layers}

    def _first_run(self, images: Tensor) -> tuple[Tensor, dict[str, tuple[int, int]]]:
        """The logits, and the size of every layer's features."""
        if images.dtype not in (torch.float32, torch.float64):  # much of the package goes through numpy
            raise InputError(
                f"model and images are {images.dtype}; the grad-cam package needs them in float32 or float64"
            )
        sizes: dict[str, tuple[int, int]] = {}

        def look(name: str, output: Any) -> None:
            features = arrangement(unwrapped(self.model), name, output, images, self.reshape)(output)
            if self.name in _PLAIN_FEATURES and features is not output:
                raise InputError(
                    f"{self.name} of the grad-cam package reads features (N, C, H, W) only, and layer {name!r} gives "
                    f"{tuple(output.shape)}; take another layer or method"
                )
            self._channels_last = features is not output and features.shape[1] == output.shape[-1]
            sizes[name] = (features.shape[-2], features.shape[-1])

        with torch.autocast(images.device.type, enabled=False):
            if self.name in _ALL_LAYERS:
                return self._run_with_biases(images), {}
            with hooked(self.model, self.layers, look):
                logits = run(self.model, images)
        check_ran(self.layers, sizes)
        return logits, sizes

    def _run_with_biases(self, images: Tensor) -> Tensor:
        """The logits, if every layer with a bias runs once, as the package takes for granted."""
        runs = dict.fromkeys(_with_biases(unwrapped(self.model)), 0)

        def look(name: str, _output: Any) -> None:
            runs[name] += 1

        with hooked(self.model, list(runs), look):
            logits = run(self.model, images)
        for name, count in runs.items():
            if count != 1:
                raise InputError(
                    f"{self.name} of the grad-cam package needs every layer with a bias to run once; layer {name!r} "
                    f"ran {count} times: take another method"
                )
        return logits

    def _of_classes(
        self, images: Tensor, logits: Tensor, chosen: Tensor, layers: Sequence[str], size: tuple[int, int] | None
    ) -> Tensor:
        """The maps (N, K, h, w) of the classes (N, K), all layers in one; size None: that of the images."""
        parts = [slice(i, i + 1) for i in range(len(images))] if self.name in _ONE_BY_ONE else [slice(None)]
        with self._borrowed(layers) as cam, torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            if size is not None:
                for base in _base_methods(cam):
                    base.get_target_width_height = lambda _: size[::-1]
            maps = [
                torch.cat(
                    [
                        torch.as_tensor(cam(images[part], self._targets(logits[part], classes[part]), **self._called))
                        for part in parts
                    ]
                )
                for classes in chosen.unbind(1)
            ]
        return torch.stack(maps, 1).to(images.device)

    def _targets(self, logits: Tensor, classes: Tensor) -> list[Any]:
        """What the package is to explain, an object for each image."""
        makers = self._package.utils.model_targets
        if logits.shape[1] == 1:
            return [makers.BinaryClassifierOutputTarget(class_) for class_ in classes.tolist()]
        if self.name != "FinerCAM":
            return [makers.ClassifierOutputTarget(class_) for class_ in classes.tolist()]
        # Given a plain target, FinerCAM would be its base method. It compares a class with those of similar scores.
        ranks = self._called.get("comparison_categories") or _FINER_RANKS
        distances = (logits - logits.gather(1, classes[:, None])).abs().scatter(1, classes[:, None], -1)
        similar = distances.argsort(1)[:, [rank for rank in ranks if rank < logits.shape[1]]]
        return [
            makers.FinerWeightedTarget(class_, others, self._called.get("alpha", 1))
            for class_, others in zip(classes.tolist(), similar.tolist(), strict=True)
        ]

    @contextmanager
    def _borrowed(self, layers: Sequence[str]) -> Iterator[Any]:
        """An object of the package's class, at work on the model, which is afterwards as it was."""
        model = unwrapped(self.model)
        tapped = {} if self.name in _ALL_LAYERS else find_layers(model, layers)
        reshape = _Reshape(model, tapped, self.reshape)
        options = dict(self._constructed)
        if "ablation_layer" in inspect.signature(self._method).parameters:  # the package's own is shared by all
            kind = self._package.AblationLayerVit if self._channels_last else self._package.AblationLayer
            options.setdefault("ablation_layer", kind())
        with _restored(model), _without_progress(self._package):
            reshape.watch()
            cam = self._method(model, list(tapped.values()), reshape_transform=reshape, **options)
            bases = _base_methods(cam)
            # A Hessian needs parameters that require gradients; the other methods only waste time on theirs, and need
            # images that require them where parameters do not.
            second_order = any(not base.detach for base in bases)
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter.requires_grad_(second_order)
            read = {module for base in bases for module in base.target_layers}
            copying = [(module, module.register_forward_hook(_copied).id) for module in read]

            def prepare(_module: nn.Module, args: Any) -> Any:
                for module, hook in copying:  # behind hooks that came since, such as AblationCAM's
                    module._forward_hooks.move_to_end(hook)
                images = args[0]
                if torch.is_grad_enabled() and not images.requires_grad:
                    images = images.detach().requires_grad_()
                return (images.clone(), *args[1:])

            model.register_forward_pre_hook(prepare)
            model.register_forward_hook(lambda _module, _args, output: logits_of(output))
            yield cam


class _Reshape:
    """The package asks for one function that reshapes the outputs, and gradients, of all layers; here it is.

    What a layer gives is seen in every forward, because the package runs the model with images of several sizes.
    """

    def __init__(self, model: nn.Module, layers: dict[str, nn.Module], reshape: Reshape | None) -> None:
        self._model, self._layers, self._reshape = model, layers, reshape
        self._images: Tensor | None = None
        self._ways: dict[tuple[int, ...], Reshape] = {}

    def __call__(self, output: Tensor) -> Tensor:
        way = self._ways.get(tuple(output.shape[1:]))
        features = output if way is None else way(output)
        return features.to(torch.promote_types(features.dtype, torch.float32))  # numpy knows no bfloat16

    def watch(self) -> None:
        """Has the model say what images it is given, and the layers what they give, before the package asks."""

        def see_images(_module: nn.Module, args: Any) -> None:
            self._images = args[0]

        self._model.register_forward_pre_hook(see_images)
        for name, module in self._layers.items():

            def see_output(_module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
                way = arrangement(self._model, name, output, self._images, self._reshape)
                self._ways[tuple(output.shape[1:])] = way

            module.register_forward_hook(see_output)


def is_installed() -> bool:
    """Whether the grad-cam package is there."""
    return importlib.util.find_spec(_PACKAGE) is not None


def names() -> list[str]:
    """The names of its methods, sorted; none if it is not installed, or does not work."""
    try:
        return sorted(_methods(_imported()))
    except InputError:
        return []


def _imported() -> Any:
    if not is_installed():
        raise InputError(f"methods of the grad-cam package need it: {INSTALL}")
    try:
        return importlib.import_module(_PACKAGE)
    except ImportError as error:  # libraries of the system that opencv needs, for example
        raise InputError(f"the grad-cam package cannot be imported: {first_line(error)}; {INSTALL}") from None


def _methods(package: ModuleType) -> dict[str, type]:
    """The package's classes that make class activation maps: made for target layers, called with images and targets."""
    return {
        name: thing
        for name, thing in vars(package).items()
        if inspect.isclass(thing)
        and {"model", "target_layers"} <= inspect.signature(thing).parameters.keys()
        and {"input_tensor", "targets"} <= inspect.signature(getattr(thing, "forward", _methods)).parameters.keys()
    }


def _base_methods(cam: Any) -> list[Any]:
    """The object itself, or those it is made of, where it is a method on top of another."""
    if hasattr(cam, "activations_and_grads"):
        return [cam]
    inside = [part for value in vars(cam).values() for part in (value if isinstance(value, list) else [value])]
    return [part for part in inside if hasattr(part, "activations_and_grads")]


def _sorted_options(
    name: str, method: type, methods: dict[str, type], options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options for the class, and those for its call."""
    if isinstance(base := options.get("base_method"), str):
        known = {known.lower(): known for known in methods}
        if base.lower().removeprefix(PREFIX) not in known:
            raise unknown("method of the grad-cam package", base, methods)
        options = {**options, "base_method": methods[known[base.lower().removeprefix(PREFIX)]]}
    constructed = _options_of(method)
    if _is_open_ended(method) and "base_method" in constructed:
        default = inspect.signature(method).parameters["base_method"].default
        constructed += [key for key in _options_of(options.get("base_method", default)) if key not in constructed]
    call = method.__call__ if not _is_open_ended(method.__call__) else vars(method)["forward"]
    called = [key for key in inspect.signature(call).parameters if key not in _CALLED]
    for option in options:
        if option not in constructed and option not in called:
            raise unknown(f"option of {name} of the grad-cam package", option, [*constructed, *called])
    return (
        {key: value for key, value in options.items() if key in constructed},
        {key: value for key, value in options.items() if key not in constructed},
    )


def _options_of(method: type) -> list[str]:
    return [
        key
        for key, parameter in inspect.signature(method).parameters.items()
        if key not in _CONSTRUCTED and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def _with_biases(model: nn.Module) -> list[str]:
    """The layers whose biases FullGrad reads; it goes by the very class."""
    return [
        name
        for name, module in model.named_modules()
        if name and type(module) in (nn.Conv2d, nn.BatchNorm2d) and module.bias is not None
    ]


def _is_open_ended(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _copied(_module: nn.Module, _args: Any, output: Any) -> Any:
    """What follows a layer works on a copy, in place or not; what the package keeps stays as it is."""
    return output.clone() if isinstance(output, Tensor) else output


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Afterwards the model has the modules, hooks, gradients and `requires_grad` it had before."""
    modules = [
        (module, dict(module._modules), set(module._forward_hooks), set(module._forward_pre_hooks))
        for module in model.modules()
    ]
    parameters = [(parameter, parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, inside, hooks, pre_hooks in modules:
            module._modules.update(inside)
            for kept, found in ((hooks, module._forward_hooks), (pre_hooks, module._forward_pre_hooks)):
                for key in [key for key in found if key not in kept]:
                    del found[key]
        for parameter, gradient, required in parameters:
            parameter.grad = gradient
            parameter.requires_grad_(required)


@contextmanager
def _without_progress(package: ModuleType) -> Iterator[None]:
    """No progress bar for every image: inside, the package's modules loop without tqdm."""
    silent = SimpleNamespace(tqdm=lambda iterable, *_args, **_options: iterable)
    loud = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(f"{package.__name__}.") and hasattr(module, "tqdm")
    ]
    before = [module.tqdm for module in loud]
    try:
        for module in loud:
            module.tqdm = silent  # type: ignore[attr-defined]
        yield
    finally:
        for module, tqdm in zip(loud, before, strict=True):
            module.tqdm = tqdm  # type: ignore[attr-defined]
