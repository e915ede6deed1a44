import numpy as np
import pytest

from regard import data
from regard.data.regions.boxes import read_boxes

TENCH, SHARK = "n01440764", "n01484850"


def xml(*objects, size=(12, 8), extra=""):
    """An annotation file of ILSVRC with boxes (name, xmin, ymin, xmax, ymax)."""
    parts = [
        f"<object><name>{name}</name><pose>x</pose><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    ]
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"{extra}<annotation><folder>val</folder>{shape}<segmented>0</segmented>{''.join(parts)}</annotation>"


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


BOXES = {
    "ILSVRC2012_val_00000001": (TENCH, xml((TENCH, 2, 1, 6, 4), (SHARK, 0, 0, 12, 8), (TENCH, 8, 2, 10, 8))),
    "ILSVRC2012_val_00000002": (SHARK, xml((SHARK, 0, 0, 50, 3))),
    "ILSVRC2012_val_00000003": (TENCH, xml((TENCH, 5, 5, 6, 6))),
}


@pytest.fixture(params=["by class", "flat", "kaggle by class"])
def imagenet(request, tmp_path, write_image):
    for i, (name, (synset, text)) in enumerate(BOXES.items()):
        if request.param == "by class":
            write_image(tmp_path / "val" / synset / f"{name}.JPEG", seed=i)
            write_text(tmp_path / "bbox" / "val" / f"{name}.xml", text)
        else:
            inner = synset if "class" in request.param else "."
            write_image(tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val" / inner / f"{name}.JPEG", seed=i)
            write_text(tmp_path / "ILSVRC" / "Annotations" / "CLS-LOC" / "val" / f"{name}.xml", text)
    return tmp_path


def images_of(root):
    return sorted(root.rglob("*.JPEG"))


def test_open_regions_reads_labels_and_boxes_of_the_class(imagenet):
    dataset = data.open_regions(imagenet)
    assert (dataset.name, dataset.split, dataset.classes, len(dataset)) == ("imagenet", "val", (TENCH, SHARK), 3)
    position = {key.rpartition("/")[2]: i for i, key in enumerate(dataset.keys)}
    first, second = position["ILSVRC2012_val_00000001.JPEG"], position["ILSVRC2012_val_00000002.JPEG"]
    assert dataset.labels[first] == 0 and dataset.labels[second] == 1
    expected = np.zeros((8, 12), dtype=bool)
    expected[1:4, 2:6] = expected[2:8, 8:10] = True
    assert np.array_equal(dataset.mask(first), expected)
    assert dataset.mask(second)[:3].all() and not dataset.mask(second)[3:].any()
    assert dataset.image(first).size == (12, 8)


def test_the_fingerprint_covers_the_boxes(imagenet):
    before = data.open_regions(imagenet).fingerprint()
    path = next(iter(imagenet.rglob("*00001.xml")))
    path.write_text(path.read_text().replace("<pose>x</pose>", ""))
    assert data.open_regions(imagenet).fingerprint() != before


def test_missing_boxes_of_validation_images_are_named(imagenet, refused):
    next(iter(imagenet.rglob("*00002.xml"))).unlink()
    message = refused(imagenet)
    assert "1 of the 3 images" in message and "ILSVRC2012_val_00000002.JPEG" in message


def test_boxes_without_an_image_are_ignored(imagenet):
    next(iter(imagenet.rglob("*00002.JPEG"))).unlink()
    assert len(data.open_regions(imagenet)) == 2


def test_training_images_without_boxes_are_left_out(tmp_path, write_image, refused):
    for i in range(3):
        write_image(tmp_path / "train" / TENCH / f"{TENCH}_{i}.JPEG", seed=i)
    write_text(tmp_path / "Annotations" / "train" / TENCH / f"{TENCH}_1.xml", xml((TENCH, 1, 1, 3, 3)))
    dataset = data.open_regions(tmp_path)
    assert dataset.split == "train" and dataset.keys == (f"{TENCH}/{TENCH}_1.JPEG",) and dataset.mask(0).sum() == 4
    (tmp_path / "Annotations" / "train" / TENCH / f"{TENCH}_1.xml").unlink()
    assert "3 of the 3 images" in refused(tmp_path)
    assert "no split 'val'" in refused(f"imagenet:{tmp_path}", split="val")


def test_images_may_be_in_another_folder(imagenet, tmp_path):
    before = data.open_regions(imagenet).fingerprint()
    folder = images_of(imagenet)[0]
    while folder.name != "val":
        folder = folder.parent
    (tmp_path / "more").mkdir()
    moved = folder.rename(tmp_path / "more" / "val")
    for images in (moved, moved.parent):
        assert data.open_regions(f"imagenet:{imagenet}", images=images).fingerprint() == before


def test_missing_boxes_or_images_are_named(tmp_path, write_image, refused):
    assert "no folder of boxes" in refused(f"imagenet:{tmp_path}")
    write_text(tmp_path / "bbox" / "val" / "x.xml", xml())
    assert "no images" in refused(f"imagenet:{tmp_path}")
    (tmp_path / "val").mkdir()
    assert "no images in" in refused(f"imagenet:{tmp_path}")


def test_flat_images_need_a_class_in_their_boxes(tmp_path, write_image, refused):
    write_image(tmp_path / "val" / "a.JPEG")
    write_text(tmp_path / "bbox" / "val" / "a.xml", xml(("fish", 1, 1, 2, 2)))
    assert "a.xml' names no class" in refused(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_follow_the_exif_orientation(tmp_path, write_image, orientation):
    pixels = np.zeros((8, 12, 3), dtype=np.uint8)
    pixels[1:4, 2:6] = 255
    write_image(tmp_path / "val" / TENCH / "a.png", pixels=pixels, orientation=orientation)
    for size in ((12, 8), (0, 0), None):
        write_text(tmp_path / "bbox" / "val" / "a.xml", xml((TENCH, 2, 1, 6, 4), size=size))
        dataset = data.open_regions(tmp_path)
        assert np.array_equal(dataset.mask(0), np.asarray(dataset.image(0))[:, :, 0] == 255)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no xml", "is not an XML file of boxes"),
        ("", "is not an XML file of boxes"),
        (xml((TENCH, 1, 1, 2, 2))[:-9], "is not an XML file of boxes"),
        (xml((TENCH, 1, 1, 2, "two")), "ymax is 'two'"),
        (xml((TENCH, 1, 1, 2, "nan")), "ymax is 'nan'"),
        (xml((TENCH, 1, 1, 2, "")), "bndbox has no ymax"),
        (xml(("", 1, 1, 2, 3)), "object has no name"),
        ("<annotation><object><name>x</name></object></annotation>", "no bndbox"),
        (xml((TENCH, 1, 1, 2, 2), size=(13, 8)), "is for 13 x 8"),
        (xml((TENCH, 1, 1, 2, 2), size=(10**8, 10**8)), "is for 100000000 x 100000000"),
        ('<?xml version="1.0" encoding="nonsense"?>' + xml(), "is not an XML file of boxes"),
        (xml() + " " * 2**20, "larger than"),
        ("<a>" * 10_000 + "</a>" * 10_000, None),
    ],
)
def test_malformed_boxes_are_named(tmp_path, write_image, text, expected):
    write_image(tmp_path / "val" / TENCH / "a.JPEG")
    write_text(tmp_path / "bbox" / "val" / "a.xml", text)
    dataset = data.open_regions(tmp_path)
    if expected is None:
        assert not dataset.mask(0).any()
        return
    with pytest.raises(data.Unreadable) as caught:
        dataset.mask(0)
    assert expected in str(caught.value) and "a.xml" in str(caught.value) and "\n" not in str(caught.value)


BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + i)} "{("&" + chr(97 + i) + ";") * 10}">' for i in range(9)
)


@pytest.mark.parametrize(
    "head",
    [
        BOMB + "]>",
        '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_type_declarations_are_refused(tmp_path, head, encoding):
    path = tmp_path / "a.xml"
    text = head + xml((TENCH, 1, 1, 2, 2)).replace(
        "<folder>val", "<folder>&j;" if head.startswith(BOMB) else "<folder>"
    )
    path.write_bytes(text.encode(encoding))
    with pytest.raises(data.Unreadable, match="declares a document type"):
        read_boxes(path)
