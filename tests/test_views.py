"""Files as people have them: broken, CMYK, 16 bits, palettes, animations, turned by EXIF, huge."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot.errors import InputError
from fewshot.views import Size, decode, pixels_hash, views


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def halves(mode: str = "RGB", left: object = (200, 30, 30), right: object = (30, 30, 200)) -> Image.Image:
    picture = Image.new(mode, (40, 20), left)  # type: ignore[arg-type]
    picture.paste(right, (20, 0, 40, 20))  # type: ignore[arg-type]
    return picture


def corners(picture: Image.Image) -> list[tuple[int, ...]]:
    return [picture.getpixel((2, 2)), picture.getpixel((picture.width - 3, 2))]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(halves()), [(200, 30, 30), (30, 30, 200)]),
        (encoded(halves("L", 10, 250)), [(10, 10, 10), (250, 250, 250)]),
        (encoded(halves("1", 0, 1)), [(0, 0, 0), (255, 255, 255)]),
        (encoded(halves().convert("P", palette=Image.Palette.ADAPTIVE)), [(200, 30, 30), (30, 30, 200)]),
        (encoded(halves("RGBA", (0, 0, 0, 0), (9, 8, 7, 255))), [(255, 255, 255), (9, 8, 7)]),
        (encoded(Image.fromarray(np.repeat(np.uint16([[0, 65535]]), 4, 0).repeat(4, 1))), [(0,) * 3, (255,) * 3]),
        (encoded(Image.fromarray(np.full((9, 9), 25700, np.uint16))), [(100,) * 3, (100,) * 3]),
        (encoded(halves(), "GIF", save_all=True, append_images=[halves("RGB", (0, 0, 0), (0, 0, 0))]),
         [(200, 30, 30), (30, 30, 200)]),
    ],
    ids=["rgb", "grey", "one bit", "palette", "alpha", "16 bit", "16 bit middle", "animated"],
)  # fmt: skip
def test_any_file_becomes_rgb(content: bytes, expected: list[tuple[int, ...]]) -> None:
    picture = decode(content, "x")
    assert picture.mode == "RGB"
    for found, wanted in zip(corners(picture), expected, strict=True):
        assert found == pytest.approx(wanted, abs=2)


def test_cmyk_keeps_its_colours() -> None:
    picture = decode(encoded(halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "JPEG", quality=95), "x")
    left, right = corners(picture)
    assert left[0] > 200 > 60 > left[2]
    assert right[2] > 200 > 60 > right[0]


def test_exif_turns_the_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is at the right
    picture = decode(encoded(halves(), "JPEG", quality=95, exif=exif), "x")
    assert picture.size == (20, 40)
    assert picture.getpixel((10, 3))[0] > 150  # type: ignore[index]


def bomb(side: int) -> bytes:
    """A PNG that says it is side x side and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.jpg cannot be read: it is no picture"),
        (b"hello", r"a\.jpg cannot be read: it is no picture"),
        (encoded(halves(), "JPEG")[:300], r"a\.jpg cannot be read: .*"),
        (bomb(60_000), r"a\.jpg is too large: .*pixels.*; make it smaller"),
    ],
    ids=["empty", "text", "cut off", "bomb"],
)
def test_what_is_no_picture_is_one_line(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        decode(content, "a.jpg")
    assert "\n" not in str(raised.value)


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
    assert shown.dtype == torch.uint8
    assert torch.equal(shown[1], shown[0].flip(-1))
    assert torch.equal(shown[3], shown[2].flip(-1))
    assert shown[0, :, 10, 1].tolist() == [200, 30, 30]
    assert shown[2, :, 10, 1].tolist() == [0, 255, 0]
    assert views(Image.new("RGB", (1, 1)), Size(crop=20, resize=23), "bicubic").shape == (4, 3, 20, 20)
