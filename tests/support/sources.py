"""A small data set in every format for training or measuring, made from fixed random numbers.

Images are PNG whatever their file names end with, because PNG decodes to the same pixels everywhere and JPEG does not.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")
SHARDS, IN_SHARD, CLASSES_OF_SHARDS = 6, 5, 30
TENCH, SHARK = "n01440764", "n01484850"


def pixels(number: int, width: int, height: int) -> np.ndarray:
    """uint8 (height, width, 3): a random colour, a gradient along each side, and noise."""
    generator = np.random.default_rng(number)
    rows, columns = np.mgrid[:height, :width]
    slope = (rows / height)[:, :, None] * generator.integers(0, 80, 3) + (columns / width)[:, :, None] * 60
    noise = generator.integers(0, 60, (height, width, 3))
    return (generator.integers(0, 56, 3) + slope + noise).astype(np.uint8)


def size_of(number: int) -> tuple[int, int]:
    """Width and height of an image: wide, tall, small and large ones."""
    return 20 + 7 * number % 31, 18 + 11 * number % 29


def png(number: int, size: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(number, *(size or size_of(number)))).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def picture(path: Path, values: np.ndarray, palette: bool = False) -> None:
    """Writes a mask, or integers, as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8) * (255 if values.dtype == bool else 1))
    if palette:
        image = image.convert("P")
        image.putpalette([value % 256 for value in range(768)])
    image.save(path, "PNG")


def blob(number: int, width: int, height: int) -> np.ndarray:
    """bool (height, width): an ellipse."""
    rows, columns = np.mgrid[:height, :width]
    middle = height * (0.3 + 0.1 * (number % 4)), width * (0.4 + 0.1 * (number % 3))
    return ((rows - middle[0]) / (0.25 * height)) ** 2 + ((columns - middle[1]) / (0.3 * width)) ** 2 <= 1


# Data sets for training


def class_folders(root: Path, broken: bool = False) -> None:
    """12 images for training, 8 for testing; `broken` adds an unreadable one to each."""
    number = 0
    for split, per_class in (("train", 4), ("test", 3)):
        for label, name in enumerate(CLASSES):
            for i in range(per_class - (split == "test" and label == 2)):
                write(root / split / name / f"{i}.png", png(number))
                number += 1
        if broken:
            write(root / split / "bee" / "1b.png", b"not an image")


def scenes(root: Path) -> None:
    lists = {
        "Train": [f"{name}/{name}_{i}.jpg" for i in (2, 0, 1) for name in ("bar", "airport_inside")],
        "Test": ["bar/bar_3.jpg", "airport_inside/airport_inside_3.jpg", "airport_inside/airport_inside_4.jpg"],
    }
    for number, name in enumerate([*lists["Train"], *lists["Test"]]):
        write(root / "Images" / name, png(100 + number))
    for split, names in lists.items():
        write(root / f"{split}Images.txt", "\n".join(names) + "\n")


