"""The objects of data sets: boxes, classes, masks, crowds."""

import numpy as np
import pytest
import torch

from regard import data
from regard.data.objects import mask_boxes
from regard.errors import InputError

CATEGORIES = [{"id": 90, "name": "cat"}, {"id": 7, "name": "dog"}]
TRIANGLE = [2, 1, 8, 1, 2, 7]


def annotation(number, image, category=7, **fields):
    return {"id": number, "image_id": image, "category_id": category, **fields}


@pytest.fixture
def open_coco(tmp_path, write_image, write_json):
    """Writes a COCO file for three images of 12 x 8, ids 10 to 12, and opens the data set."""

    def write(annotations, *, orientation=None, sized=True, categories=CATEGORIES, split="val", **options):
        images = [{"id": 12 - i, "file_name": f"{i}.png"} for i in range(3)]
        images = [{**image, "width": 12, "height": 8} if sized else image for image in images]
        for i in range(3):
            write_image(tmp_path / split / f"{i}.png", seed=i, orientation=orientation)
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(tmp_path / "annotations" / f"instances_{split}.json", content)
        return data.open_regions(f"coco:{tmp_path}", split=split, **options)

    return write


def test_coco_objects_have_boxes_labels_masks_and_ids(open_coco):
    run_lengths = {"size": [8, 12], "counts": [8, 4, 84]}
    dataset = open_coco(
        [
            annotation(5, 12, bbox=[1.5, 2, 3, 4.25], segmentation=[TRIANGLE], area=19, iscrowd=0),
            annotation(8, 12, 90, bbox=[-2, 6, 5, 9], iscrowd=0),
            annotation(9, 12, segmentation=run_lengths, iscrowd=1),
            annotation("text", 10, 90, segmentation=[[4, 2, 9, 2, 9, 5, 4, 5]]),
        ]
    )
    assert dataset.has_objects and dataset.has_object_masks
    assert dataset.classes == ("dog", "cat") and dataset.category_ids == (7, 90)  # ids with a gap
    assert [dataset.image_id(i) for i in range(3)] == [12, 11, 10] and dataset.dimensions(0) == (12, 8)
    first, second, third = (dataset.objects(i) for i in range(3))
    assert first.boxes.tolist() == [[1.5, 2, 4.5, 6.25], [0, 6, 3, 8], [1, 0, 2, 4]]  # clipped to the image
    assert first.labels.tolist() == [0, 1, 0] and first.crowd.tolist() == [False, False, True]
    assert first.area.tolist() == [19, 6, 4] and first.ids.tolist() == [5, 8, 9]  # annotated, or else of the mask
    region = np.zeros((8, 12), bool)
    region[6:, :3] = True  # an object without a segmentation is its box
    assert np.array_equal(first.masks[1], region) and first.masks[2].nonzero().tolist() == [[i, 1] for i in range(4)]
    assert np.array_equal(first.masks.any(0), dataset.mask(0))
    assert (second.boxes.shape, second.masks.shape, second.labels.dtype) == ((0, 4), (0, 8, 12), torch.int64)
    assert third.boxes.tolist() == [[4, 2, 9, 5]] and third.ids.tolist() == [0]
    assert dataset.objects(0, masks=False).masks is None and dataset.subset([2, 0]).objects(1).ids.tolist() == [5, 8, 9]
    # Evaluation uses the boxes as annotated, unclipped.
    assert dataset.instances(0).boxes[1].tolist() == [-2, 6, 5, 9] and dataset.instances(0).counts[2] is not None
    assert open_coco([annotation(2**64, 12, bbox=[1, 1, 4, 4], iscrowd=0)]).objects(0).ids.tolist() == [0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_follow_the_exif_orientation(open_coco, orientation):
    shapes = [[3, 1, 7, 1, 7, 4, 3, 4], [0, 5, 2, 5, 2, 8, 0, 8]]
    boxes = [annotation(i, 12, bbox=box) for i, box in enumerate([[3, 1, 4, 3], [0, 5, 2, 3]], 1)]
    segmentations = [annotation(i, 12, segmentation=[shape]) for i, shape in enumerate(shapes, 1)]
    for sized in (True, False):
        by_box, by_mask = (
            open_coco(objects, orientation=orientation, sized=sized) for objects in (boxes, segmentations)
        )
        objects = by_mask.objects(0)
        assert objects.masks.shape[1:] == by_mask.image(0).size[::-1]
        assert objects.boxes.tolist() == by_box.objects(0).boxes.tolist() == mask_boxes(objects.masks.numpy()).tolist()


def test_data_sets_unfit_for_detectors_are_refused(open_coco):
    boxes = open_coco([annotation(1, 12, bbox=[1, 1, 4, 4])])
    assert not boxes.has_object_masks and boxes.objects(0).masks is None
    with pytest.raises(InputError, match="boxes without masks; give segmentations"):
        data.create_loader(boxes, objects=True, masks=True)
    unlabelled = open_coco([annotation(1, 12, None, bbox=[1, 1, 4, 4])], categories=[])
    assert unlabelled.objects(0) is None
    with pytest.raises(InputError, match="'coco' has no objects with a class; expected annotations of COCO with"):
        data.create_loader(unlabelled, objects=True)
    with pytest.raises(data.Unreadable, match="annotation 1 of image 12 in .* bbox is -3 wide"):
        open_coco([annotation(1, 12, bbox=[5, 5, -3, 4], segmentation=[TRIANGLE], area=5)]).objects(0)
    with pytest.raises(InputError, match="create the loader with objects=True"):
        data.create_loader(boxes, transform=data.DetectionTransform())
    with pytest.raises(InputError, match="must be a DetectionTransform"):
        data.create_loader(boxes, transform=data.Transform(), objects=True)


def test_boxes_outside_their_image_are_counted(open_coco):
    boxes = [[1, 1, 4, 4], [12, 1, 4, 4], [-5, 0, 4, 8], [0.1, 0.2, 0.5, 0.5], [3, 3, 0, 4]]
    with pytest.warns(UserWarning, match="4 boxes in .* such as annotation 1: detectors do not learn them"):
        dataset = open_coco([annotation(i, 12, bbox=box) for i, box in enumerate(boxes)])
    image, objects = dataset.image(0), dataset.objects(0)
    assert objects.boxes[1].tolist() == [12, 1, 12, 5] and len(objects.ids) == 5
    _, learned = data.DetectionTransform((8,), 12)(image, objects, 0, 0, 0)
    assert learned.ids.tolist() == [0]


def test_load_reads_train_and_test_splits(open_coco, tmp_path):
    annotations = [annotation(1, 12, bbox=[1, 1, 4, 4])]
    open_coco(annotations, split="train"), open_coco(annotations)
    with pytest.warns(UserWarning, match="2 of the 3 images of split 'train' of 'coco' have no objects"):
        train, test = data.load("coco", tmp_path, objects=True)
    assert (len(train), len(test)) == (1, 3)


def test_voc_objects_have_boxes_and_labels(tmp_path, write_image):
    write_image(tmp_path / "JPEGImages" / "a.jpg")
    xml = "<annotation><size><width>12</width><height>8</height></size>{}</annotation>"
    item = "<object><name>{}</name><bndbox><xmin>2</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>3</ymax></bndbox></object>"
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(xml.format(item.format("dog", 5) + item.format("cat", 20)))
    dataset = data.open_regions(f"voc:{tmp_path}")
    objects = dataset.objects(0)
    assert dataset.has_objects and not dataset.has_object_masks
    assert objects.boxes.tolist() == [[1, 0, 5, 3], [1, 0, 12, 3]]  # pixels are counted from 1
    assert [dataset.classes[label] for label in objects.labels] == ["dog", "cat"] and objects.area.tolist() == [12, 33]
    assert data.open_regions(f"voc:{tmp_path}", annotations="boxes").keys == ("a.jpg",)
    with pytest.raises(InputError, match="leave annotations='segmentations' out"):
        data.open_regions(f"voc:{tmp_path}", annotations="segmentations")


@pytest.mark.parametrize("folder", ["", "person/"])
def test_label_map_objects_have_boxes_and_masks(tmp_path, write_image, write_mask, folder):
    numbers = np.zeros((8, 12), np.uint8)
    numbers[1:4, 2:5], numbers[5:, 9:] = 7, 2
    write_image(tmp_path / "images" / f"{folder}a.jpg")
    write_mask(tmp_path / "instances" / f"{folder}a.png", numbers)
    dataset = data.open_regions(tmp_path)
    objects = dataset.objects(0)
    assert (dataset.name, dataset.labels.tolist()) == ("masks", [0])
    assert dataset.classes == ("person" if folder else "object",)
    assert objects.boxes.tolist() == [[9, 5, 12, 8], [2, 1, 5, 4]] and objects.ids.tolist() == [2, 7]
    assert objects.area.tolist() == [9, 9] and np.array_equal(objects.masks.any(0), dataset.mask(0))


# Batches.


@pytest.fixture
def shapes(tmp_path, write_image, write_json):
    """23 images, wide, square or tall, each with a different box."""
    images, annotations = [], []
    for i in range(23):
        size = [(9, 6), (6, 9), (7, 7)][i % 5 % 3]
        write_image(tmp_path / "images" / f"{i:02}.png", size, seed=i)
        images.append({"id": i, "file_name": f"{i:02}.png", "width": size[0], "height": size[1]})
        annotations.append(annotation(i, i, bbox=[0, 0, 1 + i / 8, 2], segmentation=[[0, 0, 2, 0, 2, 2]]))
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    return data.open_regions(write_json(tmp_path / "own.json", content))


def indices(batches):
    return [batch.index.tolist() for batch in batches]


def test_batches_are_grouped_by_aspect_ratio_and_can_resume(shapes):
    transform = data.DetectionTransform((6, 8), 10, jitter=None, photometric=True)
    options = {"transform": transform, "shuffle": True, "seed": 3, "objects": True, "masks": True}
    loader = data.create_loader(shapes, 4, **options)
    epoch = list(loader.epoch(2))
    assert len(epoch) == len(loader) == 6 and sorted(sum(indices(epoch), [])) == list(range(23))
    wide = [{shapes.dimensions(i)[0] >= shapes.dimensions(i)[1] for i in batch} for batch in indices(epoch)]
    assert all(len(kinds) == 1 for kinds in wide[:4]) and {True} in wide[:4] and {False} in wide[:4]
    assert indices(loader.epoch(1)) != indices(epoch) == indices(loader.epoch(2))
    ranks = [data.create_loader(shapes, 4, rank=rank, world_size=2, **options).epoch(2, start=3) for rank in (0, 1)]
    for whole, first, second in zip(epoch[3:], *ranks, strict=True):
        rows = {index: i for i, index in enumerate(whole.index.tolist())}
        assert sorted(rows) == sorted(first.index.tolist() + second.index.tolist()) and first.total == whole.total
        for part in (first, second):
            for index, image, target in zip(part.index.tolist(), part.images, part.targets, strict=True):
                assert (
                    torch.equal(image, whole.images[rows[index]]) and image.max() <= 1 and image.dtype == torch.float32
                )
                assert target.keys() == {"boxes", "labels", "crowd", "area", "masks"}
                for name, values in target.items():
                    assert torch.equal(values, whole.targets[rows[index]][name])
    sample = loader.sample(2, 9)
    assert torch.equal(sample.images[0], epoch[2].images[1]) and len(sample.targets) == 1


def test_without_a_transform_images_and_objects_are_unchanged(shapes):
    batch = next(data.create_loader(shapes, 4, objects=True).epoch(0))
    assert batch.index.tolist() == [0, 1, 2, 3] and "masks" not in batch.targets[0]
    assert torch.equal(batch.images[1], torch.from_numpy(np.array(shapes.image(1))).permute(2, 0, 1) / 255)
    assert torch.equal(batch.targets[3]["boxes"], shapes.objects(3).boxes)


def test_unreadable_images_are_named_or_replaced(shapes):
    shapes.path(5).write_bytes(b"")
    with pytest.raises(InputError, match="05.png.* is empty"):
        list(data.create_loader(shapes, 4, objects=True).epoch(0))
    loader = data.create_loader(shapes, 4, objects=True, unreadable="skip")
    batches = list(loader.epoch(0))
    assert indices(batches)[1] == [4, 6, 7] and batches[1].total == 4 and "05.png" in batches[1].skipped[0]
    shuffled = list(data.create_loader(shapes, 4, objects=True, unreadable="skip", shuffle=True).epoch(0))
    assert sum(indices(shuffled), []).count(6) == 2 and all(len(b.images) == b.total for b in shuffled)
