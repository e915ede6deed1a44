"""CUB, Oxford-IIIT Pets, VOC and STL10, on a few small files in their published layouts."""

import numpy as np
import pytest
from PIL import Image

from regard import data

# CUB


@pytest.fixture
def cub(tmp_path, write_image):
    root = tmp_path / "CUB_200_2011"
    names = [
        "001.Black_footed_Albatross/A_0001.jpg",
        "001.Black_footed_Albatross/A_0002.jpg",
        "002.Laysan_Albatross/L_0001.jpg",
        "002.Laysan_Albatross/L_0002.jpg",
    ]
    for i, name in enumerate(names):
        write_image(root / "images" / name, seed=i)
    tables = {
        "images": [f"{i} {name}" for i, name in enumerate(names, 1)],
        "classes": ["1 001.Black_footed_Albatross", "2 002.Laysan_Albatross"],
        "image_class_labels": ["1 1", "2 1", "3 2", "4 2"],
        "train_test_split": ["1 0", "2 1", "3 1", "4 0"],
        "bounding_boxes": ["1 2.0 1.0 4.0 3.0", "2 0.0 0.0 1.0 1.0", "3 0 0 12 8", "4 -3.0 2.6 100.0 2.0"],
    }
    for name, lines in tables.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def segmentations(cub, write_mask):
    """Grey levels count the annotators who marked a pixel: four of five in one part, two of five in another."""
    grey = np.zeros((8, 12), dtype=np.uint8)
    grey[2:5, 3:9], grey[6] = 204, 102
    for path in (cub / "CUB_200_2011" / "images").rglob("*.jpg"):
        write_mask(cub / "segmentations" / path.parent.name / f"{path.stem}.png", grey)
    return cub / "segmentations"


def test_cub_boxes_become_regions(cub):
    for path in (cub, cub / "CUB_200_2011"):
        dataset = data.open_regions(path)
        assert (dataset.name, dataset.split) == ("cub", "test")
        assert dataset.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
        assert dataset.keys == ("001.Black_footed_Albatross/A_0001.jpg", "002.Laysan_Albatross/L_0002.jpg")
        assert dataset.labels.tolist() == [0, 1]
        expected = np.zeros((8, 12), dtype=bool)
        expected[1:4, 2:6] = True
        assert np.array_equal(dataset.mask(0), expected)
        assert dataset.mask(1)[3:5].all() and dataset.mask(1).sum() == 24
    train = data.open_regions(cub, split="train")
    assert train.split == "train" and train.labels.tolist() == [0, 1] and train.mask(1).all()


def test_cub_segmentations_become_regions(cub, segmentations):
    dataset, boxes = data.open_regions(cub), data.open_regions(cub, region="box")
    expected = np.zeros((8, 12), dtype=bool)
    expected[2:5, 3:9] = True
    assert np.array_equal(dataset.mask(0), expected) and boxes.mask(0).sum() == 12
    assert dataset.fingerprint() != boxes.fingerprint()
    Image.fromarray(np.full((8, 12, 4), 255, dtype=np.uint8)).save(segmentations / f"{dataset.keys[0][:-4]}.png")
    assert dataset.mask(0).all()  # some published files have more than one channel