def cub(root: Path) -> None:
    """10 images with boxes and masks; every third is for testing."""
    inner = root / "CUB_200_2011"
    kinds = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    tables: dict[str, list[str]] = {
        "images": [],
        "classes": [f"{i} {kind}" for i, kind in enumerate(kinds, 1)],
        "image_class_labels": [],
        "train_test_split": [],
        "bounding_boxes": [],
    }
    for i in range(10):
        kind, (width, height) = kinds[i // 5], size_of(200 + i)
        write(inner / "images" / kind / f"bird_{i}.jpg", png(200 + i))
        grey = np.where(blob(i, width, height), 204, 102 * (i % 2)).astype(np.uint8)
        picture(root / "segmentations" / kind / f"bird_{i}.png", grey)
        tables["images"].append(f"{i + 1} {kind}/bird_{i}.jpg")
        tables["image_class_labels"].append(f"{i + 1} {1 + i // 5}")
        tables["train_test_split"].append(f"{i + 1} {int(i % 3 > 0)}")
        tables["bounding_boxes"].append(f"{i + 1} {2 + i % 3}.0 {1 + i % 4}.0 {width - 8}.0 {height - 7}.0")
    for name, lines in tables.items():
        write(inner / f"{name}.txt", "\n".join(lines) + "\n")


def shards(root: Path) -> None:
    """6 shards for training and 3 for testing, with 5 images each; the label of an image is its number."""
    splits = {}
    for split, count, first in (("train", SHARDS, 0), ("test", 3, 300)):
        names = [f"{split}-{shard}.tar" for shard in range(count)]
        for shard, name in enumerate(names):
            write(root / name, b"")
            with tarfile.open(root / name, "w") as file:
                for i in range(shard * IN_SHARD, (shard + 1) * IN_SHARD):
                    for ending, content in (("png", png(first + i)), ("cls", str(i).encode())):
                        member = tarfile.TarInfo(f"{i:04}.{ending}")
                        member.size = len(content)
                        file.addfile(member, io.BytesIO(content))
        splits[split] = {
            "name": split,
            "filenames": names,
            "shard_lengths": [IN_SHARD] * count,
            "num_samples": IN_SHARD * count,
        }
    write(root / "_info.json", json.dumps({"splits": splits, "num_classes": CLASSES_OF_SHARDS}))


def hugging_face(root: Path) -> None:
    """Parquet files with 12 images for training and 7 for testing."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    for split, count, first in (("train", 12, 400), ("test", 7, 450)):
        rows = {
            "image": [{"bytes": png(first + i), "path": f"{i}.png"} for i in range(count)],
            "label": [i * 2 % 3 for i in range(count)],
        }
        (root / "data").mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(str(root / "data" / f"{split}-00000-of-00001.parquet"))


@contextmanager
def published(root: Path) -> Iterator[None]:
    """Writes small versions of CIFAR-10, CIFAR-100 and STL10; in the context torchvision's checksums match them."""
    from torchvision import datasets

    def file(folder: str, name: str, content: bytes) -> list[str]:
        write(root / folder / name, content)
        return [name, hashlib.md5(content).hexdigest()]

    def noise(count: int, side: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)

    def cifar(folder: str, name: str, key: str, seed: int, count: int, classes: int) -> list[str]:
        labels = [(7 * seed + 3 * i) % classes for i in range(count)]
        batch = {"data": noise(count, 32, seed).reshape(count, -1), key: labels}
        return file(folder, name, pickle.dumps(batch))

    def meta(folder: str, name: str, key: str, classes: int) -> dict[str, str]:
        content = pickle.dumps({key: [f"kind {i}" for i in range(classes)]})
        return {"filename": name, "key": key, "md5": file(folder, name, content)[1]}

    ten, hundred, stl = "cifar-10-batches-py", "cifar-100-python", "stl10_binary"
    batches = [cifar(ten, f"data_batch_{i}", "labels", i, 4, 10) for i in range(1, 6)]
    file(stl, "class_names.txt", "\n".join(f"kind {i}" for i in range(10)).encode())
    file(stl, "fold_indices.txt", b"0 1\n")
    lists = {
        datasets.CIFAR10: {
            "train_list": batches,
            "test_list": [cifar(ten, "test_batch", "labels", 6, 5, 10)],
            "meta": meta(ten, "batches.meta", "label_names", 10),
        },
        datasets.CIFAR100: {
            "train_list": [cifar(hundred, "train", "fine_labels", 7, 12, 100)],
            "test_list": [cifar(hundred, "test", "fine_labels", 8, 5, 100)],
            "meta": meta(hundred, "meta", "fine_label_names", 100),
        },
        datasets.STL10: {
            f"{split}_list": [
                file(stl, f"{split}_X.bin", noise(count, 96, count).tobytes()),
                file(stl, f"{split}_y.bin", bytes(1 + 3 * i % 10 for i in range(count))),
            ]
            for split, count in (("train", 9), ("test", 4))
        },
    }
    with ExitStack() as patches:
        for kind, values in lists.items():
            patches.enter_context(patch.multiple(kind, **values))
        yield


# Data sets with regions


def masks(root: Path) -> None:
    """Images with masks, in two class folders; one is rotated by its EXIF orientation."""
    for i in range(6):
        name, (width, height) = f"{'ab'[i % 2]}/{i}.png", size_of(500 + i)
        mask = blob(i, width, height)
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 3 else 1
        Image.fromarray(pixels(500 + i, width, height)).save(path, exif=exif)
        picture(root / "masks" / name, np.rot90(mask, -1) if i == 3 else mask)


def coco(root: Path) -> None:
    """Objects as polygons, as run lengths and as a crowd; one image without objects."""
    images, annotations = [], []

    def annotate(image: int, category: int, segmentation: object, crowd: int = 0) -> None:
        ids = {"id": len(annotations) + 1, "image_id": image, "category_id": category}
        annotations.append({**ids, "segmentation": segmentation, "iscrowd": crowd})

    for i in range(5):
        width, height = size_of(600 + i)
        write(root / "val2017" / f"{i:012}.jpg", png(600 + i))
        images.append({"id": 10 + i, "file_name": f"{i:012}.jpg", "width": width, "height": height})
        if i != 2:
            annotate(10 + i, 7, [[1, 1, width - 5, 2, width - 4, height - 6.5, 3.5, height - 4]])
        if i % 2:
            runs = np.flatnonzero(np.diff(np.pad(blob(i, width, height).T.ravel(), 1).astype(int)))
            counts = np.diff([0, *runs.tolist(), width * height]).tolist()
            annotate(10 + i, 3, {"size": [height, width], "counts": counts}, crowd=1)
        if i == 4:
            annotate(10 + i, 3, [[0, 0, 6, 0, 6, 6, 0, 6], [8, 8, 15, 8, 12, 15]])
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
    }
    write(root / "annotations" / "instances_val2017.json", json.dumps(content))


