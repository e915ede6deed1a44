"""Images overlaid with CAMs and the edges of focus and region."""

import base64
import io

import numpy as np
from PIL import Image

from regard.report.overlay import FOCUS, INSIDE, OUTSIDE, data_uri, draw


def test_small_images_are_enlarged_and_large_ones_reduced() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(draw(image), image.repeat(4, 0).repeat(4, 1))
    large = np.zeros((300, 600, 3), dtype=np.uint8)
    assert draw(large, np.ones((300, 600)), np.eye(300, 600, dtype=bool), 0.5, size=160).shape == (80, 160, 3)
    assert draw(large).shape == large.shape and draw(large[:80, :80], size=160).shape == (80, 80, 3)


def test_edges_have_their_colours_on_any_image() -> None:
    region = np.zeros((70, 70), dtype=bool)
    region[30:60, 30:60] = True
    cam = np.zeros((70, 70))
    cam[10:20, 10:20] = 1
    for background in (0, 128, 255):
        image = np.full((70, 70, 3), background, dtype=np.uint8)
        picture = draw(image, cam, region, 0.5)
        assert (picture[30, 30:60] == INSIDE).all() and (picture[29, 30:60] == OUTSIDE).all()
        assert (picture == FOCUS).all(2).sum() == 4 * 9
        assert not (draw(image, 0 * cam, None, 0.5) == FOCUS).all(2).any()
        assert np.array_equal(draw(image)[40, 40], image[40, 40])


def test_higher_map_values_are_brighter() -> None:
    cam = np.linspace(0, 1, 70)[None].repeat(70, 0)
    cam[0, 0] = np.nan
    picture = draw(np.full((70, 70, 3), 100, dtype=np.uint8), cam)
    assert (np.diff(picture[1].astype(float) @ [0.299, 0.587, 0.114]) >= 0).all()


def test_data_uris_hold_the_pixels() -> None:
    for side, form in ((32, "png"), (300, "jpeg")):
        pixels = draw(np.full((side, side, 3), 90, dtype=np.uint8))
        start, _, code = data_uri(pixels).partition(",")
        assert start == f"data:image/{form};base64"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))), pixels)
