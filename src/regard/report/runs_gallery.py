"""The gallery of the page of runs: the same test images with the CAMs of each network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from regard.bias import Results
from regard.data import InMemoryDataset, create_loader
from regard.errors import InputError
from regard.maps import GradCAM, MapMethod, create
from regard.models import fingerprint
from regard.report.collect import RunResult
from regard.report.explanation import Row, explain_batch
from regard.report.gallery import DIFFERENT, Gallery, choose, disagreement
from regard.report.records import Note
from regard.training import load_data
from regard.training.recipe import DataRecipe


class RunsGallery(NamedTuple):
    """A gallery, the networks of its columns, and notes on networks without a column or measured otherwise."""

    gallery: Gallery
    networks: tuple[RunResult, ...]
    notes: tuple[Note, ...]


def runs_gallery(
    networks: Sequence[RunResult], reference: int, test: InMemoryDataset, *, images: int = 12, different: int = 4
) -> RunsGallery:
    """Test images with the CAM of each network that was tested on them.

    CAMs are of the method, layers and target, and measured with the threshold, margin and tolerance, of the network's
    bias.json; without one, Grad-CAM of the predicted class.

    Args:
        networks: of the report.
        reference: the index of the one that the others are compared with.
        test: its test images.
        images: random ones.
        different: further ones, on which the networks' energies inside differ most.
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
    columns = tuple(network for network in networks if network.name in methods)
    gallery = Gallery([network.name for network in columns], measures=("energy_inside",))
    if not columns:
        return RunsGallery(gallery, columns, tuple(notes))
    chosen = choose_images(columns, test, images, different)
    indices = [index for which in chosen.values() for index in which]
    gallery.add_models(chosen, [_rows(methods[network.name], network, test, indices) for network in columns])
    notes += [
        Note(network.name, "bias.json was measured with other weights; measure again (regard bias)")
        for network in columns
        if network.bias is not None and _is_stale(network.bias, methods[network.name])
    ]
    return RunsGallery(gallery, columns, tuple(notes))


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
