"""Exports a network to an ONNX file."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from regard.attention import kernels
from regard.errors import InputError, check_interval, first_line
from regard.files import utf8
from regard.modes import evaluation_mode
from regard.optional import require
from regard.version import __version__

_MAX_FILE = 2**31 - 2**20  # bytes of weights, because the format (protobuf) is limited to 2 GB


class Exported(NamedTuple):
    """An ONNX file.

    Attributes:
        path: path of the file.
        opset: version of its ONNX operators.
        difference: largest deviation of onnxruntime's output from torch's, relative to torch's largest value; None if
            it was not checked.
    """

    path: Path
    opset: int
    difference: float | None


def to_onnx(
    model: nn.Module,
    path: str | Path,
    image_size: int | tuple[int, int],
    *,
    channels: int = 3,
    batch: int | None = None,
    opset: int | None = None,
    check: bool = True,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Writes `model`, in evaluation mode, to an ONNX file with the input `images` and the output `logits`.

    Weights of more than 2 GB are written to a second file in the same folder, `<name>.data`, which ONNX then needs.

    Args:
        model: module that maps (N, channels, H, W) to one tensor; unchanged afterwards.
        path: path of the file.
        image_size: H and W of the input, or the side of square images, in pixels.
        channels: number of input channels: 3 for images, C for a single attention module.
        batch: N of the input; None for any N.
        opset: version of ONNX's operators; None for torch's default.
        check: run the graph with onnxruntime on random images, at two batch sizes unless `batch` is given, and compare.
        metadata: entries for the file's metadata_props, in addition to the version of regard; values other than text
            are written as JSON.
        overwrite: replace a file of an earlier export.

    Raises:
        InputError: a required package is not installed, `path` exists, torch cannot export the model, or onnxruntime's
            output deviates by more than 1e-4 (float16: 1e-2) of torch's largest value. No file is written then.
    """
    path = Path(path)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    for name, number in {"height": height, "width": width, "channels": channels, "batch": batch}.items():
        if number is not None:
            check_interval(name, number, "[1, 2^24]" if name == "batch" else "[1, 2^16]")
    large = sum(value.numel() * value.element_size() for value in model.state_dict().values()) > _MAX_FILE
    check_target(path, large=large, check=check, overwrite=overwrite)
    like = next(model.parameters(), torch.empty(0))
    with evaluation_mode(model), torch.no_grad():
        program = _export(model, torch.randn(batch or 2, channels, height, width).to(like), batch is None, opset)
        sizes = () if not check else (1, 3) if batch is None else (batch,)
        batches = [torch.randn(n, channels, height, width).to(like) for n in sizes]
        differences = (_difference(program, model, images) for images in batches)
        difference = check_differences(differences, path, 1e-2 if like.dtype == torch.float16 else 1e-4)
    program.model.metadata_props.update(metadata_props(metadata))
    with temporary_path(path) as temporary:
        program.save(temporary, external_data=large)
    return Exported(path, int(program.model.opset_imports[""]), difference)


def check_target(path: Path, *, large: bool, check: bool, overwrite: bool) -> None:
    """Raises InputError if a required package is not installed, `path` exists, or its folder does not exist."""
    require("ONNX export", "onnx", "onnxscript", *(("onnxruntime",) if check else ()))
    if large and utf8(path.name) != path.name:
        raise InputError(f"the name {path.name} is not UTF-8, which the name of the weights file has to be; rename it")
    if path.exists() and (not overwrite or not path.is_file()):
        raise InputError(f"{path} exists already; replace it (--overwrite) or choose another (--out)")
    for file in (path, *([path.with_name(f"{path.name}.data")] if large else [])):
        if file.exists() and not _was_exported(path):
            raise InputError(f"{file} is not overwritten: regard export did not write it; choose another (--out)")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}")


def metadata_props(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """The entries for a file's metadata_props; see `to_onnx`."""
    entries = {"regard": __version__, **(metadata or {})}
    return {key: utf8(value) if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}


@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """Yields a path in a temporary folder, and then moves its files to the folder of `path` under the same names, by
    which the graph refers to its file of weights."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder) / path.name
            for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):  # weights first
                os.replace(file, path.with_name(file.name))
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror or first_line(error)}); make room, or choose another path (--out)"
        ) from error


def _was_exported(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            model = import_module("onnx").load(file, load_external_data=False)
    except Exception:  # the file can be anything
        return False
    return any(entry.key == "regard" for entry in model.metadata_props)


def _export(model: nn.Module, example: Tensor, any_batch: bool, opset: int | None) -> torch.onnx.ONNXProgram:
    with export_context(model):
        if not isinstance(output := model(example), Tensor):
            raise InputError(f"{type(model).__name__} returns a {type(output).__name__}; expected one tensor of logits")
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},) if any_batch else None,
            opset_version=opset,
            verbose=False,
        )
    assert program is not None  # as dynamo=True
    return program


@contextmanager
def export_context(model: nn.Module) -> Iterator[None]:
    """Attention modules use their formulas, the exporter logs no warnings, and its errors become InputErrors."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with kernels.reference(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:  # torch's exporters have no common base of errors
        reason = error.__cause__ or error
        raise InputError(
            f"torch cannot export {type(model).__name__} to ONNX: {type(reason).__name__}: {first_line(reason)}"
        ) from error
    finally:
        logging.disable(disabled)


def check_differences(differences: Iterable[float | None], path: Path, tolerance: float = 1e-4) -> float | None:
    """Returns the largest difference between outputs of onnxruntime and torch; raises InputError above `tolerance`."""
    try:
        values = [value for value in differences if value is not None]
    except InputError:  # from the model
        raise
    except Exception as error:  # onnxruntime's errors have no common base
        raise InputError(f"onnxruntime cannot run the exported graph ({first_line(error)})") from error
    for difference in values:
        if not difference <= tolerance:  # also NaN
            raise InputError(
                f"onnxruntime's output deviates from torch's by {difference:.1e}, over {tolerance:.0e}; {path} is not "
                "written (another --opset may help)"
            )
    return max(values, default=None)


def _difference(program: torch.onnx.ONNXProgram, model: nn.Module, images: Tensor) -> float:
    """The largest deviation of onnxruntime's output, relative to torch's largest value."""
    (output,) = program(images.cpu())
    expected = model(images).cpu()
    if output.shape != expected.shape:
        return float("inf")
    return float((output.cpu() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
