"""What the page of runs shows of networks that were tested on the same images."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from regard.columns import Column
from regard.data import InMemoryDataset, Splits, all_options
from regard.errors import InputError
from regard.formatting import printable
from regard.report.collect import MEASURES, RunResult, cost
from regard.report.glossary import name_of
from regard.report.parts import Part
from regard.report.records import TEST, Note, gathered
from regard.report.runs_gallery import runs_gallery
from regard.report.seeds import SeedGroup
from regard.training import load_data, option_text

MOST_SHOWN = 12
"""Networks in a gallery."""

NETWORK_COLUMNS = (
    Column("network", "network", detail="description"),
    Column("seeds", "seeds", "count", "seeds"),
    Column("parameters", "parameters", "large"),
    Column("multiply_adds", "multiply-adds", "large", "multiply_adds"),
    *(
        Column(measure, name_of(measure), "number" if measure == "spill" else "percent", measure)
        for measure in MEASURES
    ),
)
RUN_COLUMNS = (
    Column("run", "run", detail="folder"),
    Column("seed", "seed", "count"),
    Column("epochs", "epochs", "count"),
    Column("epochs_of_recipe", "of", "count"),
    *NETWORK_COLUMNS[4:],
)
COMPARISON_COLUMNS = (
    Column("network", "network"),
    Column("measure", "measure", write=name_of),
    Column("difference", "difference", "points"),
    Column("n", "n", "count", detail="over"),
    *TEST,
)


def part_values(part: Part, mark: str, images: int, folder: str | None) -> dict[str, Any]:
    """Values for the template.

    Args:
        part: of the report.
        mark: the end of its ids.
        images: test images in its gallery.
        folder: where the data lie; None: where the recipes say.
    """
    splits, notes = _data(part.reference.first, folder) if images else (None, [])
    gallery = None
    if splits is not None:
        test = splits.test
        part = replace(part, groups=tuple(_with_cost(group, test.images.shape[2]) for group in part.groups))
        part = replace(part, reference=next(g for g in part.groups if g.name == part.reference.name))
        groups = _in_gallery(part)
        firsts = [_moved(group.first, folder) for group in groups]
        gallery = runs_gallery(firsts, groups.index(part.reference), test, images=images)
        notes += gallery.notes
        if len(groups) < len(part.groups):
            notes.append(Note("gallery", f"{len(groups)} of {len(part.groups)} networks"))
    notes += [
        Note(group.name, "multiply-adds depend on the size of the test images, which is not known")
        for group in part.groups
        if group.parameters is not None and group.multiply_adds is None
    ]
    names = {group.first.name: group.name for group in part.groups}
    interventions, lost = part.interventions()
    return {
        "heading": part.heading,
        "mark": mark,
        "facts": _facts(part, splits),
        "networks": [group.to_record() for group in part.groups],
        "runs": [record for group in part.groups for record in group.run_records()],
        "several": any(len(group.runs) > 1 for group in part.groups),
        "reference": part.reference.name,
        "styles": part.styles,
        "comparisons": [one.to_record() for one in part.comparisons],
        "interventions": interventions,
        "lost": lost,
        "costs": part.costs(),
        "intervals": part.intervals(),
        "curves": part.curves(),
        "gallery": gallery.gallery if gallery and gallery.networks else None,
        "gallery_styles": [part.styles[names[run.name]] for run in gallery.networks] if gallery else [],
        "notes": gathered([*part.notes, *notes]),
    }


def _facts(part: Part, splits: Splits[InMemoryDataset] | None) -> list[tuple[str, str]]:
    """What was trained on what, and how CAMs were computed; names with values."""
    runs = part.runs
    measured = [run.bias for run in runs if run.bias is not None]
    facts: dict[str, Iterable[object]] = {
        "networks": [len(part.groups)],
        "runs": [len(runs)],
        "data": [run.recipe.data.name for run in runs],
    }
    if splits is not None:
        height, width = splits.test.images.shape[2:]
        facts |= {
            "training images": [f"{run.recipe.data.train_images or len(splits.train):,}" for run in runs],
            "test images": [f"{len(splits.test):,}"],
            "image size": [f"{width} × {height} pixels"],
            "classes": [len(splits.test.classes)],
        }
    default: dict[str, Any] = {}
    with suppress(InputError):  # of a data set that is no more
        default = all_options(part.reference.first.recipe.data.name)
    options = [{**default, **run.recipe.data.options} for run in runs]
    for name in default:
        differs = any(of_run[name] != default[name] for of_run in options)
        if name in ("cue", "test_cue") or (differs and name not in ("train", "test")):
            facts[f"option {name}"] = [of_run[name] for of_run in options]
    facts |= {
        "epochs": sorted(run.epochs for run in runs),
        "seeds": sorted({run.recipe.seed for run in runs}),
        "device": [_device(run) for run in runs],
        "CAM": [one.method for one in measured],
        "layers": [", ".join(one.layers) for one in measured],
        "class of the CAM": [one.target for one in measured],
        "threshold of the focus": [f"{one.threshold:g}" for one in measured],
        "margin in pixels": [one.margin for one in measured],
    }
    texts = {
        name: ", ".join(dict.fromkeys(printable(option_text(v)) for v in values)) for name, values in facts.items()
    }
    return [(name, text) for name, text in texts.items() if text.strip(", ")]


def _in_gallery(part: Part) -> list[SeedGroup]:
    """The networks of the gallery: the reference and the first others."""
    others = [group for group in part.groups if group is not part.reference][: MOST_SHOWN - 1]
    return [group for group in part.groups if group is part.reference or group in others]


def _with_cost(group: SeedGroup, side: int) -> SeedGroup:
    """With multiply-adds, if only the side of the test images was not known."""
    run = group.first
    if run.multiply_adds is not None or run.parameters is None:
        return group
    known = replace(run, multiply_adds=cost(run.recipe, len(run.environment["classes"]), side)[1])
    return replace(group, runs=(known, *group.runs[1:]))


def _moved(run: RunResult, folder: str | None) -> RunResult:
    """The run with its data in another folder."""
    if folder is None:
        return run
    return replace(run, recipe=replace(run.recipe, data=replace(run.recipe.data, folder=folder)))


def _data(run: RunResult, folder: str | None) -> tuple[Splits[InMemoryDataset] | None, list[Note]]:
    """The images of a run, and a note if there are none for the gallery."""
    if run.recipe.model.detector is not None:
        return None, [Note("gallery", f"{run.name} is a detector; `regard detect predict` draws what it detects")]
    try:
        splits = load_data(replace(_moved(run, folder).recipe.data, download=False))
    except InputError as error:
        return None, [Note("gallery", f"no test images: {error}")]
    if not isinstance(splits.test, InMemoryDataset):
        return None, [Note("gallery", f"no test images: {splits.test.name} is not in memory")]
    return splits, []


def _device(run: RunResult) -> str:
    gpu, device = run.environment.get("gpu"), run.recipe.device
    if device == "cpu" or (device == "auto" and not gpu):
        return "CPU"
    return str(gpu) if gpu and device.startswith(("auto", "cuda")) else device
