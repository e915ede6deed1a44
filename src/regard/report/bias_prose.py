"""What the bias page says in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regard.bias import Results
from regard.formatting import interval, percent, printable
from regard.report.breakdown import LEAST_IMAGES, Classes
from regard.report.template import Network
from regard.report.wording import listed, method_name, number
from regard.stats import Estimate

_NAMED = 5  # images named of those left out


def intro(reports: Sequence[Results], networks: Sequence[Network]) -> str:
    """Which networks on which images, and what their maps are held against."""
    first = reports[0]
    each = f"For {'each of ' if len(first) > 1 else ''}{_images(len(first))} of {_data(first)}"
    ways = listed(dict.fromkeys(method_name(report.method) for report in reports))
    who = networks[0].name if len(reports) == 1 else "each of " + number(len(reports), "network")
    targets = dict.fromkeys(report.target for report in reports)
    chosen = " or ".join({"predicted": f"that {who} predicts", "label": "of its label"}.get(t, t) for t in targets)
    thresholds = listed(dict.fromkeys(f"{report.threshold:g}" for report in reports))
    return (
        f"{each}, {ways} shows which places speak for the class {chosen}. Its focus, where this map is at least "
        f"{thresholds} on a scale from its lowest value (0) to its highest (1), is held against the region, where the "
        "object is."
    )


def finding(report: Results, alone: bool) -> str:
    """What a report comes to, as the end of a sentence that begins with the network's name.

    Args:
        report: of the network.
        alone: whether it is the only one: then the terms are explained.
    """
    whole = report.overall
    position, range_ = whole.position_bias, whole.range_bias
    if not position.n:
        begin = "has no map" if alone else "no map"
        said = f"{begin} that can be held against a region: each is constant, or the region is empty."
    elif alone:
        said = (
            f"looks away from the object in {_rate(position)} of {_images(position.n)}: focus and region do not "
            f"meet, a position bias. In {_rate(range_)} it looks at the object and past its edge, a range bias. In the "
            f"other {percent(inside(report))}% the focus lies inside the object."
        )
    else:
        said = (
            f"position bias in {_rate(position)} of the images, range bias in {_rate(range_)}, the focus inside the "
            f"region in {percent(inside(report))}%."
        )
    return f"{said} {_scored(report, alone)}".strip()


def _scored(report: Results, alone: bool) -> str:
    if not report.overall.accuracy.n:
        return ""
    right = report.right.position_bias
    said = f"{'It predicts the right class for' if alone else 'Accuracy'} {_rate(report.accuracy)}"
    if right.n:
        said += f"; of the images predicted right, {_rate(right)} show position bias" + (
            ": the answer is right, and the map is elsewhere" if alone else ""
        )
    return f"{said}."


def inside(report: Results) -> float:
    """The share of the comparable images whose focus lies inside the region; NaN of none."""
    position, range_ = report.overall.position_bias, report.overall.range_bias
    return 1 - position.value - range_.value


def terms() -> str:
    """What the two biases are."""
    return (
        "Position bias: the focus does not meet the region, so the network looks away from the object. Range bias: "
        "they meet, but the focus is not inside the region, so it looks past the object’s edge."
    )


def allowances(reports: Sequence[Results]) -> str:
    """How far beyond the region still counts as inside; "" if no pixel does."""
    margins, tolerances = ({getattr(report, name) for report in reports} for name in ("margin", "tolerance"))
    said = []
    if any(margins):
        said.append(f"A focus that goes at most {_pixels(margins)} beyond the region counts as inside it.")
    if any(tolerances):
        said.append(f"In the pointing game a highest value at most {_pixels(tolerances)} from the region is in it.")
    return " ".join(said)


def coarse(reports: Sequence[Results]) -> str:
    """What to make of range bias where nearly every image has one; "" where some have none."""
    shares = [inside(report) for report in reports if report.overall.position_bias.n]
    if not shares or max(shares) >= 0.05:
        return ""
    return (
        "Hardly any focus lies inside its region. That is usual where objects are small or thin beside the cells of "
        "the map, and then spill and energy inside say more than range bias."
    )


def reading() -> str:
    """What the intervals mean."""
    return (
        "In brackets, and in small type below, are 95% intervals. They are for the rate or the mean over all images of "
        "this kind, for this training run and no other."
    )


def unscored(reports: Sequence[Results], networks: Sequence[Network]) -> str:
    """That accuracy was not measured, and why; "" if it was throughout."""
    names = [network.name for report, network in zip(reports, networks, strict=True) if not report.scored]
    if not names:
        return ""
    everybody = "the network" if len(reports) == 1 else "the networks"
    whose = everybody if len(names) == len(reports) else listed(names)
    return (
        f"The labels of {_data(reports[0])} are not outputs of {whose}, so accuracy is not measured, and the maps are "
        "those of the class predicted among the outputs."
    )


def left_out(reports: Sequence[Results], networks: Sequence[Network]) -> list[str]:
    """Which images have no part in the numbers, a sentence each."""
    flat, empty, unread = [], [], []
    for report, network in zip(reports, networks, strict=True):
        total = len(report)
        without = report.rows["region_area"] == 0
        if count := int(report.rows["constant"].sum()):
            flat.append((network.name, f"{_of(count, total)} ({_examples(report, report.rows['constant'])})"))
        if without.any():
            empty.append((network.name, f"{_of(int(without.sum()), total)} ({_examples(report, without)})"))
        if report.skipped:
            shown = "; ".join(map(printable, report.skipped[:_NAMED]))
            more = f"; and {len(report.skipped) - _NAMED:,} more" if len(report.skipped) > _NAMED else ""
            unread.append((network.name, f"{len(report.skipped):,} ({shown}{more})"))
    return [
        *_told("Maps that are constant, and so without a focus", flat, len(reports)),
        *_told("Images whose region is empty", empty, len(reports)),
        *_told("Files that could not be read, and have no part in any number", unread, len(reports)),
    ]


def class_rule(found: Classes, networks: int) -> str:
    """Which classes are shown."""
    rest = "All numbers are in the JSON file of each report, every image in the Parquet file beside it."
    least = f"at least {LEAST_IMAGES} images"
    if not found.eligible:
        return f"None of the {found.total:,} classes has {least}. {rest}"
    if len(found.rows) == found.total:
        return f"All {found.total} classes, by number of images."
    if len(found.rows) == found.eligible:
        return f"The {found.eligible} of {found.total:,} classes with {least}, by number of images. {rest}"
    mean = "" if networks == 1 else ", in the mean over the networks"
    return (
        f"{len(found.rows)} of {found.total:,} classes: the most biased among the {found.eligible:,} with {least}. "
        f"First is the one where the interval of position bias begins highest{mean}. They are the extremes of many, so "
        f"some of them are there by chance. {rest}"
    )


def _data(report: Results) -> str:
    return printable(f"{report.dataset} {report.split}".strip())


def _pixels(counts: set[int]) -> str:
    words = " or ".join(map(str, sorted(counts)))
    return f"{words} pixel{'' if counts == {1} else 's'}"


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _rate(rate: Estimate) -> str:
    return f"{percent(rate.value)}% ({interval(rate.low, rate.high)})"


def _of(count: int, total: int) -> str:
    return f"{count:,} of {total:,}"


def _examples(report: Results, which: np.ndarray) -> str:
    places = np.flatnonzero(which)
    names = [printable(report.keys[place]) if report.keys else f"image {place}" for place in places[:_NAMED]]
    return f"{', '.join(names)}{', …' if len(places) > _NAMED else ''}"


def _told(what: str, found: Sequence[tuple[str, str]], networks: int) -> list[str]:
    """A sentence for each number, with the networks that it is of unless that is all of them."""
    by_number: dict[str, list[str]] = {}
    for name, said in found:
        by_number.setdefault(said, []).append(name)
    return [
        f"{what}: {said}." if len(names) == networks else f"{what}, for {listed(names)}: {said}."
        for said, names in by_number.items()
    ]
