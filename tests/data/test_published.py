"""CUB, Oxford-IIIT Pets, VOC and STL10, on a few small files in their layouts."""

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
    """Grey says how many annotators marked a pixel: four of five here, two of five there."""
    grey = np.zeros((8, 12), dtype=np.uint8)
    grey[2:5, 3:9], grey[6] = 204, 102
    for path in (cub / "CUB_200_2011" / "images").rglob("*.jpg"):
        write_mask(cub / "segmentations" / path.parent.name / f"{path.stem}.png", grey)
    return cub / "segmentations"


def test_cub_boxes(cub):
    for where in (cub, cub / "CUB_200_2011"):
        found = data.open_regions(where)
        assert (found.name, found.split) == ("cub", "test")
        assert found.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
        assert found.keys == ("001.Black_footed_Albatross/A_0001.jpg", "002.Laysan_Albatross/L_0002.jpg")
        assert found.labels.tolist() == [0, 1]
        expected = np.zeros((8, 12), dtype=bool)
        expected[1:4, 2:6] = True
        assert np.array_equal(found.mask(0), expected)
        assert found.mask(1)[3:5].all() and found.mask(1).sum() == 24
    train = data.open_regions(cub, split="train")
    assert train.split == "train" and train.labels.tolist() == [0, 1] and train.mask(1).all()


def test_cub_segmentations(cub, segmentations):
    found, boxes = data.open_regions(cub), data.open_regions(cub, region="box")
    expected = np.zeros((8, 12), dtype=bool)
    expected[2:5, 3:9] = True
    assert np.array_equal(found.mask(0), expected) and boxes.mask(0).sum() == 12
    assert found.fingerprint() != boxes.fingerprint()
    Image.fromarray(np.full((8, 12, 4), 255, dtype=np.uint8)).save(segmentations / f"{found.keys[0][:-4]}.png")
    assert found.mask(0).all()  # some of them have more than one channel


def test_cub_files_that_are_missing(cub, segmentations, refused):
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
    ("file", "text", "said"),
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
def test_cub_files_that_are_malformed(cub, refused, file, text, said):
    (cub / "CUB_200_2011" / f"{file}.txt").write_text(text)
    message = refused(cub)
    assert said in message


def test_cub_files_that_are_no_text(cub, refused):
    (cub / "CUB_200_2011" / "images.txt").write_bytes(b"\xff\xfe\x00\x01")
    assert "not text in UTF-8" in refused(cub)


def test_cub_without_segmentations(cub, refused):
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


def test_pets(pets):
    found = data.open_regions(pets)
    assert (found.name, found.split, found.classes) == ("pets", "test", ("Abyssinian", "beagle", "great_pyrenees"))
    assert found.keys == ("Abyssinian_1.jpg", "great_pyrenees_7.jpg") and found.labels.tolist() == [0, 2]
    assert found.mask(0)[1:6, 1:8].all() and found.mask(0).sum() == 35
    inner = data.open_regions(pets, boundary="outside")
    assert inner.mask(0)[2:5, 2:7].all() and inner.mask(0).sum() == 15
    assert inner.fingerprint() != found.fingerprint()
    for split in ("train", "trainval"):
        train = data.open_regions(pets, split=split)
        assert train.split == "train" and train.labels.tolist() == [0, 1] and train.classes == found.classes


def test_pets_files_that_are_missing_or_malformed(pets, refused):
    (pets / "annotations" / "trimaps" / "great_pyrenees_7.png").unlink()
    assert "1 of the 2 trimaps" in refused(pets) and "great_pyrenees_7.png" in refused(pets)
    (pets / "images" / "Abyssinian_1.jpg").unlink()
    assert "1 of the 2 images that test.txt names" in refused(pets)
    for line, said in (
        ("Abyssinian_1", "has the line 'Abyssinian_1'"),
        ("Abyssinian_1 one 1 1", "expected one such as"),
        ("Abyssinian 1 1 1", "expected one such as"),
        ("Birman_1 1 1 1", "expected one such as"),
    ):
        (pets / "annotations" / "test.txt").write_text(line + "\n")
        assert said in refused(pets)
    (pets / "annotations" / "test.txt").unlink()
    assert data.open_regions(pets).split == "train"
    (pets / "annotations" / "trainval.txt").unlink()
    assert "neither test.txt nor trainval.txt" in refused(pets)


def test_trimaps_of_other_numbers_and_sizes(pets, write_mask):
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


def test_voc(voc):
    for where in (voc, voc.parent, voc.parent.parent):
        found = data.open_regions(where)
        assert (found.name, found.split, len(found.classes)) == ("voc", "val", 20)
        assert found.keys == ("2007_000033.jpg", "2007_000042.jpg")
        assert [found.classes[label] if label >= 0 else None for label in found.labels] == ["dog", None]
        assert found.mask(0).sum() == 12 + 16 + 8 and not found.mask(1).any()
    assert data.open_regions(voc, split="train").keys == ("2007_000061.jpg",)


def test_voc_borders_and_the_label_alone(voc, refused):
    everything = data.open_regions(voc)
    bare = data.open_regions(voc, boundary="outside")
    assert bare.mask(0).sum() == 28
    dog = data.open_regions(voc, region="label")
    assert dog.mask(0)[4:8, 0:4].all() and dog.mask(0).sum() == 16 and not dog.mask(1).any()
    assert len({everything.fingerprint(), bare.fingerprint(), dog.fingerprint()}) == 3
    assert "borders belong to no class" in refused(voc, region="label", boundary="inside")
    assert "unknown boundary of data set 'voc' 'in'" in refused(voc, boundary="in")


