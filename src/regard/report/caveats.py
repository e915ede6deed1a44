"""What a reader has to know to take the numbers for what they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from regard.bias import Report
from regard.errors import InputError
from regard.report.summary import Summary
from regard.report.wording import listed, number, percent
from regard.training import Recipe, Run, plain


def caveats(rows: Sequence[Summary]) -> list[str]:
    """What is missing or does not fit together in these runs, a sentence each."""
    return [
        *(f"{row.name} has no finished epoch." for row in rows if row.epochs == 0),
        *(
            f"{row.name} has finished {row.epochs} of {row.recipe.schedule.epochs} epochs."
            for row in rows
            if 0 < row.epochs < row.recipe.schedule.epochs
        ),
        *_unmeasured(rows),
        *(said for row in rows if row.bias is not None and (said := _misfit(row, row.bias))),
        *_trained_on(rows),
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


def same_but_for_seed(rows: Sequence[Summary]) -> list[list[Summary]]:
    """The rows whose recipes differ in nothing but the seed, theirs and their teachers', two or more together."""
    groups: dict[str, list[Summary]] = {}
    for row in rows:
        if row.test_accuracy is not None:
            groups.setdefault(_recipe_but_for_seed(row.recipe), []).append(row)
    return [group for group in groups.values() if len({row.recipe.seed for row in group}) > 1]


def _recipe_but_for_seed(recipe: Recipe, depth: int = 0) -> str:
    teachers = []
    for teacher in recipe.transfer.teachers:
        if Path(teacher).is_dir() and depth < 8:
            with suppress(InputError):  # then it is known by its name
                teacher = _recipe_but_for_seed(Run.open(teacher).recipe, depth + 1)
        teachers.append(teacher)
    transfer = replace(recipe.transfer, teacher=teachers or None)
    return repr(plain(replace(recipe, seed=0, source="", device="auto", threads=None, transfer=transfer)))


def _unmeasured(rows: Sequence[Summary]) -> list[str]:
    names = [row.name for row in rows if row.bias is None]
    if not names:
        return []
    return [f"Where {listed(names)} look{'s' if len(names) == 1 else ''} was not measured (no bias.json)."]


def _misfit(row: Summary, bias: Report) -> str | None:
    """What tells that the bias report is of other weights or other images than the last epoch's test accuracy."""
    measured, tested = bias.accuracy, row.accuracy
    where = f"{bias.dataset} {bias.split}".strip()
    if bias.dataset != row.recipe.data.name or (tested is not None and tested.total != measured.total):
        return (
            f"{row.name}: where it looks was measured on {measured.total:,} images of {where}, not on the test images "
            "of its training."
        )
    if tested is not None and abs(tested.successes - measured.successes) > 0.005 * tested.total:
        return (
            f"{row.name}: its bias.json counts {percent(measured.value)}% of the images right, its last epoch "
            f"{percent(tested.value)}%: it was measured with other weights, or on other images."
        )
    return None


def _trained_on(rows: Sequence[Summary]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for row in rows:
        data = replace(row.recipe.data, mean=None, std=None, folder=None, download=False)
        options = "".join(f", {name} {value}" for name, value in data.options.items())
        images = f", {data.train_images:,} training images" if data.train_images else ""
        groups.setdefault(f"{data.name}{options}{images}", []).append(row.name)
    if len(groups) < 2:
        return []
    parts = (f"{listed(names)} on {data}" for data, names in groups.items())
    return [f"The networks were not all trained on the same data: {'; '.join(parts)}."]
