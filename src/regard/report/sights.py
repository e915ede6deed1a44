"""Images of bias reports to show with their regions and maps: which, and what is said of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regard.bias import Results
from regard.bias.results import comparable
from regard.errors import InputError
from regard.formatting import percent, printable
from regard.report.gallery import spread
from regard.report.overlay import Mask, data_uri, draw
from regard.report.overlay import Pixels as Bytes
from regard.report.wording import shortened

TYPICAL = "Drawn by chance (seed 0), whatever the networks make of them: typical"
ALL = "All images"

_PICTURES = 360  # at most, for the size of the page


Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """A network's map over an image."""

    picture: str
    alt: str
    predicted: str
    wrong: bool
    verdict: str
    """ "position bias", "range bias", "inside" or "no focus"; "" where the region is not known."""
    probability: str = ""
    """Of the class whose map it is, in words."""
    detail: str = ""
    """What else is said below it."""


@dataclass(frozen=True)
class Strip:
    """A test image, and the cells of all networks."""

    picture: str
    alt: str
    label: str
    place: int
    cells: tuple[Cell, ...]
    caption: str
    """What the image is called."""


def verdict(flat: bool, position: bool, range_: bool) -> str:
    """What is said of a map, in two words."""
    return "no focus" if flat else "position bias" if position else "range bias" if range_ else "inside"


@dataclass(frozen=True, eq=False)
class View:
    """What a network makes of an image.

    Attributes:
        heat: the map, (h, w), scaled to 0 to 1 (see `bias.scaled`).
        predicted: the class with the highest score.
        explained: the class whose map it is.
        probability: of the explained class (softmax), 0 to 1; NaN if not known.
        wrong: whether the prediction is known to be wrong.
        verdict: "position bias", "range bias", "inside" or "no focus"; "" where there is no region.
        spill: share of the focus outside the region; may be NaN.
        energy: share of the map's sum inside the region; may be NaN.
        picture: uint8 (h, w, 3), the image as this network sees it; None: as the `Sight` has it.
        region: bool (h, w), likewise.
    """

    heat: Numbers
    predicted: str
    explained: str
    probability: float
    wrong: bool
    verdict: str
    spill: float
    energy: float
    picture: Bytes | None = None
    region: Mask | None = None


@dataclass(frozen=True, eq=False)
class Sight:
    """An image, and what each network makes of it.

    Attributes:
        index: in the set.
        name: of the image.
        why: it is shown; images with the same reason are shown together.
        label: the name of its class; None: it has none.
        picture: uint8 (h, w, 3), as the first network sees it, before normalisation.
        region: bool (h, w).
        views: one a report, in their order.
    """

    index: int
    name: str
    why: str
    label: str | None
    picture: Bytes
    region: Mask
    views: tuple[View, ...]


def make_sight(
    reports: Sequence[Results],
    index: int,
    why: str,
    pictures: Sequence[Bytes],
    regions: Sequence[Mask],
    heats: Sequence[NDArray[np.floating]],
) -> Sight:
    """A sight with the numbers of the reports.

    Args:
        reports: of models on the same images.
        index: of the image in them.
        why: it is shown, as `choose_sights` says.
        pictures: uint8 (h, w, 3), the image as each model sees it, before normalisation.
        regions: bool (h, w), likewise.
        heats: (h, w), the map of each model, scaled to 0 to 1.

    Raises:
        InputError: not one of each for every report, or shapes that do not fit.
    """
    counts = {len(reports), len(pictures), len(regions), len(heats)}
    if len(counts) != 1 or not reports:
        raise InputError(
            f"{len(pictures)} pictures, {len(regions)} regions, {len(heats)} maps; expected {len(reports)}"
        )
    views = []
    for report, image, region, heat in zip(reports, pictures, regions, heats, strict=True):
        row = {name: values[index] for name, values in report.rows.items()}
        if not image.shape[:2] == region.shape == heat.shape:
            raise InputError(f"picture {image.shape}, region {region.shape}, map {heat.shape}; expected one size")
        views.append(
            View(
                heat=np.asarray(heat, dtype=np.float64),
                predicted=_named(report.outputs, int(row["predicted"])),
                explained=_named(report.outputs, int(row["explained"])),
                probability=float(row["probability"]),
                wrong=report.scored and int(row["label"]) >= 0 and not row["correct"],
                verdict=verdict(*(bool(row[name]) for name in ("constant", "position_bias", "range_bias")))
                if row["region_area"] > 0
                else "",
                spill=float(row["spill"]),
                energy=float(row["energy_inside"]),
                picture=image,
                region=region,
            )
        )
    first = reports[0]
    label = int(first.rows["label"][index])
    name = first.keys[index] if first.keys else str(index)
    return Sight(
        index, name, why, None if label < 0 else _named(first.classes, label), pictures[0], regions[0], tuple(views)
    )


