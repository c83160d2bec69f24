"""Picture files, decoded: one rule for every format, mode and size. Layer 1.

Whatever Pillow reads becomes 8-bit grey or 8-bit red, green, blue:
    - upright, by its EXIF orientation; of an animation the first frame;
    - a palette's or a 1-bit picture's values are the colours that they stand for; what is transparent shows white;
    - CMYK, YCbCr and HSV by Pillow's formulas, without colour profiles; colour becomes grey as ITU-R 601 luma;
    - 16-bit grey is divided by 257 and rounded (of 16-bit colour, Pillow itself keeps the upper byte);
    - floating point: 0 is black, 1 is white.
Refused: what is no picture, is damaged or cut off, has values outside of these ranges, or has more than MAX_PIXELS
pixels by its header, before anything is decoded.
"""

import contextlib
import io
import stat
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fewshot.errors import InputError

MAX_PIXELS = 178_956_970  # Pillow's own limit; 512 MiB as red, green, blue
LARGE = 1 << 24  # pixels; of pictures that are decoded at more, one at a time, so that threads do not add up
ORIENTATION = 0x0112  # of EXIF
HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # brands, ISO/IEC 23008-12
DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # grey, 0 to 65535

_one_large = threading.Lock()
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # at half the limit that holds here


def read(path: Path) -> bytes:
    """A file's content. InputError where it cannot be had."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would keep its reader waiting
            raise InputError(f"{path} cannot be read: it is not an ordinary file")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def decode(content: bytes, name: str, *, channels: int = 3) -> Image.Image:
    """A file's content as a picture of 1 channel (L) or 3 (RGB), by this file's rule; `name` is for errors.

    InputError with the reason where that is not possible.
    """
    return decode_reduced(content, name, channels=channels, at_least=None)[0]


def decode_reduced(
    content: bytes, name: str, *, channels: int, at_least: int | None
) -> tuple[Image.Image, tuple[float, float]]:
    """`decode`, and how many of the picture's pixels from the upper left are its width and height.

    at_least: a shorter side that is enough. A larger JPEG is then decoded at 1/2, 1/4 or 1/8 of its size, in a
    fraction of the time; width and height there may end within the last pixels. None: at its own size.
    """
    try:
        picture: Image.Image = Image.open(io.BytesIO(content))
        if picture.width * picture.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{picture.width}x{picture.height} pixels, above {MAX_PIXELS}")
        extent = _reduce(picture, at_least) if at_least is not None else None
        with _one_large if picture.width * picture.height > LARGE else contextlib.nullcontext():
            picture.load()
            picture = converted(picture, channels)
            return picture, extent or picture.size
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is too large: {' '.join(str(error).split()).rstrip('.')}; make it smaller") from error
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and "identify" in reason:
            reason = _no_picture(content)
        raise InputError(f"{name} cannot be read: {reason}") from error


def _reduce(picture: Image.Image, at_least: int) -> tuple[float, float] | None:
    """Have it decoded at a part of its size; width and height then, None where they are whole numbers.

    One that is turned later, and would not come out whole, is left as it is: its ragged sides would be others.
    """
    if min(picture.size) < 2 * at_least:
        return None
    turned = picture.getexif().get(ORIENTATION, 1) != 1
    if turned and any(side % 8 for side in picture.size):
        return None
    drafted = picture.draft(None, (at_least, at_least))  # its mode stays; only JPEG has this
    return None if turned or drafted is None else drafted[1][2:]


def _no_picture(content: bytes) -> str:
    if content[4:8] == b"ftyp" and content[8:12] in HEIC:
        return "it is HEIC, which Pillow does not read; convert it to JPEG"
    return "it is no picture" if content else "it is empty"


def converted(picture: Image.Image, channels: int) -> Image.Image:
    """Any picture, upright, as L (1 channel) or RGB (3). ValueError for values that this file's rule does not have."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in DEEP:
        picture = _eight_bits(picture, 65535)
    elif picture.mode == "F":
        picture = _eight_bits(picture, 1)
    if picture.has_transparency_data:
        paper = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(paper, picture.convert("RGBA"))
    return picture.convert("RGB" if channels == 3 else "L")


def _eight_bits(picture: Image.Image, white: int) -> Image.Image:
    values = np.asarray(picture, dtype=np.float64)
    if not (values.min() >= 0 and values.max() <= white):  # nan fails, too
        raise ValueError(f"its values are {values.min():g} to {values.max():g}, outside of 0 to {white}")
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))
