"""The content of a part of the page of runs: tables, figures and a gallery."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from regard.bias import Results
from regard.columns import Column
from regard.data import InMemoryDataset, Splits, all_options, create_loader
from regard.errors import InputError
from regard.formatting import printable
from regard.maps import GradCAM, MapMethod, create
from regard.models import fingerprint
from regard.report.collect import MEASURES, RunResult, cost
from regard.report.explanation import Row, explain_batch
from regard.report.gallery import DIFFERENT, Gallery, choose, disagreement
from regard.report.glossary import name_of
from regard.report.parts import Part
from regard.report.records import TEST, Note, merged_notes
from regard.report.seeds import SeedGroup
from regard.training import load_data, option_text
from regard.training.recipe import DataRecipe

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
    Column("epochs_of_recipe", "planned epochs", "count"),
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
    """The values of a part for the template; `mark` is the suffix of its HTML ids, `folder` see `report_runs`."""
    splits, notes = _data(part.reference.first, folder) if images else (None, [])
    gallery: Gallery | None = None
    columns: list[RunResult] = []
    if splits is not None:
        test = splits.test
        part = replace(part, groups=tuple(_with_cost(group, test.images.shape[2]) for group in part.groups))
        part = replace(part, reference=next(g for g in part.groups if g.name == part.reference.name))
        groups = _in_gallery(part)
        firsts = [_with_data_folder(group.first, folder) for group in groups]
        gallery, columns, gallery_notes = runs_gallery(firsts, groups.index(part.reference), test, images=images)
        notes += gallery_notes
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
        "comparisons": [comparison.to_record() for comparison in part.comparisons],
        "interventions": interventions,
        "lost": lost,
        "costs": part.costs(),
        "intervals": part.intervals(),
        "curves": part.curves(),
        "gallery": gallery if columns else None,
        "gallery_styles": [part.styles[names[run.name]] for run in columns],
        "notes": merged_notes([*part.notes, *notes]),
    }


def _facts(part: Part, splits: Splits[InMemoryDataset] | None) -> list[tuple[str, str]]:
    """Names and values of the training data, the options and the CAM settings of the runs."""
    runs = part.runs
    results = [run.bias for run in runs if run.bias is not None]
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
    defaults: dict[str, Any] = {}
    with suppress(InputError):  # the data set no longer exists
        defaults = all_options(part.reference.first.recipe.data.name)
    options = [{**defaults, **run.recipe.data.options} for run in runs]
    for name in defaults:
        differs = any(run_options[name] != defaults[name] for run_options in options)
        if name in ("cue", "test_cue") or (differs and name not in ("train", "test")):
            facts[f"option {name}"] = [run_options[name] for run_options in options]
    facts |= {
        "epochs": sorted(run.epochs for run in runs),
        "seeds": sorted({run.recipe.seed for run in runs}),
        "device": [_device(run) for run in runs],
        "CAM": [result.method for result in results],
        "layers": [", ".join(result.layers) for result in results],
        "class of the CAM": [result.target for result in results],
        "threshold of the focus": [f"{result.threshold:g}" for result in results],
        "margin in pixels": [result.margin for result in results],
    }
    texts = {
        name: ", ".join(dict.fromkeys(printable(option_text(v)) for v in values)) for name, values in facts.items()
    }
    return [(name, text) for name, text in texts.items() if text.strip(", ")]


def _in_gallery(part: Part) -> list[SeedGroup]:
    """The networks of the gallery: the reference, and the first of the others."""
    others = [group for group in part.groups if group is not part.reference][: MOST_SHOWN - 1]
    return [group for group in part.groups if group is part.reference or group in others]


def _with_cost(group: SeedGroup, side: int) -> SeedGroup:
    """Adds multiply-adds to the group's first run if only the side of the test images was missing."""
    run = group.first
    if run.multiply_adds is not None or run.parameters is None:
        return group
    run = replace(run, multiply_adds=cost(run.recipe, len(run.environment["classes"]), side)[1])
    return replace(group, runs=(run, *group.runs[1:]))


def _with_data_folder(run: RunResult, folder: str | None) -> RunResult:
    if folder is None:
        return run
    return replace(run, recipe=replace(run.recipe, data=replace(run.recipe.data, folder=folder)))


