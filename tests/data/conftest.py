"""Fixtures of the tests of region data: they write images, and return the one-line error of wrong input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from regard import data
from regard.errors import InputError


@pytest.fixture
def write_image():
    """Writes an RGB image of noise, (width, height) as stored, and returns its pixels as stored."""

    def write(path, size=(12, 8), *, seed=0, orientation=None, pixels=None, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        if pixels is None:
            pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        if orientation is not None:
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = orientation
        Image.fromarray(pixels).save(path, **options)
        return pixels

    return write


@pytest.fixture
def write_mask():
    """Writes an array as a picture: booleans as black and white, numbers as they are."""

    def write(path, values, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.asarray(values)
        Image.fromarray(values.astype(np.uint8) * 255 if values.dtype == bool else values).save(path, **options)

    return write


@pytest.fixture
def write_json():
    def write(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.fixture
def refused():
    """Opens a source that must be refused, and returns the one-line error message."""

    def open_refused(source, **options):
        with pytest.raises(InputError) as caught:
            data.open_regions(source, **options)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 900
        return message

    return open_refused
