"""Saves networks to folders and the Hugging Face Hub, and loads them: config.json, model.safetensors, README.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, ModelCardData, snapshot_download
from torch import nn

from regard.attention import attached, parse_gate
from regard.errors import InputError, first_line
from regard.files import read_regular, write_text
from regard.models.checkpoints import check_fit, read_checkpoint, write_weights
from regard.models.create import create
from regard.models.loading import build_on_meta, load_built
from regard.stages import unwrapped

CONFIG, WEIGHTS, CARD, RECIPE = "config.json", "model.safetensors", "README.md", "recipe.yaml"
_MAX_CONFIG_BYTES = 1_000_000
# Task of the Hub -> modules of regard to import.
_TASKS = {"image-classification": "models", "object-detection": "detection, models"}
BUILDERS: dict[str, Callable[[Mapping[str, Any], int], nn.Module]] = {}
"""Field of `config.json` -> function that builds networks with this field, from all fields and the number of classes.

`regard.detection` adds "detector" when it is imported; `models.create` builds all other networks."""


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    recipe: str | Path | None = None,
    license: str | None = None,
) -> Path:
    """Writes a network to a folder in the layout of the Hugging Face Hub, and replaces files of the same names.

    `from_pretrained` loads it. Commands accept `model.safetensors` like a file that `regard import` wrote.

    Args:
        model: a network from `models.create` or `detection.create`; its weights may have changed since.
        folder: path of the folder, which is created if it does not exist.
        class_names: names of the classes, in the order of the logits.
        preprocessing: preprocessing of the images, with timm's keys: mean, std, size, crop_pct, crop_mode,
            interpolation.
        metrics: name -> value, for the model card, for example `{"top-1 accuracy": 0.934}`.
        recipe: file of the training recipe, for the folder and the card.
        license: the Hub's name of a license ("mit"), for the card.

    Returns:
        The folder.

    Raises:
        InputError: the network is not from `models.create` or `detection.create`, or its architecture has changed
            since, one of its options cannot be written as JSON, the number of class names is another, or the folder
            cannot be written.
    """
    model, folder = unwrapped(model), Path(folder)
    network, classes = _describe(model)
    if class_names is not None and len(class_names) not in (classes, max(classes, 2)):
        raise InputError(f"the network has {classes} outputs, but there are {len(class_names)} class names")
    config = {
        "network": network,
        "classes": classes,
        "class_names": None if class_names is None else list(class_names),
        "preprocessing": dict(preprocessing or {}),
    }
    try:
        text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(f"the options of {network['name']} cannot be written as JSON ({first_line(error)})") from error
    recipe_text = read_regular(recipe, _MAX_CONFIG_BYTES).decode(errors="replace") if recipe else ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(model, folder / WEIGHTS, config)
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror or first_line(error)})") from error
    write_text(folder / CONFIG, text)
    write_text(folder / CARD, _card(model, network, classes, metrics or {}, recipe_text, license))
    if recipe_text:
        write_text(folder / RECIPE, recipe_text)
    return folder


def from_pretrained(
    name: str | Path, *, revision: str | None = None, endpoint: str | None = None, token: str | None = None
) -> nn.Module:
    """Loads a network that `save_pretrained` wrote, from a folder or the Hugging Face Hub, in evaluation mode.

    No downloaded code runs: `config.json` has arguments of `models.create` or `detection.create`, and the weights are
    safetensors. Memory for the network is allocated only if the weights fit.

    Args:
        name: a folder, or a repository ("someone/resnet50-shuffle"), which is downloaded to the cache of
            huggingface_hub unless it is there.
        revision: branch, tag or commit of the repository; None for the newest commit.
        endpoint: address of the hub; None for `HF_ENDPOINT`, or huggingface.co.
        token: token of the hub; None for the one that `hf auth login` stored.

    Raises:
        InputError: there is no such folder or repository, it holds no network of regard, or it holds a detector and
            `regard.detection` is not imported.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _download(str(name), revision, endpoint, token)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise InputError(f"{name} has no {file}; expected a network that models.save_pretrained wrote")
    try:
        config = json.loads(read_regular(folder / CONFIG, _MAX_CONFIG_BYTES))
        network, classes = dict(config["network"]), int(config["classes"])
        if any("pretrained" in part for part in (network, *network.values()) if isinstance(part, dict)):
            raise ValueError("its options contain pretrained")
        build, kind = partial(_build, network, classes), str(network["name"])
        return load_built(build, read_checkpoint(folder / WEIGHTS), f"{name}/{WEIGHTS}", kind)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}/{CONFIG} describes no network of regard ({first_line(error)[:200]})") from error


