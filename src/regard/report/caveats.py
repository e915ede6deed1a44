"""What a reader has to know to take the numbers for what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from regard.bias import Results
from regard.formatting import percent
from regard.report.seed_groups import SeedGroup, each_alone, same_but_for_seed, told
from regard.report.summary import Summary
from regard.report.wording import few, listed, number


def caveats(rows: Sequence[Summary], groups: Sequence[SeedGroup] | None = None) -> list[str]:
    """What is missing or does not fit together in these runs, a sentence each.

    Args:
        rows: of the report.
        groups: the networks that they are runs of; None: each is one of its own.
    """
    groups = each_alone(rows) if groups is None else groups
    return [
        *(f"{row.name} has no finished epoch." for row in rows if row.epochs == 0),
        *(
            f"{row.name} has finished {row.epochs} of {row.recipe.schedule.epochs} epochs."
            for row in rows
            if 0 < row.epochs < row.recipe.schedule.epochs
        ),
        *_unmeasured(rows, groups),
        *(said for row in rows if row.bias is not None and (said := _misfit(row, row.bias))),
        *_trained_on(rows, groups),
    ]


def seeds(rows: Sequence[Summary]) -> str:
    """What the intervals do not speak of: other training runs."""
    intervals = (
        "The intervals (95%) speak of the finite test set: how far a number may move on other test images of the same "
        "kind. They do not speak of other training seeds"
    )
    groups = same_but_for_seed(rows)
    if not groups:
        each = "each network here was trained once, with one seed" if len(rows) > 1 else "this network was trained once"
        return f"{intervals}: {each}, and trained again it may move as far, or farther."
    spans = []
    for group in groups:
        values = [row.test_accuracy for row in group if row.test_accuracy is not None]
        if len(values) > 1:
            span = f"test accuracy {percent(min(values))} to {percent(max(values))}%"
            spans.append(f"{listed(row.name for row in group)}: {number(len(values), 'seed')}, {span}")
    once = "; every other network was trained once" if sum(map(len, groups)) < len(rows) else ""
    several = "; ".join(spans)
    return f"{intervals}. How far those move the numbers, the same recipe shows with several ({several}){once}."


def _unmeasured(rows: Sequence[Summary], groups: Sequence[SeedGroup]) -> list[str]:
    names = told(groups, [row for row in rows if row.bias is None])
    if not names:
        return []
    return [f"Where {few(names)} look{'s' if len(names) == 1 else ''} was not measured (no bias.json)."]


def _misfit(row: Summary, bias: Results) -> str | None:
    """What tells that the bias report is of other weights or other images than the last epoch's test accuracy."""
    measured, tested = bias.accuracy, row.accuracy
    where = f"{bias.dataset} {bias.split}".strip()
    if bias.dataset != row.recipe.data.name or (tested is not None and tested.n != measured.n):
        return (
            f"{row.name}: where it looks was measured on {measured.n:,} images of {where}, not on the test images "
            "of its training."
        )
    if tested is not None and abs(tested.value - measured.value) > 0.005:
        return (
            f"{row.name}: its bias.json counts {percent(measured.value)}% of the images right, its last epoch "
            f"{percent(tested.value)}%: it was measured with other weights, or on other images."
        )
    return None


def _trained_on(rows: Sequence[Summary], groups: Sequence[SeedGroup]) -> list[str]:
    found: dict[str, list[Summary]] = {}
    for row in rows:
        data = replace(row.recipe.data, mean=None, std=None, folder=None, download=False)
        options = "".join(f", {name} {value}" for name, value in data.options.items())
        images = f", {data.train_images:,} training images" if data.train_images else ""
        found.setdefault(f"{data.name}{options}{images}", []).append(row)
    if len(found) < 2:
        return []
    parts = (f"{few(told(groups, own))} on {data}" for data, own in found.items())
    return [f"The networks were not all trained on the same data: {'; '.join(parts)}."]
