"""Networks in folders and on the Hugging Face Hub: config.json, model.safetensors and a model card, README.md."""

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
from regard.models.loading import load_built, without_values
from regard.stages import unwrapped

CONFIG, WEIGHTS, CARD, RECIPE = "config.json", "model.safetensors", "README.md", "recipe.yaml"
_MOST_CONFIG = 1_000_000  # bytes
_TASKS = {"image-classification": "models", "object-detection": "detection, models"}  # of the Hub; what to import
MAKERS: dict[str, Callable[[Mapping[str, Any], int], nn.Module]] = {}
"""Field of `config.json` -> what makes networks that have it, from their fields and the number of classes.

`regard.detection` adds "detector" when it is imported; other networks are those of `models.create`."""


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
    """Writes a network to a folder in the layout of the Hugging Face Hub; files of these names are replaced.

    `from_pretrained` makes it again. Commands take `model.safetensors` as they take a file that `regard import` wrote.

    Args:
        model: as `models.create` or `detection.create` made it; its weights may have changed since.
        folder: created if it does not exist.
        class_names: in the order of the logits.
        preprocessing: how images are preprocessed, with timm's keys: mean, std, size, crop_pct, crop_mode,
            interpolation.
        metrics: values by name, for the card, for example `{"top-1 accuracy": 0.934}`.
        recipe: the file of the recipe that it was trained by, for the folder and the card.
        license: for the card, as the Hub calls it ("mit").

    Returns:
        the folder.

    Raises:
        InputError: the network was not made by `models.create` or `detection.create`, or its architecture was changed
            since, an option of it cannot be written as JSON, or the folder cannot be written.
    """
    model, folder = unwrapped(model), Path(folder)
    network, classes = _network(model)
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
    trained_by = read_regular(recipe, _MOST_CONFIG).decode(errors="replace") if recipe else ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(model, folder / WEIGHTS, config)
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error.strerror or first_line(error)})") from error
    write_text(folder / CONFIG, text)
    write_text(folder / CARD, _card(model, network, classes, metrics or {}, trained_by, license))
    if trained_by:
        write_text(folder / RECIPE, trained_by)
    return folder


def from_pretrained(
    name: str | Path, *, revision: str | None = None, endpoint: str | None = None, token: str | None = None
) -> nn.Module:
    """The network in a folder, or on the Hugging Face Hub, that `save_pretrained` wrote; in evaluation mode.

    No downloaded code is run: `config.json` has the arguments of `models.create`, or `detection.create`, and the
    weights are safetensors. Memory for the network is allocated only if they fit it.

    Args:
        name: a folder, or a repository ("someone/resnet50-shuffle"), which is downloaded to the cache of
            huggingface_hub unless it is there.
        revision: a branch, tag or commit of the repository; None: the newest.
        endpoint: the address of the hub; None: huggingface.co, or the value of `HF_ENDPOINT`.
        token: of the hub; None: the one that `hf auth login` stored.

    Raises:
        InputError: there is no such folder or repository, or it holds no network of regard; or a detector, and
            `regard.detection` is not imported.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _download(str(name), revision, endpoint, token)
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise InputError(f"{name} has no {file}; expected a network that models.save_pretrained wrote")
    try:
        config = json.loads(read_regular(folder / CONFIG, _MOST_CONFIG))
        network, classes = dict(config["network"]), int(config["classes"])
        if any("pretrained" in part for part in (network, *network.values()) if isinstance(part, dict)):
            raise ValueError("it asks for pretrained weights")
        build, kind = partial(_made, network, classes), str(network["name"])
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
    **about: Any,
) -> str:
    """Uploads a network to the Hugging Face Hub, as `save_pretrained` writes it; creates the repository if need be.

    Args:
        model: as `models.create` or `detection.create` made it.
        name: of the repository; like `endpoint` and `token`, see `from_pretrained`.
        private: whether a new repository is; None: as the account has it.
        about: the options of `save_pretrained`.

    Returns:
        the address of the commit.

    Raises:
        InputError: as `save_pretrained`, or the hub refuses it or cannot be reached.
    """
    hub = HfApi(endpoint=endpoint, token=token)
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, **about)
        try:
            hub.create_repo(name, private=private, exist_ok=True)
            return str(hub.upload_folder(repo_id=name, folder_path=folder, commit_message="Network of regard"))
        except Exception as error:  # the hub's and its connection's errors have no common base
            raise InputError(f"{name} could not be uploaded ({first_line(error)})") from error


def _made(network: Mapping[str, Any], classes: int) -> nn.Module:
    """The network of the fields of `config.json`, with new weights."""
    if maker := next((maker for field, maker in MAKERS.items() if field in network), None):
        return maker(network, classes)
    if "detector" in network:
        raise InputError("this is a detector; import regard.detection, which makes it")
    arguments = {**network, **dict(network.get("options") or {})}
    arguments.pop("options", None)
    return create(**{**arguments, "name": str(network["name"]), "num_classes": classes})


def _network(model: nn.Module) -> tuple[dict[str, Any], int]:
    """What makes a network again, as the fields of `config.json`, and its number of classes."""
    network = dict(vars(model).get("created_with", {}))
    if not network:
        raise InputError(f"models.create did not make this {type(model).__name__}; what makes it again is not known")
    if attached(model) and not network["attention"]:
        raise InputError(
            f"attention was attached to this {type(model).__name__} after models.create had made it; give it to "
            "models.create(name, attention=…), which knows how to make it again"
        )
    classes = network.pop("num_classes")
    check_fit(without_values(partial(_made, network, classes)), model.state_dict(), "what the network has now")
    if not isinstance(network["gate"], str):
        names = ("sigmoid", "hard-sigmoid", f"sub-attention-{getattr(network['gate'], 'order', 1)}")
        network["gate"] = next((name for name in names if parse_gate(name) == network["gate"]), network["gate"])
    return network, classes


def _download(name: str, revision: str | None, endpoint: str | None, token: str | None) -> Path:
    """The folder of the cache with the files of a repository; without a connection, as they are there already."""
    files = [CONFIG, WEIGHTS]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, endpoint=endpoint, token=token))
    except Exception as error:  # the hub's and its connection's errors have no common base
        raise InputError(f"there is no folder {name}, and the hub does not give it ({first_line(error)})") from error


def _card(
    model: nn.Module,
    network: Mapping[str, Any],
    classes: int,
    metrics: Mapping[str, float],
    recipe: str,
    license: str | None,
) -> str:
    """A model card: metadata for the Hub, a table of the network, its metrics and its recipe."""
    attention, task = network["attention"], "object-detection" if "detector" in network else "image-classification"
    tags = ["regard", "pytorch", *([attention] if attention else [])]
    about = ModelCardData(library_name="regard", pipeline_tag=task, tags=tags, license=license)
    names = " ".join(str(network[key]) for key in ("detector", "name") if key in network)
    title = f"{names}{f' with {attention} attention' if attention else ''}"
    rows = {
        **{key.replace("_", " "): value for key, value in network.items() if value},
        "classes": classes,
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        **metrics,
    }
    table = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())
    trained_by = "\n".join(f"    {line}" for line in recipe.splitlines())
    return (
        f"---\n{about.to_yaml()}\n---\n\n# {title}\n\nA network of regard (PyTorch). With the name of this repository:"
        f'\n\n    from regard import {_TASKS[task]}\n    model = models.from_pretrained("NAME")\n\n'
        f"| | |\n|---|---|\n{table}\n" + (f"\n## Recipe\n\n{trained_by}\n" if recipe else "")
    )


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
