"""What the page says in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from regard.data import Splits, all_options
from regard.report.seed_groups import SeedGroup
from regard.report.summary import Summary
from regard.report.wording import few, listed, method_name, number
from regard.tables.statistics import LEVEL, pairs_needed


def intro(rows: Sequence[Summary], reference: Summary, splits: Splits | None, networks: int) -> str:
    """Two sentences: what was trained on what, and how.

    Args:
        rows: the runs.
        reference: that of the reference.
        splits: the data, if they are at hand.
        networks: how many the runs are of.
    """
    data = reference.recipe.data
    names = listed(dict.fromkeys(row.recipe.data.name for row in rows))
    details = []
    if splits is not None:
        train, test = splits
        height, width = test.images.shape[2:]
        details = [
            f"{len(train):,} training and {len(test):,} test images",
            f"{width}\u00a0×\u00a0{height} pixels",
            f"{len(test.classes)} classes",
        ]
    if names == "clutter":
        options = all_options("clutter", **data.options)
        cue, test_cue = options["cue"], options["test_cue"]
        details.append(f"the background a cue to the label with {cue:g} in training and {test_cue:g} in testing")
    counted = {"train", "test"} if splits is not None and names == "clutter" else set()
    usual, said = all_options(data.name), {"cue", "test_cue", *counted}
    details += [f"{name} {value}" for name, value in data.options.items() if name not in said and value != usual[name]]
    verb = "was" if networks == 1 else "were"
    first = f"{number(networks, 'network').capitalize()} {verb} trained on {names}"
    first += f" ({', '.join(details)})" if details else ""
    several = len(rows) > networks
    first += f", in {number(len(rows), 'run')}." if several else "."
    epochs = sorted({row.epochs for row in rows})
    seeds_used = sorted({row.recipe.seed for row in rows})
    span = f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else f"{epochs[0]}"
    devices = listed(dict.fromkeys(_device(row) for row in rows))
    second = (
        f"{'Each run' if several else 'Each network' if networks > 1 else 'It'} saw {span} "
        f"epoch{'s' if epochs != [1] else ''}, with "
        f"seed{'s' if len(seeds_used) > 1 else ''} {_numbers(seeds_used)}, on {devices}; all numbers "
        "are those after the last epoch."
    )
    return f"{first} {second}"


def by_chance(count: int) -> str:
    """How many of so many differences would be resolved if there were none."""
    expected = round(count / 20)
    if count < 2:
        return ""
    about = f"about {number(expected)} of these {count}" if expected else "one in twenty such intervals"
    return f"Even if no network differed, {about} would leave zero out by chance."


def measured(rows: Sequence[Summary]) -> str:
    """How the bias reports were made, if there are any."""
    reports = [row.bias for row in rows if row.bias is not None]
    if not reports:
        return ""
    how = listed(dict.fromkeys(method_name(report.method) for report in reports))
    targets = listed(dict.fromkeys("label's" if r.target == "label" else "predicted" for r in reports))
    thresholds = listed(dict.fromkeys(f"{report.threshold:g}" for report in reports))
    margins = listed(dict.fromkeys(str(report.margin) for report in reports))
    inside = "is not inside the region" if margins == "0" else f"goes further than {margins} pixels beyond the region"
    return (
        f"Where a network looks is its {how} map of the {targets} class, scaled to [0, 1] an image; its focus is where "
        f"the map is at least {thresholds}. Position bias: the focus does not meet the region, the pixels of the "
        f"object. Range bias: they meet, but the focus {inside}. No image has both, so where the focus "
        "is hardly ever inside, one rises as the other falls. Spill: the share of the focus outside the region. "
        "Accuracy counts all test images, the others those with a focus and a region."
    )


def over_seeds(groups: Sequence[SeedGroup]) -> str:
    """What numbers over seeds speak of, and what they do not; of networks one of which has several seeds."""
    one = [group for group in groups if len(group.rows) == 1]
    said = (
        "Where a network has several seeds, ± is the standard deviation over them, and in small type is the 95% "
        "confidence interval of their mean (Student’s t). Both speak of training again on the same data, and not of "
        "other test images"
    )
    if one:
        said += (
            "; the intervals of networks with one seed speak of other test images alone (Wilson; of the mean ± 1.96 "
            "standard errors), and not of training again"
        )
    return f"{said}."


def seed_rule(seeds: Sequence[int]) -> str:
    """How networks are compared over seeds; `seeds`: of each comparison, how many both have."""
    needed = pairs_needed(sides=2)
    return (
        "In small type: the 95% interval of the difference (paired t over the seeds that both have), and the two-sided "
        f"p of the permutation test that changes the signs of the seeds’ differences. With fewer than {number(needed)} "
        f"seeds that p cannot fall below {LEVEL:g}, so nothing is resolved. "
        f"{by_chance(sum(count >= needed for count in seeds))}"
    ).rstrip()


def _numbers(values: Sequence[int]) -> str:
    """0, 1 and 2; of many in a row 0 to 9."""
    if len(values) > 4 and values[-1] - values[0] == len(values) - 1:
        return f"{values[0]} to {values[-1]}"
    return few(list(map(str, values)), 20)


def _device(row: Summary) -> str:
    gpu = row.environment.get("gpu")
    asked = row.recipe.device
    if asked == "cpu" or (asked == "auto" and not gpu):
        return "the CPU"
    return str(gpu) if gpu and asked.startswith(("auto", "cuda")) else asked