def choose_sights(reports: Sequence[Results], count: int = 12) -> list[tuple[int, str]]:
    """Images to show: some drawn by chance, and the worst.

    Of each kind about as many: images drawn by chance, one from each of so many equal parts of the set; those with the
    least energy inside the region in the first report, predicted right and predicted wrong apart if it is scored; with
    several reports, those on which energies inside are furthest apart. The worst are taken of images with a focus and
    a region. No image is chosen twice: the draw is among those that are left. Where there are no more images than
    asked for, it is all of them.

    Args:
        reports: of models on the same images.
        count: of images, 0 or more.

    Returns:
        (index, reason) of each, those of one reason together, at most `count`.

    Raises:
        InputError: no reports, a negative count, reports of different images.
    """
    check_same_images(reports)
    if count < 0:
        raise InputError(f"{count} images to show; give 0 or more")
    if len(reports[0]) <= count:
        return [(index, ALL) for index in range(len(reports[0]))]
    kinds = _worst(reports)
    share = count // (len(kinds) + 1)
    taken: dict[int, str] = {}
    for why, ranked in kinds:
        free = [index for index in ranked[: share + len(taken)].tolist() if index not in taken]
        taken |= dict.fromkeys(free[:share], why)
    left = np.setdiff1d(np.arange(len(reports[0])), list(taken))
    places = spread(len(left), count - len(taken)) if count > len(taken) else []
    return [(int(left[place]), TYPICAL) for place in places] + list(taken.items())


def check_same_images(reports: Sequence[Results]) -> None:
    """Whether the reports are of the same images.

    Raises:
        InputError: no reports, or they are not.
    """
    if not reports:
        raise InputError("no bias reports given; give at least one")
    for report in reports[1:]:
        if len(report) != len(reports[0]) or report.keys != reports[0].keys:
            raise InputError(
                f"the reports of {reports[0].model} ({len(reports[0]):,} images) and {report.model} ({len(report):,}) "
                "are not of the same images; measure them together"
            )


def _worst(reports: Sequence[Results]) -> list[tuple[str, NDArray[np.int64]]]:
    """Reason -> places of images, the worst first; reasons that no image has are left out."""
    first = reports[0].rows
    energies = [_energy(report) for report in reports]
    name = shortened([report.model for report in reports])[0] if len(reports) > 1 else ""
    if reports[0].scored:
        whose = f" by {name}" if name else ""
        worst = "with the least energy inside the region: the worst, not typical"
        right = first["correct"]
        parts = {"right": right, "wrong": ~right & (first["label"] >= 0)}
        kinds = [(f"Predicted {how}{whose}, {worst}", np.where(of, energies[0], np.nan)) for how, of in parts.items()]
    else:
        whose = f" for {name}" if name else ""
        kinds = [(f"The least energy inside the region{whose}: the worst, not typical", energies[0])]
    if len(reports) > 1:
        gap = np.ptp(np.stack(energies), axis=0)  # NaN where one of them is
        why = "Where the networks differ most in energy inside the region: picked, not typical"
        kinds.append((why, np.where(gap > 0, -gap, np.nan)))
    ranked = []
    for why, values in kinds:
        known = np.flatnonzero(~np.isnan(values))
        if len(known):
            ranked.append((why, known[np.argsort(values[known], kind="stable")]))
    return ranked


def _energy(report: Results) -> NDArray[np.float64]:
    """Energy inside, (N,); NaN where there is nothing to compare."""
    return np.where(comparable(report.rows), report.rows["energy_inside"], np.nan).astype(np.float64)


def _named(names: Sequence[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"class {index}"


def strips(sights: Sequence[Sight], reports: Sequence[Results]) -> tuple[list[tuple[str, list[Strip]]], int]:
    """The sights as strips of a page, by reason in the order given, and how many there was no room for.

    Raises:
        InputError: a sight with other than a view for each report.
    """
    room = max(1, _PICTURES // (len(reports) + 1))
    kept: dict[str, list[Strip]] = {}
    for sight in sights[:room]:
        if len(sight.views) != len(reports):
            raise InputError(f"{len(sight.views)} views of {sight.name}; expected {len(reports)}, one a report")
        kept.setdefault(sight.why, []).append(_strip(sight, reports))
    return list(kept.items()), max(0, len(sights) - room)


def _strip(sight: Sight, reports: Sequence[Results]) -> Strip:
    largest = 256 if len(reports) < 4 else 160  # pixels: many networks get smaller pictures
    name = printable(sight.name)
    label = printable(sight.label) if sight.label is not None else ""
    cells = []
    for view, report in zip(sight.views, reports, strict=True):
        image = sight.picture if view.picture is None else view.picture
        region = sight.region if view.region is None else view.region
        predicted = printable(view.predicted)
        alt = [f"Image {name}, map of {printable(report.model)}: class {predicted}"]
        if view.verdict:
            alt.append(view.verdict)
        if not np.isnan(view.spill):
            alt.append(f"{percent(view.spill)}% of the focus outside")
        detail = ""
        if not np.isnan(view.energy):
            detail = f"energy {view.energy:.2f}"
        cells.append(
            Cell(
                data_uri(draw(image, view.heat, region, report.threshold, size=largest)),
                ", ".join(alt),
                predicted,
                view.wrong,
                view.verdict,
                _probability(view),
                detail,
            )
        )
    caption = f"image {name}" if name.isdigit() else name
    outlined = ", its region outlined" if sight.region.any() else ""
    alt_image = f"Image {name}{f', class {label}' if label else ''}{outlined}"
    plain = data_uri(draw(sight.picture, None, sight.region, size=largest))
    return Strip(plain, alt_image, label, sight.index, tuple(cells), caption)


def _probability(view: View) -> str:
    if np.isnan(view.probability):
        return ""
    said = f"{100 * view.probability:.0f}%"
    return said if view.explained == view.predicted else f"(map of {printable(view.explained)}, {said})"
