"""What the page of runs shows of networks that were tested on the same images: tables, figures and a gallery."""

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
from regard.report.records import TEST, Note, gathered
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
    gallery: Gallery | None = None
    columns: list[RunResult] = []
    if splits is not None:
        test = splits.test
        part = replace(part, groups=tuple(_with_cost(group, test.images.shape[2]) for group in part.groups))
        part = replace(part, reference=next(g for g in part.groups if g.name == part.reference.name))
        groups = _in_gallery(part)
        firsts = [_moved(group.first, folder) for group in groups]
        gallery, columns, on_gallery = runs_gallery(firsts, groups.index(part.reference), test, images=images)
        notes += on_gallery
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
        "gallery": gallery if columns else None,
        "gallery_styles": [part.styles[names[run.name]] for run in columns],
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


def runs_gallery(
    networks: Sequence[RunResult], reference: int, test: InMemoryDataset, *, images: int = 12, different: int = 4
) -> tuple[Gallery, list[RunResult], list[Note]]:
    """Test images with the CAM of each network that was tested on them.

    CAMs are of the method, layers and target, and measured with the threshold, margin and tolerance, of the network's
    bias.json; without one, Grad-CAM of the predicted class.

    Args:
        networks: of the report.
        reference: the index of the one that the others are compared with.
        test: its test images.
        images: random ones.
        different: further ones, on which the networks' energies inside differ most.

    Returns:
        The gallery, the networks of its columns, and notes on networks without a column or measured otherwise.
    """
    methods: dict[str, MapMethod] = {}
    notes = []
    for network in networks:
        reason = _why_not(network, networks[reference], test)
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
    indices = [index for which in chosen.values() for index in which]
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
    measured = [
        network.bias
        for network in networks
        if network.bias is not None and np.array_equal(network.bias.rows["label"], labels)
    ]
    scores = {DIFFERENT: disagreement(measured)} if len(measured) > 1 and different else {}
    return choose(len(test), images + (different if scores else 0), scores, each=different)


def _why_not(network: RunResult, reference: RunResult, test: InMemoryDataset) -> str | None:
    """Why the network has no CAMs of the reference's test images; None: it has."""
    if not network.environment.get("classes"):
        return f"no classes in {network.run.folder}/environment.json"
    if tuple(network.environment["classes"]) != test.classes:
        return "trained for other classes"
    if _test_set(network.recipe.data) == _test_set(reference.recipe.data):
        return None
    try:
        images = load_data(replace(network.recipe.data, download=False)).test
    except InputError as error:
        return f"no test images ({error})"
    same = torch.equal(images.images, test.images) and torch.equal(images.labels, test.labels)
    return None if same else f"tested on other images than {reference.name}"


def _test_set(recipe: DataRecipe) -> DataRecipe:
    """The part of the recipe that decides on the test images."""
    return replace(recipe, train_images=None, mean=None, std=None, download=False)


def _method(network: RunResult) -> MapMethod:
    """Raises InputError where there are no such weights, no such method, or no such layer."""
    model, results = network.run.model("last"), network.bias
    return GradCAM(model) if results is None else create(results.method, model, results.layers or None)


def _is_stale(results: Results, method: MapMethod) -> bool:
    measured = results.provenance.get("weights")
    return measured is not None and measured != fingerprint(method.model)


def _rows(method: MapMethod, network: RunResult, test: InMemoryDataset, indices: Sequence[int]) -> list[Row]:
    results, recipe = network.bias, network.recipe.data
    which = torch.tensor(indices)
    mean, std = recipe.mean or test.mean, recipe.std or test.std
    loader = create_loader(test.subset(which), len(which), mean=mean, std=std, device="cpu", masks=test.has_masks)
    (batch,) = loader.epoch(0)
    measured = {} if results is None else {k: getattr(results, k) for k in ("threshold", "margin", "tolerance")}
    return explain_batch(
        method,
        batch._replace(index=which[batch.index]),
        test,
        mean=mean,
        std=std,
        names=test.classes,
        classes=batch.labels[:, None] if results is not None and results.target == "label" else None,
        label_outputs=range(len(test.classes)),
        **measured,
    )
