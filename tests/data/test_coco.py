import json
import sys

import numpy as np
import pycocotools.mask
import pytest
import torch

from regard import data, models
from regard.cli import main
from regard.data import codes
from regard.errors import InputError

SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]  # 16 pixels
WIDE = [6, 2, 11, 2, 11, 6, 6, 6]  # 20 pixels
CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def annotation(image, category, segmentation, **more):
    return {"id": 1, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


def content(**changed):
    images = [{"id": 10 + i, "file_name": f"{i:012}.jpg", "width": 12, "height": 8} for i in range(4)]
    return {
        "images": images,
        "annotations": [
            annotation(10, 3, [SQUARE]),
            annotation(10, 7, [WIDE, [0, 6, 2, 6, 2, 8, 0, 8]]),
            annotation(11, 7, {"size": [8, 12], "counts": [8, 4, 84]}, iscrowd=1),
            annotation(13, 3, [SQUARE]),
        ],
        "categories": CATEGORIES,
        **changed,
    }


@pytest.fixture
def coco(tmp_path, write_image, write_json):
    """annotations/instances_val2017.json and val2017/ with four images of 12 x 8."""
    for i in range(4):
        write_image(tmp_path / "val2017" / f"{i:012}.jpg", seed=i)
    write_json(tmp_path / "annotations" / "instances_val2017.json", content())
    return tmp_path


@pytest.fixture
def write_coco(tmp_path, write_image, write_json):
    """Writes an annotation file for four images in images/ and returns its path."""
    for i in range(4):
        write_image(tmp_path / "images" / f"{i:012}.jpg", seed=i)

    def write(text=None, **changed):
        return write_json(tmp_path / "own.json", content(**changed) if text is None else text)

    return write


def read_mask(*rings):
    """The mask of some polygons by pycocotools."""
    codes = pycocotools.mask.frPyObjects([list(map(float, ring)) for ring in rings], 8, 12)
    return pycocotools.mask.decode(pycocotools.mask.merge(codes)).astype(bool)


def test_open_regions_reads_images_labels_and_regions(coco):
    dataset = data.open_regions(coco)
    assert (dataset.name, dataset.split, dataset.classes) == ("coco", "val", ("cat", "dog"))
    assert dataset.keys == tuple(f"{i:012}.jpg" for i in range(4))
    # The class with the largest area is the label: dog 20 + 4, cat 16. An image without objects has label -1.
    assert dataset.labels.tolist() == [1, 1, -1, 0] and dataset.labels.dtype == torch.int64
    assert np.array_equal(dataset.mask(0), read_mask(SQUARE, WIDE, [0, 6, 2, 6, 2, 8, 0, 8]))
    assert np.argwhere(dataset.mask(1)).tolist() == [[0, 1], [1, 1], [2, 1], [3, 1]]
    assert dataset.mask(2).shape == (8, 12) and not dataset.mask(2).any()
    assert dataset.image(0).size == (12, 8) and dataset.image(0).mode == "RGB"


def test_region_label_keeps_only_objects_of_the_label(coco):
    dataset = data.open_regions(coco, region="label")
    assert np.array_equal(dataset.mask(0), read_mask(WIDE, [0, 6, 2, 6, 2, 8, 0, 8]))
    assert np.array_equal(dataset.mask(3), read_mask(SQUARE)) and dataset.labels.tolist() == [1, 1, -1, 0]
    assert dataset.fingerprint() != data.open_regions(coco).fingerprint()
    assert data.open_regions(coco, region="all").fingerprint() == data.open_regions(coco).fingerprint()


def test_stated_areas_decide_the_label(write_coco):
    annotations = content()["annotations"]
    annotations[0]["area"] = 25.0
    assert data.open_regions(write_coco(annotations=annotations)).labels[0] == 0
    annotations[0]["area"] = 0  # counts as missing
    assert data.open_regions(write_coco(annotations=annotations)).labels[0] == 1


def test_equal_areas_give_the_first_class(write_coco):
    annotations = [annotation(10, 7, [SQUARE]), annotation(10, 3, [SQUARE])]
    assert data.open_regions(write_coco(annotations=annotations)).labels[0] == 0


def test_objects_without_segmentation_use_their_boxes(write_coco):
    boxes = [
        {"image_id": 10, "category_id": 3, "bbox": [2, 1, 4, 3]},
        {"image_id": 11, "category_id": 3, "bbox": [-5, 2.4, 100, 2], "segmentation": []},
        {"image_id": 12, "category_id": 3, "bbox": [2, 2, 0, 5], "segmentation": []},
    ]
    with pytest.warns(UserWarning, match="1 boxes in .* such as annotation None"):
        dataset = data.open_regions(write_coco(annotations=boxes))
    assert np.array_equal(dataset.mask(0), read_mask([2, 1, 6, 1, 6, 4, 2, 4]))
    assert dataset.mask(1)[2:4].all() and dataset.mask(1).sum() == 24
    assert not dataset.mask(2).any() and dataset.labels.tolist() == [0, 0, 0, -1]


def test_a_single_annotation_file_can_be_opened(write_coco, tmp_path):
    path = write_coco()
    dataset = data.open_regions(path)
    assert (dataset.name, dataset.split, len(dataset)) == ("coco", "", 4)
    assert data.open_regions(f"coco:{path}").fingerprint() == dataset.fingerprint()
    before, elsewhere = dataset.fingerprint(), (tmp_path / "images").rename(tmp_path / "pictures")
    assert data.open_regions(path, images=elsewhere).fingerprint() == before


def test_file_names_may_include_folders_and_sizes_are_optional(write_coco):
    images = [{"id": 10 + i, "file_name": f"images/{i:012}.jpg"} for i in range(4)]
    dataset = data.open_regions(write_coco(images=images))
    assert dataset.keys[0] == "images/000000000000.jpg"
    assert dataset.mask(0).shape == (8, 12) and dataset.mask(1).sum() == 4


def test_a_byte_order_mark_is_accepted(write_coco):
    path = write_coco()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(data.open_regions(path)) == 4


def test_files_without_categories_have_no_labels(write_coco, refused):
    annotations = [{"image_id": 10, "segmentation": [SQUARE]}]
    path = write_coco(annotations=annotations, categories=[])
    dataset = data.open_regions(path)
    assert dataset.classes == () and dataset.labels.tolist() == [-1] * 4 and dataset.mask(0).sum() == 16
    assert "no categories" in refused(path, region="label")


def test_splits_are_chosen_by_name(coco, write_json, write_image, refused):
    write_json(coco / "annotations" / "instances_train2017.json", content())
    assert data.open_regions(coco).split == "val"  # train2017/ need not be there
    assert "4 of the 4 images that instances_train2017.json names" in refused(coco, split="train")
    (coco / "val2017").rename(coco / "train2017")
    for split in ("train", "train2017"):
        assert data.open_regions(coco, split=split).split == "train"
    assert "unknown split" in refused(coco, split="test") and "val2017" in refused(coco, split="test")
    write_json(coco / "annotations" / "instances_val2014.json", content())
    assert "val2014, val2017; name one" in refused(coco)
    (coco / "train2017").rename(coco / "val2014")
    assert data.open_regions(coco, split="val2014").split == "val"


def test_images_may_be_in_a_folder_called_images(coco):
    (coco / "images").mkdir()
    (coco / "val2017").rename(coco / "images" / "val2017")
    assert len(data.open_regions(coco)) == 4


def test_missing_images_are_counted_and_named(coco, refused):
    (coco / "val2017" / "itself").symlink_to("itself")
    for i in (0, 2):
        (coco / "val2017" / f"{i:012}.jpg").unlink()
    message = refused(coco)
    assert "2 of the 4 images that instances_val2017.json names are missing" in message
    assert "('000000000000.jpg', '000000000002.jpg')" in message and "val2017" in message


def test_images_of_another_size_than_annotated_are_unreadable(write_coco):
    images = content()["images"]
    images[0] |= {"width": 13}
    images[1] |= {"width": 24, "height": 16}
    dataset = data.open_regions(write_coco(images=images, annotations=[annotation(10, 3, [SQUARE])]))
    with pytest.raises(data.Unreadable, match=r"000000000000.jpg' has 12 x 8 pixels, but .*own.json' is for 13 x 8"):
        dataset.mask(0)
    with pytest.raises(data.Unreadable, match="24 x 16"):
        dataset.mask(1)
    assert dataset.mask(2).shape == (8, 12)


@pytest.mark.parametrize("side", [2_000_000_000, 10**30])
def test_huge_image_sizes_are_refused(write_coco, side):
    images = content()["images"]
    images[0] |= {"width": side, "height": side}
    with pytest.raises(InputError, match=f"000000000000.jpg.*own.json.*width {side}"):
        data.open_regions(write_coco(images=images, annotations=[annotation(10, 3, [SQUARE])]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_follow_the_exif_orientation(write_coco, tmp_path, write_image, orientation):
    """The annotations refer to the stored pixels, which are white inside the region."""
    mask = read_mask(SQUARE)
    pixels = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8) * 255
    write_image(
        tmp_path / "images" / "000000000003.jpg", pixels=pixels, orientation=orientation, quality=95, subsampling=0
    )
    dataset = data.open_regions(write_coco())
    assert np.array_equal(dataset.mask(3), np.asarray(dataset.image(3))[:, :, 0] > 128)


def test_annotations_may_refer_to_the_upright_image(write_coco, tmp_path, write_image):
    write_image(tmp_path / "images" / "000000000003.jpg", (8, 12), orientation=6)
    assert np.array_equal(data.open_regions(write_coco()).mask(3), read_mask(SQUARE))


def test_files_without_annotations_have_no_regions(write_coco, tmp_path, capsys):
    assert data.open_regions(write_coco()).has_masks
    path = write_coco(annotations=[])
    assert not data.open_regions(path).has_masks
    torch.save(models.create("test_resnet", num_classes=2).state_dict(), tmp_path / "net.pt")
    arguments = [f"test_resnet={tmp_path / 'net.pt'}", f"--data=coco:{path}", f"--out={tmp_path / 'bias'}"]
    assert main(["bias", *arguments]) == 2
    errors = capsys.readouterr().err
    assert "the images of coco have no regions" in errors.splitlines()[-1]
    assert not (tmp_path / "bias").exists()


def test_the_fingerprint_covers_the_annotations(write_coco):
    first = data.open_regions(write_coco()).fingerprint()
    assert data.open_regions(write_coco(info={"year": 1999})).fingerprint() == first
    annotations = content()["annotations"]
    annotations[3]["segmentation"] = [[1, 1, 5, 1, 5, 5, 1, 7]]
    assert data.open_regions(write_coco(annotations=annotations)).fingerprint() != first
    assert data.open_regions(write_coco(categories=[*CATEGORIES, {"id": 9, "name": "cow"}])).fingerprint() != first


def run_lengths(mask):
    pixels = mask.T.ravel()
    ends = [*(np.flatnonzero(np.diff(pixels)) + 1), len(pixels)]
    return [0] * int(pixels[0]) + np.diff([0, *ends]).tolist()


@pytest.mark.parametrize(
    "shape",
    [
        [[]],
        [[], []],
        [[1, 1, 5, 5]],
        [[3, 3] * 5],
        [[1.1, 1.1, 4.7, 4.7, 3.3, 3.3]],
        [[1, 1, 5, 1, 5, 4, 5, 1]],
        {"size": [8, 12], "counts": [96]},
        {"size": [8, 12], "counts": [0, 0, 96]},
        {"size": [8, 12], "counts": "P3"},
        {"size": [8, 12], "counts": ""},
        {},
        "",
    ],
)
def test_shapes_without_area_use_the_box(write_coco, shape):
    annotations = [annotation(10, 3, shape, bbox=[2, 1, 4, 3]), annotation(10, 7, [[7, 4, 9, 4, 9, 6, 7, 6]])]
    dataset = data.open_regions(write_coco(annotations=annotations))
    box, square = [2, 1, 6, 1, 6, 4, 2, 4], [7, 4, 9, 4, 9, 6, 7, 6]
    assert np.array_equal(dataset.mask(0), read_mask(box, square)) and dataset.classes[dataset.labels[0]] == "cat"


def test_integers_may_be_written_as_floats(write_coco):
    """Tables with gaps are exported this way."""
    images = [{"id": 10.0, "file_name": "000000000000.jpg", "width": 12.0, "height": 8.0}]
    categories = [{"id": 7.0, "name": "dog"}, {"id": 3.0, "name": "cat"}]
    dataset = data.open_regions(
        write_coco(images=images, annotations=[annotation(10, 3.0, [SQUARE])], categories=categories)
    )
    assert np.array_equal(dataset.mask(0), read_mask(SQUARE)) and dataset.classes[dataset.labels[0]] == "cat"


def test_self_intersecting_polygons_are_shapes(write_coco):
    bow_tie = [1, 1, 9, 7, 9, 1, 1, 7]
    dataset = data.open_regions(write_coco(annotations=[annotation(10, 3, [bow_tie], bbox=[1, 1, 8, 6])]))
    assert np.array_equal(dataset.mask(0), read_mask(bow_tie)) and 0 < dataset.mask(0).sum() < 48


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("form", ["list", "string"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_run_length_codes_have_the_size_they_state(write_coco, tmp_path, write_image, orientation, form, sized):
    """Codes refer to the upright image if it is rotated by 90 degrees, otherwise to the stored pixels."""
    write_image(tmp_path / "images" / "000000000000.jpg", (12, 8), orientation=orientation)
    image = {"id": 10, "file_name": "000000000000.jpg"}
    image |= {"width": 12, "height": 8} if sized else {}
    upright = np.zeros((12, 8) if orientation > 4 else (8, 12), dtype=bool)
    upright[1:6, 2:4] = True
    stored = upright[::-1, ::-1] if orientation == 3 else upright
    packed = pycocotools.mask.encode(np.asfortranarray(stored.astype(np.uint8)))["counts"].decode()
    code = {"size": list(stored.shape), "counts": run_lengths(stored) if form == "list" else packed}
    dataset = data.open_regions(write_coco(images=[image], annotations=[annotation(10, 3, code)]))
    assert np.array_equal(dataset.mask(0), upright)


# Errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"images": [', "is not JSON"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "no images"),
        ('{"images": {"a": 1}}', "images in"),
        ('{"images": []}', "no images"),
    ],
)
def test_malformed_files_are_refused(write_coco, refused, text, expected):
    assert expected in refused(write_coco(text))


def test_unused_categories_with_a_duplicate_name_are_ignored(write_coco):
    images = data.open_regions(write_coco(categories=[{"id": 0, "name": "cat"}, *CATEGORIES]))
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == data.open_regions(write_coco()).labels.tolist()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"annotations": 3}, "annotations in"),
        ({"images": [3]}, "images in"),
        ({"images": [{"file_name": "a.jpg"}]}, "image 0 in"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]}, "image 1 in"),
        ({"images": [{"id": i, "file_name": "000000000000.jpg"} for i in (1, 2)]}, "twice"),
        ({"images": [{"id": 1}]}, "names an image None"),
        ({"images": [{"id": 1, "file_name": "../a.jpg"}]}, "within the folder of images"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd"}]}, "within the folder of images"),
        ({"images": [{"id": 1, "file_name": "000000000000.jpg", "width": 0, "height": 3}]}, "width 0 and height 3"),
        ({"images": [{"id": 1, "file_name": "000000000000.jpg", "width": 5}]}, "width 5 and height None"),
        ({"categories": [{"id": 3}]}, "category 3 in"),
        ({"images": [{"id": 1.5, "file_name": "a.jpg"}]}, "image 0 in"),
        ({"images": [{"id": float("inf"), "file_name": "a.jpg"}]}, "image 0 in"),
        ({"images": [{"id": 1, "file_name": "000000000000.jpg", "width": 12.5, "height": 8}]}, "width 12.5"),
        ({"categories": [*CATEGORIES, {"id": 3, "name": "cow"}]}, "category 2 in"),
        ({"categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "cat"}]}, "'cat' named twice"),
        ({"annotations": [5]}, "annotations in"),
        ({"annotations": [{"id": 1}]}, "annotation 1 in"),
        ({"annotations": [annotation(99, 3, [SQUARE])] * 5}, "image_id 99"),
        ({"annotations": [annotation(10, 4, [SQUARE])]}, "category_id 4"),
        ({"annotations": [annotation(10, None, [SQUARE])]}, "category_id None"),
        ({"annotations": [annotation(10, 3, [SQUARE], iscrowd="0")]}, "iscrowd '0'"),
        ({"annotations": [annotation(10, 3, [SQUARE], iscrowd=float("nan"))]}, "iscrowd nan"),
        ({"annotations": [annotation(10, 3, None)]}, "neither a segmentation nor a bbox"),
        ({"annotations": [annotation(10, 3, "xyz")]}, "neither a segmentation nor a bbox"),
        ({"annotations": [annotation(10, 3, [SQUARE[:-1]])]}, "7 numbers"),
        ({"annotations": [annotation(10, 3, SQUARE)]}, "its polygon is 1, not a list"),
        ({"annotations": [annotation(10, 3, [[1, 2, 3, 4, 5, "6"]])]}, "not a number"),
        ({"annotations": [annotation(10, 3, [[1, 2, 3, 4, 5, float("nan")]])]}, "not a number"),
        ({"annotations": [annotation(10, 3, [[1, 2, 3, 4, 5, float("inf")]])]}, "not a number"),
        ({"annotations": [annotation(10, 3, None, bbox=[1, 2, 3])]}, "bbox"),
        ({"annotations": [annotation(10, 3, {"size": [8, 12], "counts": [1, 2]})]}, "does not add up to 12 x 8"),
        ({"annotations": [annotation(10, 3, {"size": [6, 16], "counts": [96]})]}, "size [6, 16]"),
        ({"annotations": [annotation(10, 3, {"size": [2**31, 12], "counts": [96]})]}, "size [2147483648, 12]"),
        ({"annotations": [annotation(10, 3, {"size": [8, 12], "counts": [96, 10**30, -(10**30)]})]}, "malformed"),
        ({"annotations": [annotation(10, 3, [[1.5, 2, 3, 4, 5, 10**400]])]}, "not a number"),
        ({"annotations": [annotation(10, 3, [[1, 2, 3, 4, 5, -(2**63)]])]}, "not a number below 1,048,576"),
        ({"annotations": [annotation(10, 3, [], bbox=[5, 5, -3, 2])]}, "-3 wide and 2 high"),
        ({"annotations": [annotation(10, 3, {"counts": [96]})]}, "size None"),
        ({"annotations": [annotation(10, 3, {"size": [8, 12], "counts": "~~~~"})]}, "run-length code"),
    ],
)
def test_malformed_content_is_named(write_coco, refused, changed, expected):
    message = refused(write_coco(**changed))
    assert expected in message and "own.json" in message


def test_degenerate_polygons_give_empty_masks(write_coco):
    dataset = data.open_regions(write_coco(annotations=[annotation(10, 3, [[], [1, 2], [1, 2, 5, 6], [3, 3] * 4])]))
    assert not dataset.mask(0).any() and dataset.labels[0] == 0


def test_run_length_codes_must_match_images_of_unknown_size(write_coco):
    images = [{"id": 10 + i, "file_name": f"{i:012}.jpg"} for i in range(4)]
    with pytest.raises(InputError, match=r"annotation 1 of image 10 in .*own.json'.* size \[5, 5\], its image 12 x 8"):
        data.open_regions(write_coco(images=images, annotations=[annotation(10, 3, {"size": [5, 5], "counts": [25]})]))


def test_an_unknown_region_is_refused(write_coco, refused):
    assert "unknown region of data set 'coco' 'labels' (did you mean 'label'?)" in refused(
        write_coco(), region="labels"
    )


def test_a_single_file_has_no_splits(write_coco, refused):
    assert "is one split" in refused(write_coco(), split="val")


# Inputs that could exhaust memory or time


@pytest.mark.parametrize("area", [10**19, 10**400, float("inf"), -1, "9", True])
def test_impossible_areas_are_ignored(write_coco, area):
    annotations = [annotation(10, 3, [SQUARE], area=area), annotation(10, 7, [[0, 0, 12, 0, 12, 8, 0, 8]], area=96)]
    dataset = data.open_regions(write_coco(annotations=annotations))
    assert dataset.mask(0).all() and dataset.classes[dataset.labels[0]] == "dog"


def test_polygons_with_many_corners_are_exact(write_coco, tmp_path, write_image):
    write_image(tmp_path / "images" / "000000000000.jpg", (400, 300))
    image = {"id": 10, "file_name": "000000000000.jpg", "width": 400, "height": 300}
    angle = np.linspace(0, 2 * np.pi, 50_000, endpoint=False)
    circle = np.stack([200 + 100 * np.cos(angle), 150 + 100 * np.sin(angle)], axis=1)
    dataset = data.open_regions(write_coco(images=[image], annotations=[annotation(10, 3, [circle.ravel().tolist()])]))
    y, x = np.indices((300, 400)) + 0.5
    assert np.array_equal(dataset.mask(0), np.hypot(x - 200, y - 150) < 100)


def test_extremely_long_polygons_are_refused(write_coco):
    across = [[0, 0, 1_000_000, 1_000_000] * 1000]
    with pytest.raises(InputError, match="annotation 1 of image 10 in .*own.json.* pixels long"):
        data.open_regions(write_coco(annotations=[annotation(10, 3, across)]))


def test_deeply_nested_lists_are_one_line(write_coco):
    text = json.dumps(content(annotations=[annotation(10, 3, "shape", area=5)]))
    for depth in (100, 100_000):
        path = write_coco(text.replace('"shape"', "[" * depth + "]" * depth))
        with pytest.raises((InputError, data.Unreadable), match="own.json") as caught:
            data.open_regions(path).mask(0)
        assert "\n" not in str(caught.value)


def test_many_objects_in_one_image_are_read(write_coco, tmp_path, write_image):
    write_image(tmp_path / "images" / "000000000000.jpg", (400, 300))
    image = {"id": 10, "file_name": "000000000000.jpg", "width": 400, "height": 300}
    square = [0, 0, 40, 0, 40, 40, 0, 40]
    code = {"size": [300, 400], "counts": [40 * 300, 300, 359 * 300]}
    annotations = [annotation(10, 3, [square]), annotation(10, 3, code)] * 1000
    region = data.open_regions(write_coco(images=[image], annotations=annotations)).mask(0)
    assert region[:40, :40].all() and region[:, 40].all() and region.sum() == 1600 + 300


def test_a_missing_coco_library_is_named(write_coco, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    codes.library.cache_clear()
    assert 'pip install "regard[coco]"' in refused(write_coco())


def test_shapes_of_objects_with_a_stated_area_are_read_lazily(write_coco):
    annotations = [annotation(10, 3, [SQUARE[:-1]], area=5), annotation(11, 3, [SQUARE], area=16)]
    dataset = data.open_regions(write_coco(annotations=annotations))
    assert dataset.labels.tolist() == [0, 0, -1, -1] and np.array_equal(dataset.mask(1), read_mask(SQUARE))
    with pytest.raises(data.Unreadable, match=r"annotation 1 of image 10 in .*own.json' cannot be used: .* 7 numbers"):
        dataset.mask(0)
