import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from regard import data
from regard.data.decode import read_image
from regard.errors import DataWarning, InputError

RED, GREEN = (200, 30, 40), (20, 180, 60)


def write(path, colour=RED, size=(12, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


@pytest.fixture
def root(tmp_path):
    """train/ and test/ of two classes, three and two images of 12 x 8 (width x height) in each."""
    for split, count in (("train", 3), ("test", 2)):
        for name, colour in (("ant", RED), ("bee", GREEN)):
            for i in range(count):
                write(tmp_path / split / name / f"{i}.png", colour)
    return tmp_path


def error_of(*arguments, **options):
    """The one-line error of loading the folder; warnings fail the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError) as caught:
            data.load("folder", *arguments, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def test_load_reads_train_and_test(root):
    splits = data.load("folder", root)
    assert (len(splits.train), len(splits.test)) == (6, 4)
    for part in splits:
        assert part.name == "folder" and part.classes == ("ant", "bee") and part.images.shape[1:] == (3, 8, 12)
        for colour, label in ((RED, 0), (GREEN, 1)):
            pixels = part.images[part.labels == label]
            assert (pixels == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all()
        assert part.skipped == () and part.regions is None
    expected = (np.array([RED, GREEN]) / 255).mean(0)
    assert splits.train.mean == splits.test.mean == pytest.approx(tuple(expected))
    assert splits.train.std == splits.test.std
    assert (splits.train.split, splits.test.split) == ("train", "test")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_test_folder_may_have_another_name(root, name):
    (root / "test").rename(root / name)
    assert len(data.load("folder", root).test) == 4


def test_hidden_and_other_files_are_ignored_and_subfolders_read(root):
    ant = root / "train" / "ant"
    (ant / "notes.txt").write_text("not an image")
    (ant / ".hidden.png").write_text("not an image")
    (ant / "._0.jpg").write_text("not an image")
    write(root / "train" / ".cache" / "x.png")
    write(ant / "more" / "3.PNG")
    write(ant / ".more" / "4.png", GREEN)
    (root / "train" / "list.csv").write_text("")
    train = data.load("folder", root).train
    assert train.classes == ("ant", "bee") and train.labels.tolist() == [0] * 4 + [1] * 3


def test_read_folder_keeps_the_given_class_order(root):
    reversed_set = data.read_folder(root / "train", classes=["bee", "ant"], split="test")
    assert reversed_set.classes == ("bee", "ant") and reversed_set.split == "test"
    assert reversed_set.images[reversed_set.labels == 0][0, 1, 0, 0] == GREEN[1]
    with pytest.raises(InputError, match="missing 'cat'; expected the 3 given as classes"):
        data.read_folder(root / "train", classes=["bee", "ant", "cat"])


def test_all_pixel_formats_become_rgb(tmp_path):
    folder = tmp_path / "kinds"
    folder.mkdir()
    plain = Image.new("RGB", (16, 16), RED)
    alpha = Image.new("RGBA", (16, 16), (*RED, 128))
    grey = int(np.asarray(plain.convert("L"))[0, 0])
    expected = {}

    def save(name, image, colour, **options):
        image.save(folder / name, **options)
        expected[name] = colour

    save("rgb.jpg", plain, RED, quality=95, subsampling=0)
    save("upper.JPEG", plain, RED, quality=95, subsampling=0)
    save("rgb.webp", plain, RED, lossless=True)
    save("rgba.png", alpha, RED)
    save("rgba.webp", alpha, RED, lossless=True)
    save("palette.png", plain.quantize(4), RED)
    transparent = plain.quantize(4)
    save("palette-transparent.png", transparent, RED, transparency=bytes([128] * 4))
    save("grey.png", plain.convert("L"), (grey,) * 3)
    save("grey.jpg", plain.convert("L"), (grey,) * 3, quality=95)
    save("grey-alpha.png", Image.merge("LA", [plain.convert("L"), Image.new("L", (16, 16), 9)]), (grey,) * 3)
    save("one-bit.png", Image.new("1", (16, 16), 1), (255,) * 3)
    save("cmyk.jpg", Image.new("CMYK", (16, 16), (0, 200, 200, 20)), None, quality=95)
    sixteen = Image.fromarray(np.full((16, 16), 0x8123, dtype=np.uint16))
    save("sixteen.png", sixteen, (0x81,) * 3)
    save("really-a-png.jpg", plain, RED, format="PNG")
    save("really-a-gif.jpg", plain, RED, format="GIF")
    save("animated.webp", plain, RED, save_all=True, append_images=[Image.new("RGB", (16, 16), GREEN)], lossless=True)
    (folder / "sixteen-rgb.png").write_bytes(png(16, 16, 16, 2, np.full((16, 48), 0x8123, dtype=">u2")))
    expected["sixteen-rgb.png"] = (0x81,) * 3

    names = sorted(expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = data.read_folder(tmp_path)
    assert len(images) == len(names)
    expected["cmyk.jpg"] = tuple(np.asarray(Image.open(folder / "cmyk.jpg").convert("RGB"))[0, 0].tolist())
    for name, pixels in zip(names, images.images, strict=True):
        difference = (pixels.int() - torch.tensor(expected[name])[:, None, None]).abs().max()
        assert difference <= (4 if name.lower().endswith(("jpg", "jpeg")) else 0), name


def png(width, height, depth, colour_type, rows):
    """The bytes of a PNG in formats that Pillow cannot write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a" / "x.png"
    path.parent.mkdir()
    Image.fromarray(pixels).save(path, exif=exif)
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels.transpose(1, 0, 2)[:, ::-1],
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],
        8: pixels.transpose(1, 0, 2)[::-1],
    }[orientation]
    images = data.read_folder(tmp_path).images
    assert torch.equal(images[0], torch.from_numpy(upright.copy()).permute(2, 0, 1))


