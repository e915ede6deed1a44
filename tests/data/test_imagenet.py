import numpy as np
import pytest

from regard import data
from regard.data.regions.boxes import read_boxes

TENCH, SHARK = "n01440764", "n01484850"


def xml(*objects, size=(12, 8), extra=""):
    """Boxes of (name, xmin, ymin, xmax, ymax), as ILSVRC has them."""
    parts = [
        f"<object><name>{name}</name><pose>x</pose><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    ]
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"{extra}<annotation><folder>val</folder>{shape}<segmented>0</segmented>{''.join(parts)}</annotation>"


def place(path, text):
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
            place(tmp_path / "bbox" / "val" / f"{name}.xml", text)
        else:
            inner = synset if "class" in request.param else "."
            write_image(tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val" / inner / f"{name}.JPEG", seed=i)
            place(tmp_path / "ILSVRC" / "Annotations" / "CLS-LOC" / "val" / f"{name}.xml", text)
    return tmp_path


def images_of(root):
    return sorted(root.rglob("*.JPEG"))


def test_images_labels_and_boxes_of_the_class(imagenet):
    found = data.open_regions(imagenet)
    assert (found.name, found.split, found.classes, len(found)) == ("imagenet", "val", (TENCH, SHARK), 3)
    place = {key.rpartition("/")[2]: i for i, key in enumerate(found.keys)}
    first, second = place["ILSVRC2012_val_00000001.JPEG"], place["ILSVRC2012_val_00000002.JPEG"]
    assert found.labels[first] == 0 and found.labels[second] == 1
    expected = np.zeros((8, 12), dtype=bool)
    expected[1:4, 2:6] = expected[2:8, 8:10] = True
    assert np.array_equal(found.mask(first), expected)
    assert found.mask(second)[:3].all() and not found.mask(second)[3:].any()
    assert found.image(first).size == (12, 8)


def test_the_fingerprint_sees_the_boxes(imagenet):
    before = data.open_regions(imagenet).fingerprint()
    path = next(iter(imagenet.rglob("*00001.xml")))
    path.write_text(path.read_text().replace("<pose>x</pose>", ""))
    assert data.open_regions(imagenet).fingerprint() != before


def test_missing_boxes_of_validation_images(imagenet, refused):
    next(iter(imagenet.rglob("*00002.xml"))).unlink()
    message = refused(imagenet)
    assert "1 of the 3 images" in message and "ILSVRC2012_val_00000002.JPEG" in message


def test_boxes_beyond_the_images_do_not_matter(imagenet):
    next(iter(imagenet.rglob("*00002.JPEG"))).unlink()
    assert len(data.open_regions(imagenet)) == 2


def test_training_images_without_boxes_are_left_out(tmp_path, write_image, refused):
    for i in range(3):
        write_image(tmp_path / "train" / TENCH / f"{TENCH}_{i}.JPEG", seed=i)
    place(tmp_path / "Annotations" / "train" / TENCH / f"{TENCH}_1.xml", xml((TENCH, 1, 1, 3, 3)))
    found = data.open_regions(tmp_path)
    assert found.split == "train" and found.keys == (f"{TENCH}/{TENCH}_1.JPEG",) and found.mask(0).sum() == 4
    (tmp_path / "Annotations" / "train" / TENCH / f"{TENCH}_1.xml").unlink()
    assert "3 of the 3 images" in refused(tmp_path)
    assert "no split 'val'" in refused(f"imagenet:{tmp_path}", split="val")


def test_images_elsewhere(imagenet, tmp_path):
    before = data.open_regions(imagenet).fingerprint()
    folder = images_of(imagenet)[0]
    while folder.name != "val":
        folder = folder.parent
    (tmp_path / "more").mkdir()
    moved = folder.rename(tmp_path / "more" / "val")
    for images in (moved, moved.parent):
        assert data.open_regions(f"imagenet:{imagenet}", images=images).fingerprint() == before


def test_no_boxes_or_no_images(tmp_path, write_image, refused):
    assert "no folder of boxes" in refused(f"imagenet:{tmp_path}")
    place(tmp_path / "bbox" / "val" / "x.xml", xml())
    assert "no images" in refused(f"imagenet:{tmp_path}")
    (tmp_path / "val").mkdir()
    assert "no images in" in refused(f"imagenet:{tmp_path}")


def test_flat_images_need_a_class_in_their_boxes(tmp_path, write_image, refused):
    write_image(tmp_path / "val" / "a.JPEG")
    place(tmp_path / "bbox" / "val" / "a.xml", xml(("fish", 1, 1, 2, 2)))
    assert "a.xml' names no class" in refused(tmp_path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_images(tmp_path, write_image, orientation):
    shown = np.zeros((8, 12, 3), dtype=np.uint8)
    shown[1:4, 2:6] = 255
    write_image(tmp_path / "val" / TENCH / "a.png", pixels=shown, orientation=orientation)
    for size in ((12, 8), (0, 0), None):
        place(tmp_path / "bbox" / "val" / "a.xml", xml((TENCH, 2, 1, 6, 4), size=size))
        found = data.open_regions(tmp_path)
        assert np.array_equal(found.mask(0), np.asarray(found.image(0))[:, :, 0] == 255)


@pytest.mark.parametrize(
    ("text", "said"),
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
def test_malformed_boxes(tmp_path, write_image, text, said):
    write_image(tmp_path / "val" / TENCH / "a.JPEG")
    place(tmp_path / "bbox" / "val" / "a.xml", text)
    found = data.open_regions(tmp_path)
    if said is None:
        assert not found.mask(0).any()
        return
    with pytest.raises(data.Unreadable) as caught:
        found.mask(0)
    assert said in str(caught.value) and "a.xml" in str(caught.value) and "\n" not in str(caught.value)


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
def test_document_types_are_refused(tmp_path, head, encoding):
    path = tmp_path / "a.xml"
    text = head + xml((TENCH, 1, 1, 2, 2)).replace(
        "<folder>val", "<folder>&j;" if head.startswith(BOMB) else "<folder>"
    )
    path.write_bytes(text.encode(encoding))
    with pytest.raises(data.Unreadable, match="declares a document type"):
        read_boxes(path)
