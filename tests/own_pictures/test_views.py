"""What a network is shown of a picture."""

import io

import numpy as np
import torch
from PIL import Image

from fewshot.decoding import decode
from fewshot.own_pictures.views import pixels_hash, side_for, squeezed, views


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


def test_all_of_a_picture_is_in_the_square() -> None:
    square = squeezed(halves(), 36, "bilinear")
    assert (square.shape, square.dtype) == ((3, 36, 36), np.uint8)
    assert square[:, 18, 2].tolist() == [200, 30, 30]
    assert square[:, 18, 33].tolist() == [30, 30, 200]
    assert squeezed(Image.new("RGB", (1, 1)), 36, "bicubic").shape == (3, 36, 36)


def test_views_are_the_whole_and_its_corners_and_these_mirrored() -> None:
    assert side_for(224) == 288
    x = torch.arange(2 * 3 * 9 * 9.0).view(2, 3, 9, 9)
    shown = views(x, 7)
    assert shown.shape == (2, 10, 3, 7, 7)
    for view, (top, left) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)], 1):
        assert torch.equal(shown[:, view], x[..., top : top + 7, left : left + 7])
    torch.testing.assert_close(shown[:, 0].mean((2, 3)), x.mean((2, 3)))
    assert torch.equal(shown[:, 5:], shown[:, :5].flip(-1))
