"""All data sets list the same files as images."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image
from support.loaders import streamed

from regard import data
from regard.cli import main
from regard.errors import DataWarning, InputError


def write(path, number=1):
    """Writes an image whose pixels all have this value, except in JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number,) * 3).save(path)


def list_folder(root):
    train = data.load("folder", root).train
    return list(zip(train.images[:, 0, 0, 0].tolist(), (train.classes[label] for label in train.labels), strict=True))


def list_files(root):
    train = data.load("files", root).train
    indices = range(len(train))
    values = [int(np.asarray(train.image(i))[0, 0, 0]) for i in indices]
    return list(zip(values, (train.classes[label] for label in train.labels), strict=True))


def list_regions(root):
    dataset = data.open_regions(f"folder:{root}", split="train")
    values = [int(np.asarray(dataset.image(i))[0, 0, 0]) for i in range(len(dataset))]
    return list(zip(values, (dataset.classes[label] for label in dataset.labels), strict=True))


def list_masks(root):
    (root / "images").symlink_to("train")
    (root / "masks").symlink_to("train")
    dataset = data.open_regions(f"masks:{root}")
    values = [int(np.asarray(dataset.image(i))[0, 0, 0]) for i in range(len(dataset))]
    assert all(dataset.mask(i).all() for i in range(len(dataset)))
    return list(zip(values, (dataset.classes[label] for label in dataset.labels), strict=True))


def list_pictures(root):
    dataset = data.open_pictures([root / "train"])
    values = [int(np.asarray(dataset.image(i))[0, 0, 0]) for i in range(len(dataset))]
    return list(zip(values, (path.parts[0] for path in dataset.relative_paths), strict=True))


all_listers = pytest.mark.parametrize("list_images", [list_folder, list_files, list_regions, list_masks, list_pictures])


@pytest.fixture
def root(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split / "cat" / "1.png", 1)
        write(tmp_path / split / "dog" / "2.png", 2)
    return tmp_path


@all_listers
def test_links_to_folders_are_followed_and_cycles_end(root, tmp_path_factory, list_images):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere / "3.png", 3)
    write(elsewhere / "deeper" / "4.png", 4)
    (elsewhere / "back").symlink_to(root / "train")
    (elsewhere / "again").symlink_to(elsewhere)
    (root / "train" / "cat" / "more").symlink_to(elsewhere)
    (root / "train" / "cat" / "up").symlink_to("..")
    (root / "train" / "cat" / "itself").symlink_to("itself")
    (root / "train" / "round").symlink_to(".")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = [pair for pair in list_images(root) if pair[0] != 255]
    assert sorted(pairs) == [(1, "cat"), (2, "dog"), (3, "cat"), (4, "cat")]
    assert [name for _, name in pairs] == ["cat", "cat", "cat", "dog"]


@all_listers
def test_densely_linked_folders_are_listed_once(root, list_images):
    names = [f"n{i:02}" for i in range(12)]  # 12! paths lead from one to another
    for name in names:
        (root / "elsewhere" / name).mkdir(parents=True)
        for other in names:
            (root / "elsewhere" / name / other).symlink_to(root / "elsewhere" / other)
    write(root / "elsewhere" / "n11" / "5.png", 5)
    (root / "train" / "cat" / "more").symlink_to(root / "elsewhere" / "n00")
    assert sorted(list_images(root)) == [(1, "cat"), (2, "dog"), (5, "cat")]


@pytest.mark.filterwarnings("ignore::regard.errors.DataWarning")
@all_listers
def test_system_files_are_neither_classes_nor_images(root, list_images):
    for name in ("@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found", ".hidden", ".ipynb_checkpoints"):
        for folder in (root / "train", root / "test", root / "train" / "cat"):
            write(folder / name / "cat" / "1.png" / "SYNOPHOTO_THUMB_M.jpg")
    write(root / "train" / "cat" / "._1.png")
    (root / "train" / "cat" / "Thumbs.db").write_bytes(b"x")
    assert sorted(list_images(root)) == [(1, "cat"), (2, "dog")]


def test_ignored_files_are_reported_once(root, capsys):
    for folder in (root / "train", root / "test", root / "train" / "cat"):
        write(folder / "@eaDir" / "1.png" / "SYNOPHOTO_THUMB_M.jpg")
    (root / "train" / "cat" / "2.heic").write_bytes(b"x")
    arguments = ["--data.name=folder", f"--data.folder={root}", "--model.name=wrn-10-0.5", "--schedule.epochs=1"]
    assert main(["train", *arguments, "--schedule.batch_size=2", f"--run={root / 'run'}", "--device=cpu"]) == 0
    messages = [line for line in capsys.readouterr().err.splitlines() if line.startswith("regard: ")]
    assert len(messages) == 2 and "'@eaDir'" in messages[0] and ".heic" in messages[1]


@all_listers
def test_every_image_extension_is_listed(root, list_images):
    for number, extension in enumerate(data.EXTENSIONS):
        write(root / "train" / "cat" / "x.png", 100 + number)
        (root / "train" / "cat" / "x.png").rename(root / "train" / "cat" / f"{number}{extension.upper()}")
    (root / "train" / "cat" / "1.png").unlink()
    assert sorted(list_images(root)) == [(2, "dog"), *((100 + number, "cat") for number in range(len(data.EXTENSIONS)))]


def test_common_formats_are_decoded(root):
    for extension in (".jpg", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".ppm", ".jp2"):
        path = root / f"x{extension}"
        Image.new("RGB", (8, 8), (200,) * 3).save(path)
        assert abs(int(np.asarray(data.open_pictures([path]).image(0))[0, 0, 0]) - 200) <= 1


@pytest.mark.parametrize("kind", ["coco", "imagenet", "scenes", "stl10"])
def test_annotations_that_are_devices_are_refused(tmp_path, kind):
    name = {
        "coco": "a.json",
        "imagenet": "bbox/val/a.xml",
        "scenes": "TrainImages.txt",
        "stl10": "stl10_test_bird.json",
    }
    path = tmp_path / name[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/zero")
    write(tmp_path / "val" / "a.png")
    write(tmp_path / "Images" / "cat" / "a.png")
    with pytest.raises(InputError, match=path.name):
        if kind == "scenes":
            data.load("scenes", tmp_path, size=8)
        else:
            data.open_regions(f"{kind}:{path if kind == 'coco' else tmp_path}")


def test_images_that_are_pipes_are_refused(root):
    os.mkfifo(root / "train" / "cat" / "0.png")
    for name in ("folder", "files"):
        with pytest.raises(Exception, match="is not a regular file"):
            list(streamed(data.load(name, root).train, 2).epoch(0))


def test_duplicate_class_names_are_refused(root):
    with pytest.raises(ValueError, match="'cat' named twice"):
        data.read_folder(root / "train", classes=["cat", "dog", "cat"])
    assert issubclass(DataWarning, UserWarning)
