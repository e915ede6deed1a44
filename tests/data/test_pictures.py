"""Image files named by the user: how they are listed, read and refused."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regard import data
from regard.data.decode import Unreadable
from regard.errors import InputError

W, H = 6, 4
RGB = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = np.full((H, W, 3), 100, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray = RGB, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def read(path: Path) -> np.ndarray:
    pictures = data.open_pictures([path])
    assert len(pictures) == 1
    image = pictures.image(0)
    assert image.mode == "RGB"
    return np.asarray(image)


def error_of(path: Path) -> str:
    with pytest.raises(Unreadable) as caught:
        data.open_pictures([path]).image(0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_lists_its_images_in_order(tmp_path) -> None:
    for name in ("b/x.PNG", "a.png", "c.jpeg", "d.webp", "e.gif", "f.bmp", ".hidden.png", ".git/y.png", "out/z.png"):
        save(tmp_path / name, format="PNG")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "x.png").mkdir()
    save(tmp_path / "x.png" / "inside.png")
    pictures = data.open_pictures([tmp_path], without=tmp_path / "out")
    names = ["a.png", "b/x.PNG", "c.jpeg", "d.webp", "e.gif", "f.bmp", "x.png/inside.png"]
    assert [path.as_posix() for path in pictures.relative_paths] == names
    assert pictures.keys == tuple(str(tmp_path / name) for name in names)
    assert pictures.passed_over == 1 and not pictures.has_masks and list(pictures.labels) == [-1] * 7


def test_files_and_folders_can_be_combined(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one/a.png", "two/a.png", "b"):
        save(tmp_path / name, format="PNG")
    pictures = data.open_pictures(["b", "two", "one/a.png", "./two/../two/a.png", "b"])
    assert pictures.keys == ("b", "two/a.png", "one/a.png")
    assert [path.as_posix() for path in pictures.relative_paths] == ["b", "two/a.png", "a.png"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "there is no image and no folder"),
        (lambda path: path.symlink_to("nowhere.png"), "it is a broken link"),
        (lambda path: path.mkdir(), "no images in folder"),
        (lambda path: (path.mkdir(), (path / "a.txt").touch()), "but 1 other"),
    ],
)
def test_missing_images_are_named_immediately(tmp_path, make, expected) -> None:
    make(tmp_path / "x.png")
    with pytest.raises(InputError, match=expected):
        data.open_pictures([tmp_path / "x.png"])
    with pytest.raises(InputError, match="no images named"):
        data.open_pictures([])


def test_every_exif_orientation_is_applied(tmp_path) -> None:
    upright = np.zeros((H, W, 3), dtype=np.uint8)
    upright[0, 0], upright[0, -1] = (255, 0, 0), (0, 255, 0)
    # The stored pixels for each EXIF orientation.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / f"{orientation}.png", np.ascontiguousarray(pixels), exif=exif)
        assert np.array_equal(read(path), upright), orientation
        pictures = data.open_pictures([path], box=(0, 0, 1, 1))
        region = pictures.mask(0)
        assert region.shape == (H, W) and region[0, 0] and region.sum() == 1


def test_every_pixel_format_becomes_rgb(tmp_path) -> None:
    grey = GREY[..., 0]
    deep = (grey.astype(np.uint16) << 8) + 7
    alpha = np.linspace(0, 255, H * W).reshape(H, W).astype(np.uint8)
    assert np.array_equal(read(save(tmp_path / "deep.png", deep)), GREY)
    assert np.array_equal(read(save(tmp_path / "la.png", np.dstack([grey, alpha]))), GREY)
    assert np.array_equal(read(save(tmp_path / "rgba.png", np.dstack([RGB, alpha]))), RGB)
    bits = RGB[..., 0] > 127
    assert np.array_equal(read(save(tmp_path / "bits.png", bits))[..., 1] == 255, bits)
    palette = Image.fromarray(GREY).quantize(4)
    palette.save(tmp_path / "p.png")
    palette.save(tmp_path / "pt.png", transparency=0)
    palette.save(tmp_path / "p.gif")
    for name in ("p.png", "pt.png", "p.gif"):
        assert np.array_equal(read(tmp_path / name), GREY), name
    Image.fromarray(GREY).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert np.abs(read(tmp_path / "cmyk.jpg").astype(int) - 100).max() <= 3
    assert np.array_equal(read(save(tmp_path / "one.png", RGB[:1, :1])), RGB[:1, :1])
    assert read(save(tmp_path / "long.png", np.zeros((5000, 1), dtype=np.uint8))).shape == (5000, 1, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(tmp_path, kind) -> None:
    first, second = (Image.new("RGB", (W, H), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    options = {"lossless": True} if kind == "WEBP" else {}
    first.save(tmp_path / "a", kind, save_all=True, append_images=[second], **options)
    assert (read(tmp_path / "a") == (255, 0, 0)).all()


def test_files_that_are_not_images_are_named(tmp_path) -> None:
    whole = save(tmp_path / "whole.png", RGB).read_bytes()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg = save(tmp_path / "whole.jpg", noise).read_bytes()

    def put(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert "'" + str(tmp_path / "empty.png") + "' is empty" in error_of(put("empty.png", b""))
    assert "not an image" in error_of(put("text.jpg", b"dear diary"))
    assert "broken" in error_of(put("cut.jpg", jpeg[: len(jpeg) // 2]))
    assert "broken" in error_of(put("cut.png", whole[:-30]))
    assert "broken" in error_of(put("torn.png", whole[:41] + b"torn" + whole[45:]))


def test_huge_images_are_refused_before_decoding(tmp_path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    assert "than is safe to read" in error_of(tmp_path / "bomb.png")


def test_tiff_files_of_8_and_16_bits_are_read(tmp_path) -> None:
    for pixels, expected in ((np.full((H, W), 9, np.uint8), 9), (np.full((H, W), 999, np.uint16), 999 // 256)):
        Image.fromarray(pixels).save(tmp_path / "x.tif")
        assert (read(tmp_path / "x.tif") == expected).all()
    for pixels in (np.ones((H, W), "f"), np.ones((H, W), "i")):  # their value range is unknown
        Image.fromarray(pixels).save(tmp_path / "x.tif")
        assert "32 bits" in error_of(tmp_path / "x.tif")


def test_unreadable_and_irregular_files_are_named(tmp_path, monkeypatch) -> None:
    path = save(tmp_path / "secret.png")
    real = Image.open

    def forbidden(file, *arguments, **options):
        if Path(file) == path:
            raise PermissionError(13, "Permission denied", str(path))
        return real(file, *arguments, **options)

    monkeypatch.setattr(Image, "open", forbidden)  # file permissions do not stop root
    assert "cannot be opened (Permission denied)" in error_of(path)
    os.mkfifo(tmp_path / "pipe.png")
    assert "is not a regular file" in error_of(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    pictures = data.open_pictures([tmp_path])
    with pytest.raises(Unreadable, match="cannot be opened"):
        pictures.image([place.name for place in pictures.relative_paths].index("gone.png"))


def test_a_mask_file_or_a_folder_of_masks_by_name(tmp_path) -> None:
    mask = np.zeros((H, W), dtype=np.uint8)
    mask[1, 2] = 255
    for name in ("in/a.png", "in/b/a.jpg", "in/c.png"):
        save(tmp_path / name)
    for name in ("masks/a.png", "masks/b/a.png", "masks/d.png"):
        save(tmp_path / name, mask)
    (tmp_path / "masks" / "readme.txt").touch()
    pictures = data.open_pictures([tmp_path / "in"], mask=tmp_path / "masks")
    assert pictures.has_masks and pictures.unmatched == 1
    regions = [pictures.mask(i) for i in range(3)]
    assert [region.sum() for region in regions] == [1, 1, 0] and regions[0][1, 2]
    single = data.open_pictures([tmp_path / "in/c.png"], mask=tmp_path / "masks/d.png")
    assert single.mask(0).sum() == 1
    by_name = data.open_pictures([tmp_path / "in/a.png"], mask=tmp_path / "masks")
    assert by_name.mask(0).sum() == 1 and by_name.unmatched == 2


def test_masks_may_refer_to_upright_or_stored_pixels(tmp_path) -> None:
    upright = np.zeros((H, W), dtype=np.uint8)
    upright[0, 1] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    image = save(tmp_path / "a.jpg", np.ascontiguousarray(np.rot90(RGB)), exif=exif)
    for name, pixels in (("upright.png", upright), ("stored.png", np.rot90(upright))):
        region = data.open_pictures([image], mask=save(tmp_path / name, np.ascontiguousarray(pixels))).mask(0)
        assert np.array_equal(region, upright > 0), name


def test_invalid_regions_are_named(tmp_path) -> None:
    image, other = save(tmp_path / "a.png"), save(tmp_path / "in" / "b.png")
    small = save(tmp_path / "small.png", np.ones((2, 2), dtype=np.uint8))
    save(tmp_path / "small" / "a.png", np.ones((2, 2), dtype=np.uint8))
    several = data.open_pictures([image, other], mask=tmp_path / "small")
    with pytest.raises(Unreadable, match=r"a.png' has 6 x 4 pixels, but '.*small/a.png' is for 2 x 2"):
        several.mask(0)
    for options, expected in (
        ({"mask": small}, r"a.png' has 6 x 4 pixels, but '.*small.png' is for 2 x 2"),
        ({"box": (0, 0, 7, 4)}, "has 6 x 4 pixels; the box 0,0,7,4"),
        ({"box": (1, 1, 1, 3)}, "left and top before"),
        ({"box": (-1, 0, 3, 3)}, "left and top before"),
        ({"box": (1, 2, 3)}, "expected x0,y0,x1,y1"),
        ({"box": (0, 0, 1, 1), "mask": small}, "one of them"),
        ({"mask": tmp_path / "none.png"}, "no mask and no folder of masks"),
        ({"mask": other.parent}, "no mask in .* has the name of an image"),
    ):
        with pytest.raises(InputError, match=expected):
            data.open_pictures([image], **options)
    for options in ({"box": (0, 0, 1, 1)}, {"mask": small}):
        with pytest.raises(InputError, match="for 2 images"):
            data.open_pictures([image, other], **options)
    save(tmp_path / "masks/a.png"), save(tmp_path / "masks/a.bmp")
    with pytest.raises(InputError, match="two masks of one name"):
        data.open_pictures([image], mask=tmp_path / "masks")


def test_the_fingerprint_depends_on_the_files(tmp_path) -> None:
    image = save(tmp_path / "a.png")
    first = data.open_pictures([image]).fingerprint()
    assert data.open_pictures([image]).fingerprint() == first
    assert data.open_pictures([image], box=(0, 0, 1, 1)).fingerprint() != first
    save(image, GREY)
    assert data.open_pictures([image]).fingerprint() != first
