"""CUB-200-2011 for training, on a few files in its layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from regard import data
from regard.errors import InputError

GREEN, GREY = (20, 180, 60), (90, 90, 90)
NAMES = [
    "001.Black_footed_Albatross/A_0001.png",
    "001.Black_footed_Albatross/A_0002.png",
    "002.Laysan_Albatross/L_0001.png",
    "002.Laysan_Albatross/L_0002.png",
    "002.Laysan_Albatross/L_0003.png",
]
BOXES = [(10, 5, 20, 20), (0, 0, 40, 16), (22, 4, 16, 24), (0, 0, 30, 30), (1, 1, 10, 10)]  # x, y, width, height


def bird(width, height, box, colour=GREEN, background=GREY):
    image = Image.new("RGB", (width, height), background)
    x, y, w, h = box
    image.paste(Image.new("RGB", (w, h), colour), (x, y))
    return image


@pytest.fixture
def cub(tmp_path):
    """Green birds on grey, each filling its box."""
    root = tmp_path / "CUB_200_2011"
    for name, box in zip(NAMES, BOXES, strict=True):
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        bird(40, 30, box).save(root / "images" / name)
    tables = {
        "images": [f"{i} {name}" for i, name in enumerate(NAMES, 1)],
        "classes": ["1 001.Black_footed_Albatross", "2 002.Laysan_Albatross"],
        "image_class_labels": ["1 1", "2 1", "3 2", "4 2", "5 2"],
        "train_test_split": ["1 1", "2 0", "3 1", "4 0", "5 1"],
        "bounding_boxes": [f"{i} " + " ".join(f"{side:.1f}" for side in box) for i, box in enumerate(BOXES, 1)],
    }
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def error_of(folder, **options):
    with pytest.raises(InputError) as caught:
        data.load("cub", folder, **{"size": 8, **options})
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize("inside", [False, True])
def test_images_are_cropped_to_their_boxes(cub, inside):
    train, test = data.load("cub", cub / "CUB_200_2011" if inside else cub, size=8)
    assert (train.name, train.split, test.split) == ("cub", "train", "test")
    assert train.regions.shape == (3, 8, 8) and train.regions.all()  # a crop lies inside its box entirely
    assert train.classes == test.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    assert train.labels.tolist() == [0, 1, 1] and test.labels.tolist() == [0, 1]
    for part in (train, test):
        assert part.images.shape == (len(part), 3, 8, 8)
        assert (part.images == torch.tensor(GREEN, dtype=torch.uint8)[:, None, None]).all()
    assert train.mean == test.mean == pytest.approx(tuple(side / 255 for side in GREEN))


def test_boxes_are_resized_by_the_shorter_side_and_centre_cropped(cub):
    """The box has three thirds, of which only the middle one is kept."""
    image = bird(40, 30, (5, 5, 30, 10), (200, 0, 0))
    image.paste(Image.new("RGB", (10, 10), GREEN), (15, 5))
    image.save(cub / "CUB_200_2011" / "images" / NAMES[0])
    boxes = cub / "CUB_200_2011" / "bounding_boxes.txt"
    boxes.write_text(boxes.read_text().replace("1 10.0 5.0 20.0 20.0\n", "1 5.0 5.0 30.0 10.0\n", 1))
    result = data.load("cub", cub, size=10).train.images[0]
    assert (result == torch.tensor(GREEN, dtype=torch.uint8)[:, None, None]).all()


def test_cropped_images_match_pillow(cub):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(cub / "CUB_200_2011" / "images" / NAMES[0])
    result = data.load("cub", cub, size=8).train.images[0].permute(1, 2, 0).numpy()
    crop = Image.fromarray(pixels[5:25, 10:30])
    assert np.array_equal(result, np.asarray(crop.resize((8, 8), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize("orientation", [3, 6])
def test_boxes_refer_to_the_stored_pixels(cub, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(cub / "CUB_200_2011" / "images" / NAMES[0], exif=exif)
    result = data.load("cub", cub, size=20).train.images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(result, np.rot90(pixels[5:25, 10:30], {3: 2, 6: -1}[orientation]))


def test_uncropped_images_match_read_folder(cub, tmp_path):
    train = data.load("cub", cub, size=12, crop="none").train
    folder = data.read_folder(cub / "CUB_200_2011" / "images", size=12)
    assert torch.equal(train.images, folder.images[[0, 2, 4]])
    assert not torch.equal(train.images, data.load("cub", cub, size=12).train.images)


def test_boxes_are_clipped_to_the_image(cub):
    boxes = cub / "CUB_200_2011" / "bounding_boxes.txt"
    boxes.write_text(boxes.read_text().replace("1 10.0 5.0 20.0 20.0", "1 -5.0 -5.0 100.0 100.0"))
    uncropped = data.load("cub", cub, size=12, crop="none").train.images[0]
    assert torch.equal(data.load("cub", cub, size=12).train.images[0], uncropped)


def test_a_box_outside_its_image_makes_it_unreadable(cub):
    boxes = cub / "CUB_200_2011" / "bounding_boxes.txt"
    boxes.write_text(boxes.read_text().replace("1 10.0 5.0 20.0 20.0", "1 50.0 5.0 20.0 20.0"))
    # The other class has images left.
    (cub / "CUB_200_2011" / "image_class_labels.txt").write_text("1 2\n2 1\n3 2\n4 2\n5 1\n")
    message = error_of(cub)
    assert "40 x 30 pixels, none of them in its box from column 50, row 5" in message and "unreadable skip" in message
    splits = data.load("cub", cub, size=8, unreadable="skip")
    assert len(splits.train) == 2 and splits.train.skipped[0].endswith("A_0001.png")


def test_unreadable_files_are_named_or_skipped(cub):
    broken = cub / "CUB_200_2011" / "images" / NAMES[2]
    broken.write_text("no image")
    assert "L_0001.png' is not an image" in error_of(cub)
    splits = data.load("cub", cub, size=8, unreadable="skip")
    assert splits.train.skipped == (str(broken),) and splits.train.labels.tolist() == [0, 1]
    (cub / "CUB_200_2011" / "images" / NAMES[0]).write_text("no image")
    message = error_of(cub, unreadable="skip")
    assert "not one of the 1 images" in message and "001.Black_footed_Albatross" in message


def test_missing_inputs_are_named(cub, tmp_path):
    assert "give one size for all (--data.size" in error_of(cub, size=None)
    assert "needs a folder (the folder CUB_200_2011 with" in error_of(None)
    assert "no folder" in error_of(tmp_path / "nowhere") and "images.txt" in error_of(tmp_path / "nowhere")
    assert "no image_class_labels.txt" in error_of(cub / "CUB_200_2011" / "images")
    assert "did you mean 'box'" in error_of(cub, crop="boxes")
    assert "memory" in error_of(cub, memory_limit=100)
    assert "option of data set 'cub' 'cut'" in error_of(cub, cut="box")
    (cub / "CUB_200_2011" / "images" / NAMES[3]).unlink()
    assert "1 of the 2 images that images.txt names are missing" in error_of(cub)


def test_all_options_lists_the_defaults():
    assert data.all_options("cub") == {"crop": "box", "region": "box", "memory_limit": 4 * 2**30}
    assert data.all_options("cub", crop="none")["crop"] == "none"