def boxes_xml(objects: list[tuple[str, int, int, int, int]], size: tuple[int, int]) -> str:
    text = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>"
        for name, x0, y0, x1, y1 in objects
    )
    return (
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>{text}"
        "</annotation>"
    )


def voc(root: Path) -> None:
    """Class masks of a person and a dog, with void borders."""
    for i in range(4):
        name, (width, height) = f"2007_{i:06}", size_of(700 + i)
        numbers = np.zeros((height, width), dtype=np.uint8)
        numbers[blob(i, width, height)] = 15
        numbers[: height // 3, width // 2 :] = 12
        numbers[:, width // 2] = 255
        write(root / "JPEGImages" / f"{name}.jpg", png(700 + i))
        picture(root / "SegmentationClass" / f"{name}.png", numbers * (i != 1), palette=True)
    write(root / "ImageSets" / "Segmentation" / "val.txt", "".join(f"2007_{i:06}\n" for i in range(4)))


def voc_boxes(root: Path) -> None:
    for i in range(3):
        name, size = f"{i:06}", size_of(750 + i)
        objects = [("dog", 2, 3, size[0] - 5, 12), ("person", 9, 5, 14 + i, size[1])][: 1 + i]
        write(root / "JPEGImages" / f"{name}.jpg", png(750 + i))
        write(root / "Annotations" / f"{name}.xml", boxes_xml(objects, size))
    write(root / "ImageSets" / "Main" / "val.txt", "".join(f"{i:06}\n" for i in range(3)))


def pets(root: Path) -> None:
    names = ["Abyssinian_1", "great_pyrenees_7", "beagle_3"]
    for i, name in enumerate(names):
        width, height = size_of(800 + i)
        trimap = np.full((height, width), 2, dtype=np.uint8)
        trimap[2:-3, 3:-2] = 3
        trimap[5:-6, 6:-6] = 1
        write(root / "images" / f"{name}.jpg", png(800 + i))
        picture(root / "annotations" / "trimaps" / f"{name}.png", trimap)
    lines = [f"{name} {i} 1 1" for i, name in zip((1, 16, 5), names, strict=True)]
    write(root / "annotations" / "test.txt", "\n".join(lines) + "\n")


def imagenet(root: Path) -> None:
    for i, synset in enumerate((TENCH, SHARK, TENCH)):
        name, size = f"ILSVRC2012_val_{i + 1:08}", size_of(850 + i)
        objects = [(synset, 3, 2, size[0] - 6, 14), (SHARK, 1, 1, size[0], 8)][: 1 + i]
        write(root / "val" / synset / f"{name}.JPEG", png(850 + i))
        write(root / "bbox" / "val" / f"{name}.xml", boxes_xml(objects, size))


def stl10_marks(root: Path) -> None:
    """Marked cells of a 16 x 16 grid, for PNG files of 96 x 96 pixels."""
    grids = {
        "airplane": {"2": {"airplane_0": [[x, y] for x in range(3, 11) for y in range(5, 9)]}},
        "ship": {"0": {"ship_0": [[x, y] for x in range(2, 9) for y in range(12)], "ship_1": [[15, 15]]}},
    }
    for kind, content in grids.items():
        write(root / f"stl10_test_{kind}.json", json.dumps(content))
    for number, name in enumerate(("airplane_2", "ship_0")):
        write(root / "images" / f"{name}.png", png(900 + number, (96, 96)))


ALL = {
    "folder": class_folders,
    "broken": lambda root: class_folders(root, broken=True),
    "scenes": scenes,
    "cub": cub,
    "shards": shards,
    "hugging face": hugging_face,
    "masks": masks,
    "coco": coco,
    "voc": voc,
    "voc boxes": voc_boxes,
    "pets": pets,
    "imagenet": imagenet,
    "stl10 marks": stl10_marks,
}


@contextmanager
def made(root: Path) -> Iterator[Path]:
    """All data sets of `ALL` below `root`, each in a folder of its name, and those of `published` in "published"."""
    import datasets

    for name, make in ALL.items():
        make(root / name)
    with published(root / "published"), patch.object(datasets.config, "HF_DATASETS_CACHE", root / "cache"):
        yield root
