"""Writes results as CSV with the columns of timm's results: one model per row, top1, top1_err, param_count in millions.

    regard complexity resnet50 --attention all --no-latency --json > complexity.json
    python examples/timm_results.py complexity.json --out results-complexity.csv

    regard bias lite0.safetensors lite1.safetensors --data coco:coco --out bias
    python examples/timm_results.py bias/*.json --out results-bias-coco.csv

    regard table builtin --out builtin.md
    python examples/timm_results.py builtin.md --out results-tables.csv

The columns depend on the kind of the files; convert files of one kind at a time. Rates and their intervals are in %.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from regard import training
from regard.formatting import csv_text

CLASSES = {"cifar10": 10, "cifar100": 100, "clutter": 10}
RATES = ("position_bias", "range_bias", "pointing")
MEANS = ("energy_inside", "spill", "miss", "auc")


def complexity_rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows from the records of `regard complexity`; gmacs counts multiply-adds."""
    return [
        {
            "model": record["network"],
            "attention": record["attention"],
            "img_size": record["image_size"],
            "gmacs": round(record["multiply_adds"] / 1e9, 3),
            "param_count": round(record["parameters"] / 1e6, 3),
        }
        for record in records
        if not record["problem"]
    ]


def bias_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The row of a network from its JSON file of `regard bias`: each measure over all images, with its interval."""
    overall = {record["measure"]: record for record in results["summary"] if record["part"] == "all"}
    accuracy = overall["accuracy"]["value"]
    row = {
        "model": results["model"].removesuffix(".safetensors"),
        "top1": None if accuracy is None else round(100 * accuracy, 3),
        "top1_err": None if accuracy is None else round(100 - 100 * accuracy, 3),
    }
    for names, scale in ((RATES, 100), (MEANS, 1)):
        for name in names:
            for key, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                value = overall[name][key]
                row[f"{name}{suffix}"] = None if value is None else round(scale * value, 4)
    return [
        {
            **row,
            "param_count": round(results["provenance"]["parameters"] / 1e6, 3),
            "images": results["images"],
            "dataset": f"{results['dataset']} {results['split']}".strip(),
            "method": results["method"],
            "threshold": results["threshold"],
        }
    ]


def table_rows(document: str) -> list[dict[str, Any]]:
    """Rows from a Markdown document of `regard table`: one per cell with runs, with the mean over its seeds."""
    heading = re.search(r"^## (.+)$", document, re.MULTILINE)
    numbers = re.search(r"^- numbers: (?:test )?(accuracy|error), % ", document, re.MULTILINE)
    if heading is None or numbers is None:
        return []
    seeds = re.findall(r"^\| (.+) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \| (0: .+) \|$", document, re.MULTILINE)
    recipes = {
        cell: rest for cell, *rest in re.findall(r"^\| (.+) \| (\d+(?: of \d+)?) \| ([\w/-]+) \| .+\|$", document, re.M)
    }
    rows = []
    for cell, *values, by_seed in seeds:
        mean, low, high = map(float, values)
        epochs, recipe = recipes[cell]
        top1 = {"top1": mean, "top1_low": low, "top1_high": high}
        if numbers[1] == "error":
            top1 = {"top1": 100 - mean, "top1_low": 100 - high, "top1_high": 100 - low}
        fields = training.load_recipe(recipe)
        model = training.make_model(fields, CLASSES[fields.data.name])
        rows.append(
            {
                "model": fields.model.name,
                **{name: round(value, 2) for name, value in top1.items()},
                "top1_err": round(100 - top1["top1"], 2),
                "param_count": round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 3),
                "img_size": fields.data.size or 32,
                "seeds": by_seed.count(":"),
                "epochs": epochs,
                "recipe": recipe,
                "table": heading[1],
            }
        )
    return rows


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of any kind."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return table_rows(text)
    records = json.loads(text)
    if isinstance(records, list):
        return complexity_rows(records)
    return bias_rows(records) if records.get("format") == "regard bias" else []


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="results of regard as CSV, with timm's columns")
    parser.add_argument("files", type=Path, nargs="+", help="records of complexity or bias (JSON), or tables (.md)")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    rows = [row for path in options.files for row in read(path)]
    if not rows:
        sys.exit("these files have no results")
    if len({tuple(row) for row in rows}) > 1:
        sys.exit("these files have results of several kinds; give one kind at a time")
    options.out.write_text(csv_text(rows), encoding="utf-8")
    print(f"{options.out}: {len(rows)} rows")


if __name__ == "__main__":
    main()
