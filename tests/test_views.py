"""What a network is shown of a picture."""

import io

import numpy as np
from PIL import Image

from fewshot.decoding import decode
from fewshot.views import Size, pixels_hash, views


def encoded(picture: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def halves() -> Image.Image:
    picture = Image.new("RGB", (40, 20), (200, 30, 30))
    picture.paste((30, 30, 200), (20, 0, 40, 20))
    return picture


def test_the_hash_is_of_the_pixels() -> None:
    one, other = (decode(encoded(halves(), kind), "x") for kind in ("PNG", "BMP"))
    assert pixels_hash(one) == pixels_hash(other)
    assert pixels_hash(one) != pixels_hash(one.transpose(Image.Transpose.ROTATE_90))


def test_views_are_centre_and_whole_and_both_mirrored() -> None:
    """The middle 20 x 20 of 40 x 20 is half and half, and so is the whole; the outer quarters are in the whole only."""
    picture = halves()
    picture.paste((0, 255, 0), (0, 0, 10, 20))
    shown = views(picture, Size(crop=20, resize=20), "bilinear")
    assert shown.shape == (4, 3, 20, 20)
    assert shown.dtype == np.uint8
    assert np.array_equal(shown[1], shown[0][..., ::-1])
    assert np.array_equal(shown[3], shown[2][..., ::-1])
    assert shown[0, :, 10, 1].tolist() == [200, 30, 30]
    assert shown[2, :, 10, 1].tolist() == [0, 255, 0]
    assert views(Image.new("RGB", (1, 1)), Size(crop=20, resize=23), "bicubic").shape == (4, 3, 20, 20)