def test_size_resizes_the_shorter_side_and_crops_the_centre(tmp_path):
    # Images in three thirds, of which only the centre is kept, and one that already has the size.
    wide = Image.new("RGB", (120, 40), RED)
    wide.paste(Image.new("RGB", (40, 40), GREEN), (40, 0))
    (tmp_path / "a").mkdir()
    wide.save(tmp_path / "a" / "0.png")
    wide.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a" / "1.png")
    write(tmp_path / "a" / "2.png", GREEN, (10, 10))
    wide.resize((3000, 1000), Image.Resampling.NEAREST).save(tmp_path / "a" / "3.jpg", quality=95)
    images = data.read_folder(tmp_path, size=10).images
    assert images.shape == (4, 3, 10, 10)
    # At the border, antialiasing includes a little of the pixels that were cut off.
    difference = (images.int() - torch.tensor(GREEN)[:, None, None]).abs()[:, :, 1:-1, 1:-1]
    assert difference[:3].max() == 0 and difference[3].max() <= 4


def test_resizing_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    (tmp_path / "a").mkdir()
    Image.fromarray(stripes).save(tmp_path / "a" / "x.png")
    pixels = data.read_folder(tmp_path, size=8).images
    assert pixels.min() >= 90 and pixels.max() <= 110


def test_many_large_images_keep_their_order(tmp_path):
    generator = np.random.default_rng(0)
    for i in range(150):
        pixels = generator.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        pixels[:20] = i
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{i:03}.png")
    images = data.read_folder(tmp_path)
    assert images.images[:, 0, 0, 0].tolist() == list(range(150))


# Errors