def push_to_hub(
    model: nn.Module,
    name: str,
    *,
    private: bool | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    **options: Any,
) -> str:
    """Uploads the files of `save_pretrained` to the Hugging Face Hub; creates the repository if it does not exist.

    Args:
        model: a network from `models.create` or `detection.create`.
        name: name of the repository; for this, `endpoint` and `token` see `from_pretrained`.
        private: whether a new repository is private; None for the default of the account.
        options: options of `save_pretrained`.

    Returns:
        The address of the commit.

    Raises:
        InputError: `save_pretrained` fails, or the hub refuses the upload or cannot be reached.
    """
    hub = HfApi(endpoint=endpoint, token=token)
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, **options)
        try:
            hub.create_repo(name, private=private, exist_ok=True)
            return str(hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Network of regard"))
        except Exception as error:  # errors of the hub and of the connection have no common base
            raise InputError(f"{name} could not be uploaded ({first_line(error)})") from error


def _build(network: Mapping[str, Any], classes: int) -> nn.Module:
    """Builds a network from the fields of `config.json`, with new weights."""
    if builder := next((builder for field, builder in BUILDERS.items() if field in network), None):
        return builder(network, classes)
    if "detector" in network:
        raise InputError("this is a detector; import regard.detection first")
    arguments = {**network, **dict(network.get("options") or {})}
    arguments.pop("options", None)
    return create(**{**arguments, "name": str(network["name"]), "num_classes": classes})


def _describe(model: nn.Module) -> tuple[dict[str, Any], int]:
    """The arguments that build `model`, as fields of `config.json`, and its number of classes."""
    network = dict(vars(model).get("created_with", {}))
    if not network:
        raise InputError(
            f"models.create did not make this {type(model).__name__}, and its configuration is not known; create it, "
            "and the backbone of a detector, by name"
        )
    if attached(model) and not network["attention"]:
        raise InputError(
            f"attention was attached to this {type(model).__name__} after models.create had made it, so its "
            "configuration is not known; create it with models.create(name, attention=…)"
        )
    classes = network.pop("num_classes")
    check_fit(build_on_meta(partial(_build, network, classes)), model.state_dict(), "the current state of the network")
    if not isinstance(network["gate"], str):
        names = ("sigmoid", "hard-sigmoid", f"sub-attention-{getattr(network['gate'], 'order', 1)}")
        network["gate"] = next((name for name in names if parse_gate(name) == network["gate"]), network["gate"])
    return network, classes


def _download(name: str, revision: str | None, endpoint: str | None, token: str | None) -> Path:
    """Downloads a repository to the cache, or uses the cached files without a connection; returns their folder."""
    files = [CONFIG, WEIGHTS]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, endpoint=endpoint, token=token))
    except Exception as error:  # errors of the hub and of the connection have no common base
        raise InputError(f"{name} is no folder, and no repository that can be loaded ({first_line(error)})") from error


def _card(
    model: nn.Module,
    network: Mapping[str, Any],
    classes: int,
    metrics: Mapping[str, float],
    recipe: str,
    license: str | None,
) -> str:
    """The text of a model card: metadata for the Hub, a table of the network and its metrics, and its recipe."""
    attention, task = network["attention"], "object-detection" if "detector" in network else "image-classification"
    tags = ["regard", "pytorch", *([attention] if attention else [])]
    metadata = ModelCardData(library_name="regard", pipeline_tag=task, tags=tags, license=license)
    name = " ".join(str(network[key]) for key in ("detector", "name") if key in network)
    title = f"{name}{f' with {attention} attention' if attention else ''}"
    rows = {
        **{key.replace("_", " "): value for key, value in network.items() if value},
        "classes": classes,
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        **metrics,
    }
    table = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())
    code = "\n".join(f"    {line}" for line in recipe.splitlines())
    return (
        f"---\n{metadata.to_yaml()}\n---\n\n# {title}\n\n"
        "A network of regard (PyTorch). With the name of this repository:"
        f'\n\n    from regard import {_TASKS[task]}\n    model = models.from_pretrained("NAME")\n\n'
        f"| | |\n|---|---|\n{table}\n" + (f"\n## Recipe\n\n{code}\n" if recipe else "")
    )


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
