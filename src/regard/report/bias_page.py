"""The page of bias reports: where networks look, how sure that is, and images that show it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regard.bias import Comparison, Results
from regard.bias.results import comparable
from regard.errors import InputError
from regard.formatting import printable
from regard.report import bias_charts, bias_prose, breakdown
from regard.report.contrast import Contrast, Group, reach, split
from regard.report.measure_words import MAIN_MEANS, MEASURES, RATES, measure_of
from regard.report.provenance import shared
from regard.report.sights import Sight, check_same_images, strips
from regard.report.template import Network, write_page
from regard.report.wording import shortened
from regard.stats import Difference
from regard.training.run import environment

_LONG = 160  # letters of a setting that are shown


def write_bias_html(
    reports: Sequence[Results],
    comparisons: Sequence[Comparison | None],
    path: str | Path,
    *,
    title: str,
    sights: Sequence[Sight] = (),
    notes: Sequence[str] = (),
    command: str = "",
) -> Path:
    """Writes bias reports as one self-contained HTML file: no script, no request, light and dark, screen and paper.

    The file is written aside and renamed.

    Args:
        reports: at least one, of models on the same images; the others are compared with the first.
        comparisons: `bias.compare(report, reports[0])` of each later report, in order; None where two cannot be
            compared. Empty: no comparison at all.
        path: of the file; its folder is made if need be.
        title: of the page.
        sights: images to show, with a view for each report; see `choose_sights` and `make_sight`.
        notes: what else the reader should know, a paragraph each, plain text.
        command: that makes the reports again; "" leaves it out.

    Returns:
        The path.

    Raises:
        InputError: no reports, reports of different images, comparisons or sights that are not theirs, a place that
            cannot be written.
    """
    check_same_images(reports)
    _check_comparisons(reports, comparisons)
    networks = [Network(name, i) for i, name in enumerate(shortened([report.model for report in reports]))]
    pairs = list(zip(networks, reports, strict=True))
    against = [
        (network, comparison)
        for network, comparison in zip(networks[1:], comparisons or [None] * (len(reports) - 1), strict=True)
        if comparison is not None
    ]
    groups = [Group(*network, _contrasts(comparison)) for network, comparison in against]
    others = [Group(*network, _other_contrasts(comparison)) for network, comparison in against]
    resolved, unresolved = split(groups)
    shown, unshown = strips(sights, reports)
    classes = breakdown.classes(reports)
    means = list(reports[0].overall.means)
    rates = [name for name in RATES if name != "accuracy" or any(report.accuracy.n for report in reports)]
    return write_page(
        "bias_page.html",
        path,
        title=title,
        intro=bias_prose.intro(reports, networks),
        notes=notes,
        networks=networks,
        pairs=pairs,
        findings=[bias_prose.finding(report, alone=len(reports) == 1) for report in reports],
        inside=[bias_prose.inside(report) for report in reports],
        terms=bias_prose.terms() if len(reports) > 1 else "",
        allowances=bias_prose.allowances(reports),
        coarse=bias_prose.coarse(reports),
        reading=bias_prose.reading(),
        unscored=bias_prose.unscored(reports, networks),
        rates=rates,
        main_means=list(MAIN_MEANS),
        means=means,
        part_rates=[name for name in ("accuracy", "position_bias", "range_bias") if name in rates],
        part_means=["energy_inside", "spill"],
        measure=measure_of,
        forests=bias_charts.forests(reports, networks),
        spreads=bias_charts.spreads(reports, networks),
        groups=groups,
        others=[group for group in others if group.lines],
        resolved=resolved,
        unresolved=unresolved,
        reach=reach(groups + others),
        comparison_notes=[f"{network.name}: {note}" for network, comparison in against for note in comparison.notes],
        parts=[(network, breakdown.parts(report)) for network, report in pairs],
        sizes=breakdown.sizes(),
        classes=classes,
        grids=breakdown.grids(classes) if len(reports) > 1 else [],
        class_rule=bias_prose.class_rule(classes, len(networks)),
        sights=shown,
        unshown=unshown,
        left_out=bias_prose.left_out(reports, networks),
        settings=shared({network.name: _settings(report, network) for network, report in pairs}),
        definitions=[words for name, words in MEASURES.items() if name in RATES or name in means],
        environment=shared({"": _environment()}),
        command=command,
    )


def _check_comparisons(reports: Sequence[Results], comparisons: Sequence[Comparison | None]) -> None:
    if comparisons and len(comparisons) != len(reports) - 1:
        raise InputError(
            f"{len(comparisons)} comparisons of {len(reports)} reports; expected one for each but the first"
        )
    first = reports[0].rows
    for report, comparison in zip(reports[1:], comparisons, strict=False):
        if comparison is None:
            continue
        both = comparable(report.rows) & comparable(first)
        own, base = (int(rows["position_bias"][both].sum()) for rows in (report.rows, first))
        if (own - base) * comparison.differences["position_bias"].value < 0:
            raise InputError(
                f"the comparison of {report.model} with {reports[0].model} is the wrong way round; give "
                "bias.compare(report, reports[0])"
            )


def _contrasts(comparison: Comparison) -> tuple[Contrast, ...]:
    """The measures of the main table."""
    return tuple(
        _contrast(name, comparison.differences[name])
        for name in (*RATES, *MAIN_MEANS)
        if name in comparison.differences
    )


def _other_contrasts(comparison: Comparison) -> tuple[Contrast, ...]:
    return tuple(
        _contrast(name, one) for name, one in comparison.differences.items() if name not in (*RATES, *MAIN_MEANS)
    )


def _contrast(name: str, difference: Difference) -> Contrast:
    return Contrast(measure_of(name).name, difference, points=name in RATES)


def _settings(report: Results, network: Network) -> dict[str, str]:
    """What the numbers of a report depend on, name -> value."""
    own = {
        **({"network": report.model} if report.model != network.name else {}),
        "data": f"{report.dataset} {report.split}".strip(),
        "images": f"{len(report):,}",
        "method": report.method,
        "layer": report.layer or "that of the method",
        "target": report.target,
        "threshold": f"{report.threshold:g}",
        "margin": f"{report.margin} pixels",
        "tolerance": f"{report.tolerance} pixels",
    }
    further = {name: value for name, value in _flat(report.provenance) if name not in (*own, "command")}
    return {name: _cut(value) for name, value in {**own, **further}.items()}


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """(name, value) of all that is in there, with the names of what it is in before its own."""
    found = []
    for key, value in values.items():
        name = f"{before}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            found += _flat(value, f"{name} ")
        elif value is not None:
            found.append((name, value if isinstance(value, str) else json.dumps(value, default=str)))
    return found


def _environment() -> dict[str, str]:
    """The machine and its software, as this page is written."""
    return {name: value for name, value in _flat(environment(())) if name not in ("command", "classes")}


def _cut(value: str) -> str:
    value = printable(value)
    return value if len(value) <= _LONG else f"{value[:_LONG]}…"
