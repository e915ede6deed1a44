"""Shows the images of `regard bias` in FiftyOne: converts its Parquet file, one row per image, to a CSV file.

    regard bias resnet50 --data masks:pictures --out bias
    python examples/fiftyone_rows.py bias/resnet50.json pictures/images --out labels.csv

Then, where FiftyOne is installed:

    import fiftyone as fo
    from fiftyone_rows import FIELDS

    dataset = fo.Dataset.from_dir(dataset_type=fo.types.CSVDataset, labels_path="labels.csv", fields=FIELDS)
    session = fo.launch_app(dataset)   # sort by spill, filter by bias

Label Studio, CVAT and spreadsheets read this file too.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from regard import bias

MEASURES = ("spill", "miss", "iou", "energy_inside", "auc", "focus_area", "region_area", "probability")
# Column -> function that parses its cells, for `fiftyone.utils.csv.CSVDatasetImporter`. Empty cells become no field.
FIELDS = {**dict.fromkeys(("label", "predicted", "bias"), str), **dict.fromkeys(MEASURES, float)}


def rows(results: bias.Results, images: Path) -> list[dict[str, object]]:
    """One dict per image: absolute path, names of the labels, kind of bias, and measures; None for NaN."""
    names = dict(enumerate(results.classes))
    records = []
    for row in results.to_arrow().to_pylist():
        which = "position" if row["position_bias"] else "range" if row["range_bias"] else "none"
        records.append(
            {
                "filepath": str((images / row["image"]).resolve()),
                "label": names.get(row["label"]),
                "predicted": names.get(row["predicted"], str(row["predicted"])),
                "bias": "unknown" if row["constant"] or not row["region_area"] else which,
                **{name: row[name] for name in MEASURES},
            }
        )
    return records


def write(records: list[dict[str, object]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["filepath", *FIELDS])
        writer.writeheader()
        writer.writerows(records)


def main() -> None:
    parser = argparse.ArgumentParser(description="results of `regard bias` as a CSV file that FiftyOne imports")
    parser.add_argument("results", type=Path, help="the JSON file of a network, with the Parquet file in its folder")
    parser.add_argument("images", type=Path, help="the folder that contains the images")
    parser.add_argument("--out", type=Path, default=Path("labels.csv"))
    options = parser.parse_args()
    records = rows(bias.Results.load(options.results), options.images)
    write(records, options.out)
    print(f"{options.out}: {len(records)} images")


if __name__ == "__main__":
    main()
