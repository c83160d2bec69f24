"""Pictures of any kind become the images that a model was trained on."""

import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewshot.datasets.omniglot import shrink
from fewshot.errors import InputError
from fewshot.pictures import AHEAD, BATCH, Pictures

GREY = Pictures(image_shape=(1, 8, 8), side=8)
COLOUR = Pictures(image_shape=(3, 8, 8), side=8)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_images_of_the_right_size_stay_what_they_are() -> None:
    grey, colour = noise(5, 8, 8), noise(4, 8, 8, 3)
    assert np.array_equal(GREY.read(grey).numpy(), grey[:, None])
    assert np.array_equal(GREY.read(grey[:, None]).numpy(), grey[:, None])  # [C, H, W]
    assert np.array_equal(GREY.read(grey[..., None]).numpy(), grey[:, None])  # [H, W, C]
    assert np.array_equal(COLOUR.read(colour).numpy(), colour.transpose(0, 3, 1, 2))
    assert np.array_equal(COLOUR.read(colour.transpose(0, 3, 1, 2)).numpy(), colour.transpose(0, 3, 1, 2))


def test_a_file_its_picture_and_its_array_are_the_same(tmp_path: Path) -> None:
    pixels = noise(20, 30, 3)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "a.png")
    made = COLOUR.read([tmp_path / "a.png", str(tmp_path / "a.png"), picture, pixels])
    assert made.shape == (4, 3, 8, 8)
    assert all((image == made[0]).all() for image in made)


def test_the_middle_square_is_resized_and_its_middle_cut_out() -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = np.repeat(np.arange(10, dtype=np.uint8) * 20, 10).reshape(10, 10)
    found = Pictures(image_shape=(1, 6, 6), side=10).read([wide])[0, 0]
    assert found.tolist() == wide[2:8, 12:18].tolist()


@pytest.mark.parametrize("resize", ["nearest", "antialias"])
@pytest.mark.parametrize("invert", [True, False])
def test_drawings_become_what_omniglot_makes_of_them(resize: str, invert: bool) -> None:
    drawing = Image.fromarray((noise(105, 105) > 200).astype(np.uint8) * 255).convert("1")
    pictures = Pictures(image_shape=(1, 28, 28), side=28, resize=resize, inverted=invert)
    assert np.array_equal(pictures.read([drawing])[0, 0].numpy(), shrink(drawing, 28, resize, invert))


def test_squash_keeps_all_of_the_picture() -> None:
    """Of a row of three squares, the crop is the middle one and the squash has a third of each."""
    three = np.repeat(np.uint8([[0, 100, 200]]), 6, 1).repeat(6, 0)  # 6 x 18
    shapes = {"image_shape": (1, 6, 6), "side": 6, "resize": "nearest"}
    assert Pictures(**shapes).read([three])[0, 0].unique().tolist() == [100]  # type: ignore[arg-type]
    squashed = Pictures(**shapes, fit="squash").read([three])[0, 0]  # type: ignore[arg-type]
    assert squashed.tolist() == [[0, 0, 100, 100, 200, 200]] * 6
    with pytest.raises(InputError, match="fit=stretch is unknown; choose crop or squash"):
        Pictures(image_shape=(1, 6, 6), side=6, fit="stretch")


def test_each_gives_images_and_reasons_in_the_order_of_the_files(tmp_path: Path) -> None:
    """More files than the threads take at a time; every seventh is no picture."""
    count = 3 * BATCH * (AHEAD + 1) * len(os.sched_getaffinity(0)) + 1
    paths = [tmp_path / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_text("no picture") if i % 7 == 6 else Image.new("L", (1, 1), i % 256).save(path)
    found = list(Pictures(image_shape=(1, 2, 2), side=2).each(paths))
    assert [f"{paths[i]} cannot be read: it is no picture" for i in range(6, count, 7)] == found[6::7]
    kept = [i for i in range(count) if i % 7 != 6]
    assert all((found[i] == i % 256).all() for i in kept)
    assert list(Pictures(image_shape=(1, 2, 2), side=2).each([])) == []


@pytest.mark.parametrize("name", ["china", "flower"])
@pytest.mark.parametrize("side", [84, 50, 20])  # of a photograph of 640x427, decoded at 1/2, 1/4 and 1/8
def test_a_jpeg_decoded_in_part_differs_by_less_than_resampling_does(name: str, side: int) -> None:
    """From what another good filter makes of all its pixels the whole picture's image is further away."""
    file = Path(str(resources.files("sklearn.datasets.images") / f"{name}.jpg"))
    bilinear, bicubic = (Pictures(image_shape=(3, side, side), side=side, resize=r) for r in (None, "bicubic"))
    whole, other = (p.read([Image.open(file)]).double() for p in (bilinear, bicubic))
    in_part = bilinear.read([file]).double()
    assert 0 < (in_part - whole).square().mean() < (other - whole).square().mean()


def test_modes(tmp_path: Path) -> None:
    """Transparent pictures lie on white paper; a palette, CMYK and an orientation are resolved."""
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    of_colours = [clear, red, red.convert("P"), red.convert("CMYK")]
    assert COLOUR.read(of_colours)[:, :, 0, 0].tolist() == [[255, 255, 255], [255, 0, 0], [255, 0, 0], [255, 0, 0]]
    turned = Image.fromarray(noise(8, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # by 180 degrees
    turned.save(tmp_path / "t.png", exif=exif)
    assert GREY.read([tmp_path / "t.png"])[0, 0].tolist() == noise(8, 8)[::-1, ::-1].tolist()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images; give a list of paths"),
        (["nowhere.png"], "image 0, nowhere.png cannot be read: "),
        ([np.zeros((4, 4))], "image 0 is a ndarray of float64; give a path, a PIL image or a uint8 array"),
        ([noise(4, 4), noise(4, 4, 2)], "image 1 has the shape [4, 4, 2]; expected [H, W]"),
        ([noise(0, 4)], "image 0 has the shape [0, 4]"),
        ([None], "image 0 is a NoneType of object"),
    ],
)
def test_refused(images: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        GREY.read(images)


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match=r"image 0, .*a\.png cannot be read: it is no picture"):
        GREY.read([tmp_path / "a.png"])
