"""`open_regions`: sources, splits and classes; order, limit, fingerprint and EXIF of all sources."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from regard import data
from regard.data.regions.masks import read_label_map, read_mask
from regard.errors import DataWarning, InputError


@pytest.fixture
def masks(tmp_path, write_image, write_mask):
    """Ten images of 12 x 8 and their masks, in two class folders."""
    root = tmp_path / "own"
    for i in range(10):
        name = f"{'ab'[i % 2]}/{i}"
        write_image(root / "images" / f"{name}.jpg", seed=i)
        mask = np.zeros((8, 12), dtype=bool)
        mask[i % 8, i] = True
        write_mask(root / "masks" / f"{name}.png", mask)
    return root


def test_the_kind_can_be_named_or_detected(masks):
    named, detected = data.open_regions(f"masks:{masks}"), data.open_regions(str(masks))
    assert named.name == detected.name == "masks" and named.keys == detected.keys and len(named) == 10
    assert named.fingerprint() == detected.fingerprint()
    assert isinstance(named, data.ImageDataset) and data.open_regions(masks).keys == named.keys


def test_limit_takes_evenly_spaced_images(masks):
    whole = data.open_regions(masks)
    assert whole.keys == tuple(sorted(whole.keys))
    for limit, indices in ((1, [5]), (2, [2, 7]), (4, [1, 3, 6, 8]), (9, [0, 1, 2, 3, 5, 6, 7, 8, 9])):
        part = data.open_regions(masks, limit=limit)
        assert part.keys == tuple(whole.keys[i] for i in indices) and len(part) == limit
        assert part.labels.tolist() == whole.labels[indices].tolist() and part.classes == whole.classes
        for i, index in enumerate(indices):
            assert np.array_equal(part.mask(i), whole.mask(index))
            assert part.image(i).tobytes() == whole.image(index).tobytes()
        assert part.fingerprint() != whole.fingerprint()
    assert data.open_regions(masks, limit=10).keys == data.open_regions(masks, limit=99).keys == whole.keys


def test_subsets_keep_the_given_order(masks):
    whole = data.open_regions(masks)
    part = whole.subset([7, 2, 2])
    assert part.keys == tuple(whole.keys[i] for i in (7, 2, 2)) and np.array_equal(part.mask(0), whole.mask(7))
    assert part.subset([1]).keys == (whole.keys[2],)
    with pytest.raises(InputError, match="indices run from 3 to 10; expected 0 to 9"):
        whole.subset([3, 10])


def test_data_sets_can_be_pickled(masks):
    whole = data.open_regions(masks, limit=3)
    unpickled = pickle.loads(pickle.dumps(whole))
    assert unpickled.keys == whole.keys and np.array_equal(unpickled.mask(1), whole.mask(1))


def test_the_fingerprint_depends_on_contents_and_not_on_the_path(masks, write_image, write_mask):
    before = data.open_regions(masks).fingerprint()
    moved = masks.rename(masks.with_name("moved"))
    assert data.open_regions(moved).fingerprint() == before
    write_mask(moved / "masks" / "a" / "0.png", np.ones((8, 12), dtype=bool))
    changed = data.open_regions(moved).fingerprint()
    assert changed != before
    write_image(moved / "images" / "a" / "0.jpg", (12, 8), seed=99, quality=99)
    assert data.open_regions(moved).fingerprint() not in (before, changed)
    (moved / "images" / "a" / "0.jpg").rename(moved / "images" / "a" / "00.jpg")
    (moved / "masks" / "a" / "0.png").rename(moved / "masks" / "a" / "00.png")
    assert data.open_regions(moved).fingerprint() not in (before, changed)


@pytest.mark.parametrize("file", ["images/a/0.jpg", "masks/a/0.png"])
def test_the_fingerprint_changes_with_contents_of_equal_size(masks, file):
    path = masks / file
    before, content = data.open_regions(masks).fingerprint(), path.read_bytes()
    time = path.stat().st_mtime_ns
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(time, time + 1))  # file system clocks may have a resolution of milliseconds
    assert data.open_regions(masks).fingerprint() != before


@pytest.mark.parametrize("kind", ["", "masks:"])
def test_a_missing_path_is_named(tmp_path, refused, kind):
    message = refused(f"{kind}{tmp_path / 'nowhere'}")
    assert "nowhere" in message and message.startswith("no f")


def test_an_unknown_kind_suggests_the_nearest(tmp_path, refused):
    assert "unknown kind of data 'coc' (did you mean 'coco'?)" in refused(f"coc:{tmp_path}")
    assert "--data.name wds --data.folder shards" in refused("wds:shards")
    assert "no path after 'coco:'" in refused("coco:")


def test_paths_may_contain_a_colon(masks):
    path = masks.rename(masks.with_name("a:b"))
    assert len(data.open_regions(path)) == len(data.open_regions(f"masks:{path}")) == 10


def test_an_unknown_folder_layout_lists_the_expected_files(tmp_path, refused):
    (tmp_path / "x.txt").write_text("")
    message = refused(tmp_path)
    for sign in ("instances_", "image_class_labels.txt", "trimaps", "ImageSets", "stl10_", "Annotations", "masks/"):
        assert sign in message


def test_invalid_options_are_named(masks, refused):
    assert "option of data set 'masks' 'region'; known: images" in refused(masks, region="label")
    assert "option of data set 'masks' 'boundary'" in refused(masks, boundary="inside")
    assert "limit is 0" in refused(masks, limit=0)
    assert "no folder" in refused(masks, images=masks / "pictures")


# Class folders without regions


def test_class_folders_have_labels_and_no_regions(tmp_path, write_image, refused):
    for split, count in (("train", 3), ("test", 2)):
        for name in ("ant", "bee"):
            for i in range(count):
                write_image(tmp_path / split / name / f"{i}.png", seed=i)
    dataset = data.open_regions(tmp_path)
    assert (dataset.name, dataset.split, dataset.classes) == ("folder", "test", ("ant", "bee"))
    assert not dataset.has_masks
    assert dataset.keys == ("ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png")
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.mask(0) is None
    assert len(data.open_regions(tmp_path, split="train")) == 6
    inner = data.open_regions(f"folder:{tmp_path / 'train'}")
    assert (len(inner), inner.split) == (6, "")
    assert "no split 'val' in" in refused(tmp_path, split="val")
    assert dataset.fingerprint() != inner.fingerprint()


# Masks


def test_masks_have_labels_from_class_folders(masks, write_image, write_mask):
    dataset = data.open_regions(masks)
    assert dataset.classes == ("a", "b") and dataset.labels.tolist() == [0] * 5 + [1] * 5 and dataset.has_masks
    assert dataset.keys[:2] == ("a/0.jpg", "a/2.jpg")
    region = dataset.mask(1)
    assert region.dtype == bool and region.shape == (8, 12) and np.argwhere(region).tolist() == [[2, 2]]
    write_image(masks / "images" / "loose.webp")
    write_mask(masks / "masks" / "loose.png", np.zeros((8, 12), dtype=bool))
    dataset = data.open_regions(masks)
    assert dataset.keys[-1] == "loose.webp" and dataset.labels[-1] == -1 and not dataset.mask(10).any()


def test_masks_and_images_may_be_in_different_places(masks, tmp_path):
    elsewhere = (masks / "images").rename(tmp_path / "pictures")
    for path in (masks, masks / "masks"):
        assert len(data.open_regions(f"masks:{path}", images=elsewhere)) == 10


def test_masks_may_be_in_split_folders(masks, tmp_path, refused):
    (tmp_path / "set").mkdir()
    masks.rename(tmp_path / "set" / "val")
    dataset = data.open_regions(tmp_path / "set")
    assert (dataset.name, dataset.split, len(dataset)) == ("masks", "val", 10)
    assert "no split 'test'" in refused(tmp_path / "set", split="test")


def test_images_without_a_mask_have_no_region(masks, refused):
    before = data.open_regions(masks)
    for name in ("a/0", "a/2", "b/3", "b/5"):
        (masks / "masks" / f"{name}.png").unlink()
    with pytest.warns(DataWarning) as warned:
        dataset = data.open_regions(masks)
    (message,) = [str(warning.message) for warning in warned]
    assert "4 of the 10 images" in message and "('a/0.jpg', 'a/2.jpg', 'b/3.jpg', …)" in message
    assert dataset.has_masks and dataset.keys == before.keys and dataset.fingerprint() != before.fingerprint()
    with_mask = [i for i in range(10) if dataset.mask(i) is not None]
    assert [dataset.keys[i] for i in range(10) if i not in with_mask] == ["a/0.jpg", "a/2.jpg", "b/3.jpg", "b/5.jpg"]
    assert all(np.array_equal(dataset.mask(i), before.mask(i)) for i in with_mask)
    (batch,) = data.create_loader(dataset, 10, mean=(0.5,) * 3, std=(0.25,) * 3, masks=True).epoch(0)
    assert batch.masks.flatten(1).any(1).nonzero().flatten().tolist() == with_mask
    in_memory = data.read_into_memory(dataset)
    assert in_memory.regions.flatten(1).any(1).nonzero().flatten().tolist() == with_mask
    for mask in (masks / "masks").rglob("*.png"):
        mask.unlink()
    assert "no mask in" in refused(masks) and "'a/0'" in refused(masks)


def test_every_image_needs_an_instance_mask(masks, refused):
    (masks / "masks").rename(masks / "instances")
    (masks / "instances" / "a" / "0.png").unlink()
    assert "1 of the 10 images" in refused(masks) and "black if it has no objects" in refused(masks)


def test_masks_without_an_image_are_ignored(masks):
    (masks / "images" / "a" / "0.jpg").unlink()
    assert len(data.open_regions(masks)) == 9


def test_hidden_files_and_cyclic_links_are_ignored(masks):
    (masks / "images" / "a" / "around").symlink_to(masks / "images")
    (masks / "images" / "linked").symlink_to(masks / "images" / "b")
    (masks / "masks" / "linked").symlink_to(masks / "masks" / "b")
    (masks / "images" / ".a.jpg").write_text("")
    (masks / "images" / "a" / "notes.txt").write_text("")
    dataset = data.open_regions(masks)
    assert len(dataset) == 15 and dataset.classes == ("a", "b", "linked")


def test_duplicate_names_are_refused(masks, write_image, write_mask, refused):
    write_image(masks / "images" / "a" / "0.png")
    assert "two images of one name" in refused(masks)
    (masks / "images" / "a" / "0.png").unlink()
    write_mask(masks / "masks" / "a" / "0.bmp", np.zeros((8, 12), dtype=bool))
    assert "two masks of one name" in refused(masks)


def test_missing_images_are_named(tmp_path, write_mask, refused):
    write_mask(tmp_path / "masks" / "0.png", np.zeros((8, 12), dtype=bool))
    assert "no folder" in refused(tmp_path)
    (tmp_path / "images").mkdir()
    assert "no images in" in refused(tmp_path)


def test_a_mask_of_another_size_than_its_image_names_both(masks, write_mask):
    write_mask(masks / "masks" / "a" / "0.png", np.zeros((8, 13), dtype=bool))
    with pytest.raises(data.Unreadable) as caught:
        data.open_regions(masks).mask(0)
    message = str(caught.value)
    assert "images/a/0.jpg' has 12 x 8 pixels" in message and "masks/a/0.png' is for 13 x 8" in message


def test_an_unreadable_mask_is_named(masks):
    (masks / "masks" / "a" / "0.png").write_text("not a mask at all")
    with pytest.raises(data.Unreadable, match=r"masks/a/0.png' is not an image"):
        data.open_regions(masks).mask(0)


def test_masks_of_every_pixel_format_are_read(tmp_path):
    mask = np.zeros((16, 16), dtype=bool)
    mask[3:9, 5:14] = True
    grey = mask.astype(np.uint8)
    palette = Image.fromarray(1 - grey).convert("P")
    palette.putpalette([9, 9, 9, 0, 0, 0])  # value 1 is black
    kinds = {
        "white.png": Image.fromarray(grey * 255),
        "one.png": Image.fromarray(grey),
        "bit.png": Image.fromarray(mask),
        "sixteen.png": Image.fromarray(grey.astype(np.uint16)),
        "blue.png": Image.fromarray(np.stack([0 * grey, 0 * grey, grey], axis=2)),
        "palette.png": palette,
        "alpha.png": Image.fromarray(np.stack([255 + 0 * grey] * 3 + [grey * 200], axis=2)),
        "grey-alpha.png": Image.merge("LA", [Image.new("L", (16, 16), 255), Image.fromarray(grey * 255)]),
        "white.bmp": Image.fromarray(grey * 255),
        "white.gif": Image.fromarray(grey * 255),
        "white.jpg": Image.fromarray(grey * 255),
        "colour.jpg": Image.fromarray(np.stack([grey * 255, grey * 0, grey * 0], axis=2)),
        "white.webp": Image.fromarray(np.stack([grey * 255] * 3, axis=2)),
    }
    for name, image in kinds.items():
        options = {"quality": 95, "subsampling": 0} if name.endswith("jpg") else {}
        image.save(tmp_path / name, **options)
        result = read_mask(tmp_path / name)
        assert result.dtype == bool and np.array_equal(result, mask), name


def test_label_maps_are_read_from_grey_and_palette_images(tmp_path):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(values).save(tmp_path / "grey.png")
    palette = Image.fromarray(values).convert("P")
    palette.putpalette([7] * 768)
    palette.save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        assert np.array_equal(read_label_map(tmp_path / name), values), name
    Image.new("RGB", (3, 2)).save(tmp_path / "colour.png")
    with pytest.raises(data.Unreadable, match="in RGB; expected one with a palette"):
        read_label_map(tmp_path / "colour.png")


# EXIF


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(12, 8), (9, 9)])
def test_stored_masks_follow_the_exif_orientation(tmp_path, write_image, write_mask, orientation, size):
    """A mask of the stored pixels lines up with the upright image."""
    mask = np.random.default_rng(orientation).random(size[::-1]) > 0.5
    pixels = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8) * 255
    write_image(tmp_path / "images" / "x.png", pixels=pixels, orientation=orientation)
    write_mask(tmp_path / "masks" / "x.png", mask)
    dataset = data.open_regions(tmp_path)
    assert np.array_equal(dataset.mask(0), np.asarray(dataset.image(0))[:, :, 0] == 255)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_of_the_upright_size_are_not_rotated(tmp_path, write_image, write_mask, orientation):
    write_image(tmp_path / "images" / "x.png", (12, 8), orientation=orientation)
    mask = np.random.default_rng(0).random((12, 8)) > 0.5
    write_mask(tmp_path / "masks" / "x.png", mask)
    assert np.array_equal(data.open_regions(tmp_path).mask(0), mask)
