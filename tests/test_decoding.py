"""Files as people have them: broken, CMYK, 16 bits, palettes, animations, turned by EXIF, huge."""

import io
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot.decoding import decode, decode_reduced, read
from fewshot.errors import InputError

RED, BLUE, WHITE = (200, 30, 30), (30, 30, 200), (255, 255, 255)


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def halves(mode: str = "RGB", left: object = RED, right: object = BLUE) -> Image.Image:
    """40 x 20 pixels, its left and right half of one colour each."""
    picture = Image.new(mode, (40, 20), left)  # type: ignore[arg-type]
    picture.paste(right, (20, 0, 40, 20))  # type: ignore[arg-type]
    return picture


def of_values(values: list[float], dtype: str) -> Image.Image:
    return Image.fromarray(np.repeat(np.array(values, dtype), 20)[None].repeat(20, 0))


def grey(*values: int) -> list[tuple[int, int, int]]:
    return [(value,) * 3 for value in values]  # type: ignore[misc]


ANIMATED = encoded(halves(), "GIF", save_all=True, append_images=[halves(left=(0, 0, 0)), halves(right=(0, 0, 0))])
PALETTE = halves().convert("P", palette=Image.Palette.ADAPTIVE)
LEFT_CLEAR = encoded(PALETTE, transparency=PALETTE.getpixel((0, 0)))  # one entry of the palette is transparent
HALF_CLEAR = (204, 204, 204)  # black on white, a fifth of it


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(halves()), [RED, BLUE]),
        (encoded(halves("L", 10, 250)), grey(10, 250)),
        (encoded(halves("1", 0, 1)), grey(0, 255)),
        (encoded(PALETTE), [RED, BLUE]),
        (LEFT_CLEAR, [WHITE, BLUE]),
        (encoded(halves("RGBA", (0, 0, 0, 0), (9, 8, 7, 255))), [WHITE, (9, 8, 7)]),
        (encoded(halves("RGBA", (0, 0, 0, 51), (0, 0, 0, 255))), [HALF_CLEAR, (0, 0, 0)]),
        (encoded(halves("LA", (0, 51), (40, 255))), [HALF_CLEAR, (40, 40, 40)]),
        (encoded(of_values([0, 65535], "uint16")), grey(0, 255)),
        (encoded(of_values([100 * 257, 100 * 257 + 129], "uint16")), grey(100, 101)),
        (encoded(of_values([0, 65535], "int32"), "TIFF"), grey(0, 255)),
        (encoded(of_values([0.2, 1.0], "float32"), "TIFF"), grey(51, 255)),
        (ANIMATED, [RED, BLUE]),
        (encoded(halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 51)), "TIFF"), [(255, 0, 0), (204, 204, 204)]),
    ],
    ids=["rgb", "grey", "one bit", "palette", "palette, transparent", "alpha", "partly transparent", "grey, alpha",
         "16 bit", "16 bit, rounded", "32 bit", "float", "animated", "cmyk"],
)  # fmt: skip
def test_any_file_becomes_red_green_blue(content: bytes, expected: list[tuple[int, ...]]) -> None:
    picture = decode(content, "x")
    assert picture.mode == "RGB"
    assert [picture.getpixel((x, 2)) for x in (2, picture.width - 3)] == expected
    luma = [round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in expected]
    grey = decode(content, "x", channels=1)
    assert grey.mode == "L"
    assert [grey.getpixel((x, 2)) for x in (2, picture.width - 3)] == pytest.approx(luma, abs=1)


def test_cmyk_of_a_jpeg_keeps_its_colours() -> None:
    """Its values are stored inverted."""
    picture = decode(encoded(halves("CMYK", (0, 255, 255, 0), (255, 255, 0, 0)), "JPEG", quality=95), "x")
    assert picture.getpixel((2, 2)) == pytest.approx((255, 0, 0), abs=6)
    assert picture.getpixel((37, 2)) == pytest.approx((0, 0, 255), abs=6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_every_picture_upright(orientation: int) -> None:
    """The eight orientations of EXIF, as the standard names them: where row 0 and column 0 of the file belong."""
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(np.asarray(decode(content, "x", channels=1)), upright)


def test_one_pixel_is_a_picture() -> None:
    assert decode(encoded(Image.new("RGB", (1, 1), RED)), "x").getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("at_least", "size"), [(None, (800, 400)), (399, (800, 400)), (200, (400, 200)), (30, (100, 50))]
)
def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(at_least: int | None, size: tuple[int, int]) -> None:
    content = encoded(halves().resize((800, 400)), "JPEG", quality=95)
    picture, extent = decode_reduced(content, "x", channels=3, at_least=at_least)
    assert picture.size == extent == size
    assert picture.getpixel((5, 5)) == pytest.approx(RED, abs=3)
    assert picture.getpixel((size[0] - 5, 5)) == pytest.approx(BLUE, abs=3)
    assert decode_reduced(encoded(halves()), "x", channels=3, at_least=5)[1] == (40, 20)  # PNG has no such thing


@pytest.mark.parametrize(
    ("whole", "orientation", "size", "extent"),
    [
        ((801, 402), 1, (101, 51), (100.125, 50.25)),
        ((800, 400), 6, (50, 100), (50, 100)),  # turned by 90 degrees
        ((801, 402), 6, (402, 801), (402, 801)),
    ],
)
def test_where_a_reduced_jpeg_ends(
    whole: tuple[int, int], orientation: int, size: tuple[int, int], extent: tuple[float, float]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(halves().resize(whole), "JPEG", exif=exif)
    picture, found = decode_reduced(content, "x", channels=3, at_least=30)
    assert (picture.size, found) == (size, extent)


def bomb(side: int) -> bytes:
    """A PNG that says it is side x side and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.jpg cannot be read: it is empty"),
        (b"hello", "a.jpg cannot be read: it is no picture"),
        (encoded(halves(), "JPEG")[:20], "a.jpg cannot be read: "),
        (encoded(halves(), "JPEG")[:-40], "a.jpg cannot be read: image file is truncated"),
        (encoded(halves())[:-40], "a.jpg cannot be read: "),
        (bomb(60_000), "a.jpg is too large: "),
        (encoded(of_values([-1, 3], "int32"), "TIFF"), "its values are -1 to 3, outside of 0 to 65535"),
        (encoded(of_values([0, 65536], "int32"), "TIFF"), "its values are 0 to 65536, outside of 0 to 65535"),
        (encoded(of_values([0, 7], "float32"), "TIFF"), "its values are 0 to 7, outside of 0 to 1"),
        (encoded(of_values([0, np.nan], "float32"), "TIFF"), "its values are nan to nan, outside of 0 to 1"),
    ],
    ids=["empty", "text", "header only", "cut off", "png cut off", "bomb", "below 0", "above 16 bit", "float", "nan"],
)
def test_what_cannot_be_used_is_refused_in_one_line(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        decode(content, "a.jpg")
    assert "\n" not in str(raised.value)


def test_every_file_cut_off_anywhere_is_refused_or_a_picture() -> None:
    """Whatever Pillow raises on damage, it comes out as InputError."""
    for content in (encoded(halves(), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP")):
        for end in range(0, len(content), max(1, len(content) // 25)):
            try:
                assert decode(content[:end], "x").mode == "RGB"
            except InputError as error:
                assert str(error).startswith("x cannot be read: ")


def test_read_gives_what_an_ordinary_file_holds(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert read(tmp_path / "a") == b"abc"
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "not an ordinary file"), (".", "not an ordinary file"), ("b", "No such file")):
        with pytest.raises(InputError, match=f"cannot be read: .*{reason}"):
            read(tmp_path / name)