def test_voc_files_that_are_missing_or_malformed(voc, refused):
    Image.fromarray(np.full((8, 12), 30, dtype=np.uint8)).save(voc / "SegmentationClass" / "2007_000033.png")
    found = data.open_regions(voc)
    assert found.labels.tolist() == [-1, -1]
    with pytest.raises(data.Unreadable, match="number 30"):
        found.mask(0)
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


def test_voc_of_boxes_alone(voc_boxes, refused):
    found = data.open_regions(voc_boxes.parent)
    assert (found.name, found.split, found.keys, len(found.classes)) == ("voc", "val", ("a b.jpg", "d.jpg"), 20)
    assert [found.classes[label] if label >= 0 else None for label in found.labels] == ["dog", None]
    expected = np.zeros((8, 12), dtype=bool)
    expected[0:3, 0:4] = True  # pixels are counted from 1
    alone = data.open_regions(voc_boxes, region="label")
    assert np.array_equal(alone.mask(0), expected) and not alone.mask(1).any()
    expected[1:5, 5:7] = True  # its corners the other way around
    assert np.array_equal(found.mask(0), expected) and not found.mask(1).any()
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


def test_voc_names_with_a_space(voc):
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
    """Three test images, (96, 96, 3), in the two binary files: ship, ship, airplane, and one that is not marked."""
    images = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    (marks / "stl10_binary").mkdir()
    (marks / "stl10_binary" / "test_X.bin").write_bytes(images.transpose(0, 3, 2, 1).tobytes())
    (marks / "stl10_binary" / "test_y.bin").write_bytes(bytes([9, 9, 1, 4]))
    return images


def test_stl10_from_its_binary_files(marks, binary):
    found = data.open_regions(marks)
    assert (found.name, found.split, len(found.classes)) == ("stl10", "test", 10)
    assert found.keys == ("ship_0.png", "ship_1.png", "airplane_2.png") and found.labels.tolist() == [8, 8, 0]
    for i in range(3):
        assert np.array_equal(np.asarray(found.image(i)), binary[i])
    expected = np.zeros((96, 96), dtype=bool)
    expected[6:54, 18:30] = expected[90:, 90:] = True
    assert np.array_equal(found.mask(0), expected)
    assert not found.mask(1).any() and found.mask(2)[30:42].all() and found.mask(2).sum() == 12 * 96
    before, elsewhere = found.fingerprint(), marks.parent / "elsewhere"
    (marks / "stl10_binary").rename(elsewhere)
    assert data.open_regions(marks, images=elsewhere).fingerprint() == before


def test_stl10_is_read_as_torchvision_reads_it(marks, binary):
    from torchvision.datasets import STL10

    theirs, _ = STL10._STL10__loadfile(
        type("", (), {"root": str(marks), "base_folder": "stl10_binary"})(), "test_X.bin"
    )
    found = data.open_regions(marks)
    for i in range(3):
        assert np.array_equal(np.asarray(found.image(i)), theirs[i].transpose(1, 2, 0))


def test_stl10_from_pictures(marks, write_image, refused):
    pixels = write_image(marks / "airplane_2.png", (96, 96))
    found = data.open_regions(marks)
    assert found.keys == ("airplane_2.png",) and np.array_equal(np.asarray(found.image(0)), pixels)
    assert found.mask(0).sum() == 12 * 96
    write_image(marks / "airplane_3.png", (96, 96))
    assert "1 of the 2 images" in refused(marks) and "airplane_3.png" in refused(marks)
    assert "2 of the 2 images" in refused(marks, split="train")


def test_stl10_of_other_images(marks, binary, refused):
    (marks / "stl10_binary" / "test_y.bin").write_bytes(bytes([1, 2, 3, 4]))
    assert "only 0 of the 3 marked images" in refused(marks)
    (marks / "stl10_binary" / "test_y.bin").write_bytes(bytes([9, 9, 1]))
    assert "has 110592 bytes; expected 27648 for each of 3 images" in refused(marks)
    (marks / "stl10_binary" / "test_y.bin").unlink()
    assert "test_y.bin' cannot be read" in refused(marks)


def test_stl10_without_images(marks, refused):
    assert "neither test_X.bin nor images such as" in refused(marks)
    assert "neither train_X.bin" in refused(marks, split="train")
    assert "no split 'val'" in refused(marks, split="val")


def test_stl10_cut_short_after_it_was_opened(marks, binary):
    found = data.open_regions(marks)
    (marks / "stl10_binary" / "test_X.bin").write_bytes(b"\0" * 30_000)
    with pytest.raises(data.Unreadable, match="cut short"):
        found.image(2)


@pytest.mark.parametrize(
    ("content", "said"),
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
def test_stl10_marks_that_are_malformed(marks, binary, write_json, refused, content, said):
    write_json(marks / "stl10_test_ship.json", content)
    assert said in refused(marks)


def test_stl10_marks_of_an_unknown_class(marks, binary, write_json, refused):
    write_json(marks / "stl10_test_boat.json", {})
    assert "of no class of STL10" in refused(marks)