def test_a_missing_folder_option_is_named():
    assert "give one (--data.folder)" in error_of()


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    message = error_of(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message and message.startswith("no folder")


def test_a_file_instead_of_a_folder_is_refused(tmp_path):
    assert "is a file, not a folder" in error_of(write(tmp_path / "x.png"))


def test_a_missing_train_folder_is_named(root):
    (root / "train").rename(root / "training")
    message = error_of(root)
    assert repr(str(root / "train")) in message and "must hold train/ and test/" in message


def test_a_missing_test_folder_is_named(root):
    (root / "test").rename(root / "testing")
    message = error_of(root)
    assert message.startswith("none of the folders test, val, valid, validation") and repr(str(root)) in message


def test_images_outside_class_folders_are_refused(tmp_path):
    write(tmp_path / "train" / "x.png")
    message = error_of(tmp_path)
    assert "1 images but no class folders" in message and repr(str(tmp_path / "train")) in message


def test_an_empty_class_folder_is_named(root):
    (root / "train" / "cat").mkdir()
    (root / "train" / "cat" / "readme.txt").write_text("nothing yet")
    message = error_of(root)
    assert repr(str(root / "train" / "cat")) in message and "1 other files" in message


@pytest.mark.parametrize("name", ["folder", "files"])
@pytest.mark.parametrize("removed", [True, False])
def test_a_class_may_have_no_test_images(root, name, removed):
    for file in (root / "test" / "ant").iterdir():
        file.unlink()
    if removed:
        (root / "test" / "ant").rmdir()
    with pytest.warns(DataWarning, match="without test images in .*test': 'ant'"):
        train, test = data.load(name, root)
    assert train.classes == test.classes == ("ant", "bee")
    assert test.labels.tolist() == [1] * len(test)
    for file in (root / "test" / "bee").iterdir():
        file.unlink()
    assert repr(str(root / "test"))[:-1] in error_of(root)


def test_different_train_and_test_classes_are_refused(root):
    (root / "test" / "bee").rename(root / "test" / "cow")
    message = error_of(root)
    assert repr(str(root / "test")) in message and "missing 'bee', unexpected 'cow'" in message


TEXT = b"This is a text file. " * 10


@pytest.mark.parametrize(
    ("content", "reason"),
    [(TEXT, "is not an image"), (b"", "is empty (0 bytes)"), ("truncated", "is broken"), ("bomb", "more")],
)
@pytest.mark.parametrize("name", ["0.jpg", "1b.jpg"])  # the first file, opened before the others, and a later one
def test_an_unreadable_file_is_named_or_skipped(root, content, reason, name):
    path = root / "train" / "ant" / name
    if content == "truncated":
        pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()[:-100]
    elif content == "bomb":
        content = png(20000, 20000, 8, 2, [])
    path.write_bytes(content)
    message = error_of(root)
    assert repr(str(path)) in message and reason in message and "--data.unreadable skip" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = data.load("folder", root, unreadable="skip")
    assert splits.train.skipped == (str(path),) and splits.test.skipped == ()
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (splits.train.images[:3] == torch.tensor(RED, dtype=torch.uint8)[:, None, None]).all()


def test_images_above_the_safe_size_are_refused(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 8 - 1)
    assert "12 x 8 pixels, more than is safe" in error_of(root)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_readable_images_is_not_skipped(root, split):
    for file in (root / split / "bee").iterdir():
        file.write_bytes(TEXT)
    message = error_of(root, unreadable="skip")
    assert "not one of the" in message and repr(str(root / split / "bee")) in message


def test_a_data_set_without_readable_images_is_refused(root):
    for file in (root / "train").rglob("*.png"):
        file.write_bytes(TEXT)
    assert "not one of the 6 images" in error_of(root, unreadable="skip")


def test_a_broken_link_is_named(root):
    (root / "train" / "ant" / "x.jpg").symlink_to(root / "nothing.jpg")
    assert "cannot be opened (No such file" in error_of(root)


def test_the_first_of_several_unreadable_files_is_named(root):
    for name in ("1.png", "2.png"):
        (root / "train" / "ant" / name).write_bytes(TEXT)
    assert repr(str(root / "train" / "ant" / "1.png")) in error_of(root)


def test_images_of_different_sizes_need_a_size(root):
    odd = write(root / "train" / "bee" / "1.png", size=(8, 12))
    message = error_of(root)
    assert repr(str(odd)) in message and "8 x 12" in message and "--data.size 8" in message
    assert data.load("folder", root, size=8).train.images.shape == (6, 3, 8, 8)


def test_train_and_test_of_different_sizes_need_a_size(root):
    for file in (root / "test").rglob("*.png"):
        write(file, size=(20, 20))
    message = error_of(root)
    assert "12 x 8" in message and "20 x 20" in message and "--data.size 8" in message


def test_exceeding_the_memory_limit_is_refused(root):
    message = error_of(root, size=50_000)
    assert "6 images" in message and "42 GiB" in message and "4 GiB" in message and "--data.size" in message
    assert "memory_limit" in error_of(root, memory_limit=6 * 3 * 12 * 8 - 1)
    data.load("folder", root, memory_limit=6 * 3 * 12 * 8)


def test_the_memory_error_suggests_a_size_or_limit(root, monkeypatch):
    message = error_of(root, size=100, memory_limit=10_000)
    assert "--data.size, at most 23" in message and "--data.options.memory_limit" in message
    data.load("folder", root, size=23, memory_limit=10_000)
    # Raising the limit is not suggested if the machine has no more memory.
    monkeypatch.setattr("regard.host.total_memory", lambda: 50_000)
    assert "--data.options.memory_limit" not in error_of(root, size=100, memory_limit=10_000)
    message = error_of(root, size=100)
    assert "this machine has" in message and "at most 37" in message and "memory_limit" not in message


WRONG = [{"size": 0}, {"size": -3}, {"size": 2.5}, {"unreadable": "ignore"}, {"memory_limit": "64e9"}]


@pytest.mark.parametrize("options", WRONG)
def test_invalid_options_are_named(root, options):
    assert next(iter(options)) in error_of(root, **options)


def test_line_breaks_in_file_names_are_escaped(root):
    (root / "train" / "ant" / "x\ny.jpg").write_bytes(TEXT)
    assert "x\\ny.jpg" in error_of(root)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_is_named(root):
    (root / "train" / "ant").chmod(0)
    try:
        assert "cannot list folder" in error_of(root)
    finally:
        (root / "train" / "ant").chmod(0o700)


def test_malformed_exif_is_ignored(tmp_path):
    path = write(tmp_path / "a" / "x.jpg", exif=b"Exif\0\0garbage that is no TIFF header", quality=95)
    assert read_image(path)[0].size == (12, 8)