def _data(run: RunResult, folder: str | None) -> tuple[Splits[InMemoryDataset] | None, list[Note]]:
    """The images of a run for the gallery, or None and a note."""
    if run.recipe.model.detector is not None:
        return None, [Note("gallery", f"{run.name} is a detector; `regard detect predict` draws what it detects")]
    try:
        splits = load_data(replace(_with_data_folder(run, folder).recipe.data, download=False))
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


def runs_gallery(
    networks: Sequence[RunResult], reference: int, test: InMemoryDataset, *, images: int = 12, different: int = 4
) -> tuple[Gallery, list[RunResult], list[Note]]:
    """Test images of the reference with the CAM of each network: the gallery, its networks, and notes on the others.

    It has `images` random images, and `different` ones with the largest differences in energy inside. The settings of
    a CAM are those in the network's bias.json; without one, it is Grad-CAM of the predicted class.
    """
    methods: dict[str, MapMethod] = {}
    notes = []
    for network in networks:
        reason = _obstacle(network, networks[reference], test)
        if reason is None:
            try:
                methods[network.name] = _method(network)
            except InputError as error:
                reason = str(error)
        if reason is not None:
            notes.append(Note(network.name, f"not in the gallery: {reason}"))
    columns = [network for network in networks if network.name in methods]
    gallery = Gallery([network.name for network in columns], measures=("energy_inside",))
    if not columns:
        return gallery, columns, notes
    chosen = choose_images(columns, test, images, different)
    indices = [index for heading_indices in chosen.values() for index in heading_indices]
    gallery.add_models(chosen, [_rows(methods[network.name], network, test, indices) for network in columns])
    notes += [
        Note(network.name, "bias.json was measured with other weights; measure again (regard bias)")
        for network in columns
        if network.bias is not None and _is_stale(network.bias, methods[network.name])
    ]
    return gallery, columns, notes


def choose_images(
    networks: Iterable[RunResult], test: InMemoryDataset, images: int, different: int
) -> dict[str, list[int]]:
    """Heading -> indices of test images; see `gallery.choose`."""
    labels = test.labels.cpu().numpy()
    results = [
        network.bias
        for network in networks
        if network.bias is not None and np.array_equal(network.bias.rows["label"], labels)
    ]
    scores = {DIFFERENT: disagreement(results)} if len(results) > 1 and different else {}
    return choose(len(test), images + (different if scores else 0), scores, each=different)


def _obstacle(network: RunResult, reference: RunResult, test: InMemoryDataset) -> str | None:
    """The reason for which the network cannot be shown on the reference's test images; None if it can."""
    if not network.environment.get("classes"):
        return f"no classes in {network.run.folder}/environment.json"
    if tuple(network.environment["classes"]) != test.classes:
        return "trained for other classes"
    if _test_recipe(network.recipe.data) == _test_recipe(reference.recipe.data):
        return None
    try:
        images = load_data(replace(network.recipe.data, download=False)).test
    except InputError as error:
        return f"no test images ({error})"
    equal = torch.equal(images.images, test.images) and torch.equal(images.labels, test.labels)
    return None if equal else f"tested on other images than {reference.name}"


def _test_recipe(recipe: DataRecipe) -> DataRecipe:
    """The recipe without fields that do not affect the test images."""
    return replace(recipe, train_images=None, mean=None, std=None, download=False)


def _method(network: RunResult) -> MapMethod:
    """Raises InputError if weights, method or layer do not exist."""
    model, results = network.run.model("last"), network.bias
    return GradCAM(model) if results is None else create(results.method, model, results.layers or None)


def _is_stale(results: Results, method: MapMethod) -> bool:
    weights = results.provenance.get("weights")
    return weights is not None and weights != fingerprint(method.model)


def _rows(method: MapMethod, network: RunResult, test: InMemoryDataset, indices: Sequence[int]) -> list[Row]:
    results, recipe = network.bias, network.recipe.data
    index = torch.tensor(indices)
    mean, std = recipe.mean or test.mean, recipe.std or test.std
    loader = create_loader(test.subset(index), len(index), mean=mean, std=std, device="cpu", masks=test.has_masks)
    (batch,) = loader.epoch(0)
    settings = {} if results is None else {k: getattr(results, k) for k in ("threshold", "margin", "tolerance")}
    return explain_batch(
        method,
        batch._replace(index=index[batch.index]),
        test,
        mean=mean,
        std=std,
        names=test.classes,
        classes=batch.labels[:, None] if results is not None and results.target == "label" else None,
        label_outputs=range(len(test.classes)),
        **settings,
    )