def test_missing_cub_files_are_named(cub, segmentations, refused):
    inner = cub / "CUB_200_2011"
    (segmentations / "001.Black_footed_Albatross" / "A_0001.png").unlink()
    assert "1 of the 2 segmentations" in refused(cub)
    assert len(data.open_regions(cub, split="train")) == 2
    (inner / "images" / "002.Laysan_Albatross" / "L_0002.jpg").unlink()
    assert "1 of the 2 images" in refused(cub, region="box")
    (inner / "classes.txt").unlink()
    assert "classes.txt' cannot be read" in refused(cub)
    (inner / "image_class_labels.txt").unlink()
    assert "no image_class_labels.txt" in refused(f"cub:{cub}")


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("images", "1\n", "has the line '1'"),
        ("images", "1 ../../x.jpg\n", "within the folder of images"),
        ("images", "", "has no lines"),
        ("classes", "1 a\n", "image 4 has the class '2'"),
        ("image_class_labels", "1 1\n", "image 4 has the class None"),
        ("train_test_split", "1 1\n2 1\n3 1\n4 1\n", "no images for split 'test'"),
        ("bounding_boxes", "1 2 3 4 5\n", "'' for image 4"),
        ("bounding_boxes", "1 2 3 4 x\n4 1 1 1 1\n", "'2 3 4 x' for image 1"),
        ("bounding_boxes", "1 2 3 4 inf\n4 1 1 1 1\n", "'2 3 4 inf' for image 1"),
        ("bounding_boxes", "1 2 3 -4 5\n4 1 1 1 1\n", "'2 3 -4 5' for image 1"),
        ("bounding_boxes", "1 2 3\n", "has the line '1 2 3'"),
    ],
)
def test_malformed_cub_files_are_named(cub, refused, file, text, expected):
    (cub / "CUB_200_2011" / f"{file}.txt").write_text(text)
    message = refused(cub)
    assert expected in message


def test_binary_cub_files_are_named(cub, refused):
    (cub / "CUB_200_2011" / "images.txt").write_bytes(b"\xff\xfe\x00\x01")
    assert "not text in UTF-8" in refused(cub)


def test_invalid_cub_regions_and_splits_are_named(cub, refused):
    assert "no segmentations/" in refused(cub, region="segmentation")
    assert "unknown region of data set 'cub' 'boxes' (did you mean 'box'?)" in refused(cub, region="boxes")
    assert "unknown split 'val'" in refused(cub, split="val")


# Pets


@pytest.fixture
def pets(tmp_path, write_image, write_mask):
    trimap = np.full((8, 12), 2, dtype=np.uint8)
    trimap[1:6, 1:8] = 3
    trimap[2:5, 2:7] = 1
    for i, name in enumerate(["Abyssinian_1", "great_pyrenees_7", "Abyssinian_2", "beagle_3"]):
        write_image(tmp_path / "images" / f"{name}.jpg", seed=i)
        write_mask(tmp_path / "annotations" / "trimaps" / f"{name}.png", trimap)
    (tmp_path / "annotations" / "test.txt").write_text("Abyssinian_1 1 1 1\ngreat_pyrenees_7 16 2 4\n")
    (tmp_path / "annotations" / "trainval.txt").write_text(
        "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_2 1 1 1\nbeagle_3 5 2 1\n"
    )
    return tmp_path


def test_pets_trimaps_and_splits(pets):
    dataset = data.open_regions(pets)
    assert (dataset.name, dataset.split) == ("pets", "test")
    assert dataset.classes == ("Abyssinian", "beagle", "great_pyrenees")
    assert dataset.keys == ("Abyssinian_1.jpg", "great_pyrenees_7.jpg") and dataset.labels.tolist() == [0, 2]
    assert dataset.mask(0)[1:6, 1:8].all() and dataset.mask(0).sum() == 35
    without_boundary = data.open_regions(pets, boundary="outside")
    assert without_boundary.mask(0)[2:5, 2:7].all() and without_boundary.mask(0).sum() == 15
    assert without_boundary.fingerprint() != dataset.fingerprint()
    for split in ("train", "trainval"):
        train = data.open_regions(pets, split=split)
        assert train.split == "train" and train.labels.tolist() == [0, 1] and train.classes == dataset.classes


def test_missing_or_malformed_pets_files_are_named(pets, refused):
    (pets / "annotations" / "trimaps" / "great_pyrenees_7.png").unlink()
    assert "1 of the 2 trimaps" in refused(pets) and "great_pyrenees_7.png" in refused(pets)
    (pets / "images" / "Abyssinian_1.jpg").unlink()
    assert "1 of the 2 images that test.txt names" in refused(pets)
    for line, expected in (
        ("Abyssinian_1", "has the line 'Abyssinian_1'"),
        ("Abyssinian_1 one 1 1", "expected one such as"),
        ("Abyssinian 1 1 1", "expected one such as"),
        ("Birman_1 1 1 1", "expected one such as"),
    ):
        (pets / "annotations" / "test.txt").write_text(line + "\n")
        assert expected in refused(pets)
    (pets / "annotations" / "test.txt").unlink()
    assert data.open_regions(pets).split == "train"
    (pets / "annotations" / "trainval.txt").unlink()
    assert "neither test.txt nor trainval.txt" in refused(pets)


