"""Made-up objects and detections, and their evaluation by pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pycocotools.mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from regard.detection import Results
from regard.detection.table import Table

SIZE = (120, 90)


def results(truth, detections, classes=3, images=None, sizes=None, model="made"):
    """Results from objects [(image, label, box, crowd, area)] and detections [(image, label, box, score)].

    Boxes are left, top, width and height; masks may stand in place of boxes.
    """
    count = images or 1 + max([row[0] for row in (*truth, *detections)], default=0)
    truth_rows = [[row[1:] for row in truth if row[0] == i] for i in range(count)]
    detection_rows = [[row[1:] for row in detections if row[0] == i] for i in range(count)]
    return Results(
        *(model, "made", "val", tuple(f"class {i}" for i in range(classes)), tuple(range(10, 10 + classes))),
        tuple(f"{i}.jpg" for i in range(count)),
        tuple(100 + i for i in range(count)),
        np.array(sizes or [SIZE] * count),
        Table.joined([_table(rows, True) for rows in truth_rows]),
        Table.joined([_table(rows, False) for rows in detection_rows]),
    )


def _table(rows, objects):
    shapes = [row[1] for row in rows]
    masks = any(np.ndim(shape) == 2 for shape in shapes)
    codes = [pycocotools.mask.encode(np.asfortranarray(shape.astype(np.uint8))) for shape in shapes] if masks else []
    boxes = [pycocotools.mask.toBbox(code) for code in codes] if masks else shapes
    n = len(rows)
    return Table(
        np.zeros(n, np.int64),
        np.array([row[0] for row in rows], np.int64),
        np.array(boxes, np.float64).reshape(n, 4),
        np.array([1.0 if objects else row[2] for row in rows], np.float64),
        np.array([bool(row[2]) if objects else False for row in rows], np.bool_),
        np.array([row[3] if objects else np.nan for row in rows], np.float64),
        tuple(code["counts"] for code in codes) if masks or not rows else None,
    )


def judged(results, kind="boxes", classes=None):
    """pycocotools' twelve numbers of the results' COCO files; NaN in place of its -1."""
    truth = results.truth
    annotations = [
        {
            "id": i + 1,
            "image_id": results.image_ids[truth.image[i]],
            "category_id": results.category_ids[truth.label[i]],
            "bbox": truth.box[i].tolist(),
            "area": float(truth.area[i]),
            "iscrowd": int(truth.crowd[i]),
            **({"segmentation": truth.codes(results.sizes)[i]} if kind == "masks" else {}),
        }
        for i in range(len(truth))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [
                {"id": key, "width": int(width), "height": int(height)}
                for key, (width, height) in zip(results.image_ids, results.sizes, strict=True)
            ],
            "annotations": annotations,
            "categories": [{"id": key, "name": str(key)} for key in results.category_ids],
        }
        coco.createIndex()
        scoring = COCOeval(coco, coco.loadRes(results.coco_results(kind)), "bbox" if kind == "boxes" else "segm")
        if classes is not None:
            scoring.params.catIds = classes
        scoring.evaluate()
        scoring.accumulate()
        scoring.summarize()
    return np.where(scoring.stats < 0, np.nan, scoring.stats)


def box(rng):
    x, y = rng.uniform(-3, 90), rng.uniform(-3, 70)
    return np.array([x, y, *rng.uniform(0.5, [118 - x, 88 - y])])


def mask(rng):
    x, y, w, h = box(rng).astype(int).clip(0)
    shape = np.zeros(SIZE[::-1], bool)
    shape[y : y + h + 1, x : x + w + 1] = rng.random((h + 1, w + 1))[: 90 - y, : 120 - x] < 0.8
    return shape


def scene(seed, masks=False, images=12, classes=3):
    """Random objects and detections: ties in scores, crowds, empty images, duplicates, more than 100 detections,
    classes without objects, stated areas that differ from the boxes or masks."""
    rng = np.random.default_rng(seed)
    truth, detections = [], []
    for image in range(images):
        objects = [
            (image, int(rng.integers(classes - 1)), mask(rng) if masks else box(rng)) for _ in range(rng.integers(6))
        ]
        for row in objects:
            area = row[2].sum() if masks else np.prod(row[2][2:])
            truth.append((*row, rng.random() < 0.2, area if rng.random() < 0.8 else area * 30))
        for _ in range(150 if image == 3 else 0 if image % 5 == 1 else rng.integers(25)):
            label, shape = int(rng.integers(classes)), mask(rng) if masks else box(rng)
            if objects and rng.random() < 0.7:
                _, label, shape = objects[rng.integers(len(objects))]
                if masks:
                    shape = shape ^ (rng.random(shape.shape) < rng.choice([0, 0.02, 0.2]))
                elif rng.random() < 0.8:
                    shape = shape + rng.normal(0, 2, 4)
                    shape[2:] = shape[2:].clip(0.1)
            detections.append((image, label if image != 3 else 0, shape, round(rng.random(), rng.integers(1, 6))))
    return results(truth, detections, classes)
