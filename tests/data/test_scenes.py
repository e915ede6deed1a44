"""MIT Indoor Scenes, on a few files in its layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from regard import data
from regard.errors import InputError

TRAIN = ["bar/b_1.jpg", "airport_inside/a_1.jpg", "airport_inside/a 2.jpg", "bar/b_2.jpg"]
TEST = ["bar/b_3.jpg", "airport_inside/a_3.jpg"]


@pytest.fixture
def scenes(tmp_path, write_image):
    """Images of many sizes; one is in no list, and one is a PNG despite its name."""
    for i, name in enumerate([*TRAIN, *TEST, "bar/unlisted.jpg"]):
        write_image(tmp_path / "Images" / name, (20 + i, 30 - i), seed=i)
    pixels = np.random.default_rng(9).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "Images" / "bar" / "b_2.jpg", format="PNG")
    (tmp_path / "TrainImages.txt").write_bytes("\r\n".join(TRAIN).encode())  # no line break at the end
    (tmp_path / "TestImages.txt").write_text("\n".join(TEST) + "\n")
    return tmp_path


def error_of(folder, **options):
    with pytest.raises(InputError) as caught:
        data.load("scenes", folder, **{"size": 8, **options})
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_the_lists_define_train_and_test(scenes):
    train, test = data.load("scenes", scenes, size=16)
    assert (train.name, train.split, test.split) == ("scenes", "train", "test")
    assert train.classes == test.classes == ("airport_inside", "bar")
    assert train.labels.tolist() == [1, 0, 0, 1] and test.labels.tolist() == [1, 0]
    assert train.images.shape == (4, 3, 16, 16)
    expected = np.random.default_rng(9).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert torch.equal(train.images[3].permute(1, 2, 0), torch.from_numpy(expected))
    assert (train.mean, train.std) == (test.mean, test.std)


def test_images_are_resized_like_read_folder(scenes):
    folder = data.read_folder(scenes / "Images", size=8)  # a 2, a_1, a_3, b_1, …
    train, test = data.load("scenes", scenes, size=8)
    assert torch.equal(train.images[[2, 1, 0]], folder.images[[0, 1, 3]])
    assert torch.equal(test.images[1], folder.images[2])


def test_unreadable_files_are_named_or_skipped(scenes):
    broken = scenes / "Images" / "bar" / "b_1.jpg"
    broken.write_text("no image")
    assert "b_1.jpg' is not an image" in error_of(scenes)
    train = data.load("scenes", scenes, size=8, unreadable="skip").train
    assert train.skipped == (str(broken),) and train.labels.tolist() == [0, 0, 1]


def test_missing_inputs_are_named(scenes, tmp_path):
    assert "give one size for all (--data.size" in error_of(scenes, size=None)
    assert "needs a folder (a folder with Images/" in error_of(None)
    assert "no folder" in error_of(scenes / "nowhere")
    message = error_of(scenes / "Images")
    assert "no folder Images/ in" in message and "expected a folder with Images/" in message
    assert "memory" in error_of(scenes, memory_limit=100)
    assert "option of data set 'scenes' 'crop'" in error_of(scenes, crop="box")
    (scenes / "Images" / "bar" / "b_3.jpg").unlink()
    assert "1 of the 2 images that TestImages.txt names are missing" in error_of(scenes)
    (scenes / "TestImages.txt").unlink()
    assert "no file TestImages.txt in" in error_of(scenes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no lines; expected an image"),
        ("\n \n", "has no lines"),
        ("b_3.jpg\n", "names 'b_3.jpg'; expected class/file.jpg"),
        ("../bar/b_3.jpg\n", "within the folder of images"),
        ("bar/b_9.jpg\n", "1 of the 1 images that TestImages.txt names are missing"),
    ],
)
def test_malformed_lists_are_named(scenes, text, expected):
    (scenes / "TestImages.txt").write_text(text)
    assert expected in error_of(scenes)


def test_a_class_with_only_test_images_is_refused(scenes, write_image):
    write_image(scenes / "Images" / "gym" / "g.jpg")
    (scenes / "TestImages.txt").write_text("gym/g.jpg\n")
    assert "names 'gym/g.jpg', of a class that TrainImages.txt has no image of" in error_of(scenes)