def test_trimaps_of_wrong_values_or_sizes_are_unreadable(pets, write_mask):
    write_mask(pets / "annotations" / "trimaps" / "Abyssinian_1.png", np.full((8, 12), 4, dtype=np.uint8))
    with pytest.raises(data.Unreadable, match=r"Abyssinian_1.png' has the number 4"):
        data.open_regions(pets).mask(0)
    write_mask(pets / "annotations" / "trimaps" / "Abyssinian_1.png", np.full((9, 12), 1, dtype=np.uint8))
    with pytest.raises(data.Unreadable, match="is for 12 x 9"):
        data.open_regions(pets).mask(0)


# VOC


@pytest.fixture
def voc(tmp_path, write_image):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    (root / "SegmentationClass").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    numbers = np.zeros((8, 12), dtype=np.uint8)
    numbers[0:3, 0:4] = 15  # a person, 12 pixels
    numbers[4:8, 0:4] = 12  # a dog, 16 pixels
    numbers[:, 6] = 255
    for i, name in enumerate(["2007_000033", "2007_000042", "2007_000061"]):
        write_image(root / "JPEGImages" / f"{name}.jpg", seed=i)
        picture = Image.fromarray(numbers if i != 1 else 0 * numbers).convert("P")
        picture.putpalette([i % 256 for i in range(768)])
        picture.save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_000033\n2007_000042\n")
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_000061\n")
    return root


def test_voc_segmentations_and_splits(voc):
    for path in (voc, voc.parent, voc.parent.parent):
        dataset = data.open_regions(path)
        assert (dataset.name, dataset.split, len(dataset.classes)) == ("voc", "val", 20)
        assert dataset.keys == ("2007_000033.jpg", "2007_000042.jpg")
        assert [dataset.classes[label] if label >= 0 else None for label in dataset.labels] == ["dog", None]
        assert dataset.mask(0).sum() == 12 + 16 + 8 and not dataset.mask(1).any()
    assert data.open_regions(voc, split="train").keys == ("2007_000061.jpg",)


def test_voc_boundary_and_region_options(voc, refused):
    everything = data.open_regions(voc)
    without_borders = data.open_regions(voc, boundary="outside")
    assert without_borders.mask(0).sum() == 28
    dog = data.open_regions(voc, region="label")
    assert dog.mask(0)[4:8, 0:4].all() and dog.mask(0).sum() == 16 and not dog.mask(1).any()
    assert len({everything.fingerprint(), without_borders.fingerprint(), dog.fingerprint()}) == 3
    assert "borders belong to no class" in refused(voc, region="label", boundary="inside")
    assert "unknown boundary of data set 'voc' 'in'" in refused(voc, boundary="in")


def test_missing_or_malformed_voc_files_are_named(voc, refused):
    Image.fromarray(np.full((8, 12), 30, dtype=np.uint8)).save(voc / "SegmentationClass" / "2007_000033.png")
    dataset = data.open_regions(voc)
    assert dataset.labels.tolist() == [-1, -1]
    with pytest.raises(data.Unreadable, match="number 30"):
        dataset.mask(0)
    (voc / "SegmentationClass" / "2007_000033.png").write_text("")
    with pytest.raises(data.Unreadable, match="is empty"):
        data.open_regions(voc).mask(0)
    (voc / "SegmentationClass" / "2007_000042.png").unlink()
    assert "1 of the 2 annotations for val.txt" in refused(voc)
    (voc / "JPEGImages" / "2007_000042.jpg").unlink()
    assert "1 of the 2 images that val.txt names" in refused(voc)
    assert "no split 'test'" in refused(voc, split="test")
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    assert "has no lines" in refused(voc)


@pytest.fixture
def voc_boxes(tmp_path, write_image):
    root = tmp_path / "VOC2007"
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    boxes = {"a b": [("dog", 1, 1, 4, 3), ("person", 7, 2, 6, 5)], "c": [("cat", 3, 3, 5, 4)], "d": []}
    for name, objects in boxes.items():
        write_image(root / "JPEGImages" / f"{name}.jpg")
        text = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            "</bndbox></object>"
            for kind, x1, y1, x2, y2 in objects
        )
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
    (root / "ImageSets" / "Main" / "val.txt").write_bytes("\ufeffa b\r\nd\r\n".encode())
    (root / "ImageSets" / "Main" / "train.txt").write_text("c\n")
    (root / "ImageSets" / "Main" / "cat_val.txt").write_text("a b -1\nd -1\n")
    return root


def test_voc_box_annotations(voc_boxes, refused):
    dataset = data.open_regions(voc_boxes.parent)
    assert (dataset.name, dataset.split, dataset.keys, len(dataset.classes)) == ("voc", "val", ("a b.jpg", "d.jpg"), 20)
    assert [dataset.classes[label] if label >= 0 else None for label in dataset.labels] == ["dog", None]
    expected = np.zeros((8, 12), dtype=bool)
    expected[0:3, 0:4] = True  # pixels are counted from 1
    label_only = data.open_regions(voc_boxes, region="label")
    assert np.array_equal(label_only.mask(0), expected) and not label_only.mask(1).any()
    expected[1:5, 5:7] = True  # its corners are swapped
    assert np.array_equal(dataset.mask(0), expected) and not dataset.mask(1).any()
    assert "no borders" in refused(voc_boxes, boundary="inside")
    for file in (voc_boxes / "ImageSets" / "Main").iterdir():
        file.unlink()
    assert data.open_regions(voc_boxes).keys == ("a b.jpg", "c.jpg", "d.jpg")
    text = (voc_boxes / "Annotations" / "d.xml").read_text()
    (voc_boxes / "Annotations" / "d.xml").write_text(text.replace("<annotation>", "<annotation><object>"))
    with pytest.raises(data.Unreadable, match="d.xml"):
        data.open_regions(voc_boxes).mask(2)
    (voc_boxes / "Annotations" / "d.xml").unlink()
    (voc_boxes / "ImageSets" / "Main" / "val.txt").write_text("d\n")
    assert "'d.xml'" in refused(voc_boxes)


def test_voc_names_may_contain_spaces(voc):
    for folder in ("JPEGImages", "SegmentationClass"):
        for file in (voc / folder).glob("2007_000033.*"):
            file.rename(file.with_stem("img 1"))
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("img 1\n2007_000042  1\n")
    assert data.open_regions(voc).keys == ("img 1.jpg", "2007_000042.jpg")


# STL10


def cells_of(*corners):
    return [[x, y] for left, top, right, bottom in corners for x in range(left, right) for y in range(top, bottom)]


@pytest.fixture
def marks(tmp_path, write_json):
    """Marks of three test images and a training image."""
    write_json(tmp_path / "stl10_test_airplane.json", {"2": {"airplane_0": cells_of((0, 5, 16, 7))}})
    write_json(
        tmp_path / "stl10_test_ship.json",
        {"0": {"ship_0": cells_of((3, 1, 5, 9)), "ship_1": [[15, 15], [16, 3]]}, "1": {"ship_0": []}},
    )
    write_json(tmp_path / "stl10_train_cat.json", {"0": {"cat_0": [[0, 0]]}})
    return tmp_path


@pytest.fixture
def binary(marks):
    """Test images, (96, 96, 3), in the two binary files: ship, ship, airplane, and one without marks."""
    images = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    (marks / "stl10_binary").mkdir()
    (marks / "stl10_binary" / "test_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
    (marks / "stl10_binary" / "test_y.bin").write_bytes(bytes([9, 9, 1, 4]))
    return images


def test_stl10_is_read_from_its_binary_files(marks, binary):
    dataset = data.open_regions(marks)
    assert (dataset.name, dataset.split, len(dataset.classes)) == ("stl10", "test", 10)
    assert dataset.keys == ("ship_0.png", "ship_1.png", "airplane_2.png") and dataset.labels.tolist() == [8, 8, 0]
    for i in range(3):
        assert np.array_equal(np.asarray(dataset.image(i)), binary[i])
    expected = np.zeros((96, 96), dtype=bool)
    expected[6:54, 18:30] = expected[90:, 90:] = True
    assert np.array_equal(dataset.mask(0), expected)
    assert not dataset.mask(1).any() and dataset.mask(2)[30:42].all() and dataset.mask(2).sum() == 12 * 96
    before, elsewhere = dataset.fingerprint(), marks.parent / "elsewhere"
    (marks / "stl10_binary").rename(elsewhere)
    assert data.open_regions(marks, images=elsewhere).fingerprint() == before


def test_stl10_images_match_torchvision(marks, binary):
    from torchvision.datasets import STL10

    expected, _ = STL10._STL10__loadfile(
        type("", (), {"root": str(marks), "base_folder": "stl10_binary"})(), "test_X.bin"
    )
    dataset = data.open_regions(marks)
    for i in range(3):
        assert np.array_equal(np.asarray(dataset.image(i)), expected[i].transpose(1, 2, 0))


def test_stl10_is_read_from_image_files(marks, write_image, refused):
    pixels = write_image(marks / "airplane_2.png", (96, 96))
    dataset = data.open_regions(marks)
    assert dataset.keys == ("airplane_2.png",) and np.array_equal(np.asarray(dataset.image(0)), pixels)
    assert dataset.mask(0).sum() == 12 * 96
    write_image(marks / "airplane_3.png", (96, 96))
    assert "1 of the 2 images" in refused(marks) and "airplane_3.png" in refused(marks)
    assert "2 of the 2 images" in refused(marks, split="train")


def test_stl10_files_that_do_not_match_the_marks_are_refused(marks, binary, refused):
    (marks / "stl10_binary" / "test_y.bin").write_bytes(bytes([1, 2, 3, 4]))
    assert "only 0 of the 3 marked images" in refused(marks)
    (marks / "stl10_binary" / "test_y.bin").write_bytes(bytes([9, 9, 1]))
    assert "has 110592 bytes; expected 27648 for each of 3 images" in refused(marks)
    (marks / "stl10_binary" / "test_y.bin").unlink()
    assert "test_y.bin' cannot be read" in refused(marks)


def test_missing_stl10_images_are_named(marks, refused):
    assert "neither test_X.bin nor images such as" in refused(marks)
    assert "neither train_X.bin" in refused(marks, split="train")
    assert "no split 'val'" in refused(marks, split="val")


def test_stl10_files_truncated_after_opening_are_unreadable(marks, binary):
    dataset = data.open_regions(marks)
    (marks / "stl10_binary" / "test_X.bin").write_bytes(b"\0" * 30_000)
    with pytest.raises(data.Unreadable, match="cut short"):
        dataset.image(2)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is not JSON"),
        ([], "not a table of images"),
        ({"one": {}}, "image 'one' in"),
        ({"0": []}, "image '0' in"),
        ({"0": {"ship_0": 3}}, "image '0' in"),
        ({"0": {"ship_0": [[1]]}}, "image '0' in"),
        ({"0": {"ship_0": [[1.5, 2]]}}, "image '0' in"),
    ],
)
def test_malformed_stl10_marks_are_named(marks, binary, write_json, refused, content, expected):
    write_json(marks / "stl10_test_ship.json", content)
    assert expected in refused(marks)


def test_stl10_marks_of_an_unknown_class_are_refused(marks, binary, write_json, refused):
    write_json(marks / "stl10_test_boat.json", {})
    assert "of no class of STL10" in refused(marks)
