"""Letters of the typefaces that matplotlib ships, and their outlines; what `glyphs` draws from. Layer 1."""

import importlib.util
import math
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageFont
from torch.nn import functional as F

from fewshot.errors import FewshotError

# The first has every letter of the others. Left out: italics (another letter's outline: Cyrillic te becomes
# m), the cm faces (not in Unicode order), LastResort (a placeholder for every character).
FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral", "STIXGeneralBol"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
)
MIN_FACES = 3
MIN_EM = 0.4  # smaller glyphs are superscripts and points, whose outline is another's at a smaller size
# Words in the names of letters that differ from another in size, width or a second accent only.
LOOKALIKES = ("SMALL CAPITAL", "WIDE ", " AND ")
# Two letters are one class when of either less than DISTINCT pixels of ink lie farther than TOLERANCE pixels
# from the other's, both SIDE pixels large on a SHEET. Set by eye, on the pairs at the limit.
SHEET, SIDE, TOLERANCE, DISTINCT = 28, 20, 1.0, 7.0


class Letter(NamedTuple):
    char: str
    group: str  # its alphabet
    name: str
    faces: list[str]


def distinct_letters(alphabets: Mapping[str, str]) -> list[Letter]:
    """Letters and digits of MIN_FACES or more faces, one per outline: the first in the order of `alphabets`.

    alphabets: how a character's Unicode name begins -> its alphabet.
    """
    letters, drawn = [], []
    for letter in _candidates(alphabets):
        image = outline(letter.char, FACES[0], sheet=SHEET, side=SIDE)
        if image is not None:
            letters.append(letter)
            drawn.append(image)
    apart = _ink_apart(np.stack(drawn))  # [L, L]
    place = {letter.char: i for i, letter in enumerate(letters)}
    kept: list[int] = []
    for i, letter in enumerate(letters):
        capital = place.get(letter.char.upper(), i)
        # A small letter is drawn as large as its capital, so what is left between them is mostly weight.
        if (apart[i, kept] >= DISTINCT).all() and (capital == i or apart[i, capital] >= 2 * DISTINCT):
            kept.append(i)
    return [letters[i] for i in kept]


def outline(char: str, face: str, *, sheet: int, side: float, blur: float = 0.0) -> np.ndarray | None:
    """[sheet, sheet] uint8: a letter in the middle, `side` pixels large; None if it is tiny or blank."""
    font = _font(face, max(64, sheet))
    mask = font.getmask(char)
    image = Image.frombytes("L", mask.size, bytes(mask))
    box = image.getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) < MIN_EM * font.size:
        return None
    width, height = box[2] - box[0], box[3] - box[1]
    scale = side / max(width, height)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    page = Image.new("L", (sheet, sheet))
    fitted = image.resize(shape, Image.Resampling.BILINEAR, box)
    page.paste(fitted, ((sheet - shape[0]) // 2, (sheet - shape[1]) // 2))
    return np.asarray(page.filter(ImageFilter.GaussianBlur(blur)))


def _ink_apart(images: np.ndarray) -> np.ndarray:
    """[L, SHEET, SHEET] uint8 -> [L, L] pixels of ink of either letter that are not near the other's."""
    ink = torch.from_numpy(images).float() / 255
    reach = math.ceil(TOLERANCE)
    padded, near = F.pad(ink, (reach,) * 4), ink
    for y, x in product(range(2 * reach + 1), repeat=2):
        if math.hypot(y - reach, x - reach) <= TOLERANCE:
            near = torch.maximum(near, padded[:, y : y + SHEET, x : x + SHEET])
    far = (near < 0.5).float().flatten(1)
    apart = ink.flatten(1) @ far.T  # [L, L] ink of the row's letter, far from the column's
    return torch.maximum(apart, apart.T).numpy()


def _candidates(alphabets: Mapping[str, str]) -> Sequence[Letter]:
    """Letters and digits that enough faces have, in the order of `alphabets`, then of Unicode."""
    from fontTools.ttLib import TTFont  # comes with matplotlib

    faces: dict[str, list[str]] = {}
    for face in FACES:
        with TTFont(_folder() / f"{face}.ttf", lazy=True) as font:
            for code in font.getBestCmap():
                faces.setdefault(chr(code), []).append(face)
    found: dict[str, list[Letter]] = {group: [] for group in alphabets.values()}
    for char in sorted(c for c in faces if unicodedata.category(c) in ("Lu", "Ll", "Lo", "Nd")):
        full = unicodedata.name(char, "")
        prefix = next((p for p in alphabets if full.startswith(p)), None)
        if prefix and len(faces[char]) >= MIN_FACES and not any(word in full for word in LOOKALIKES):
            name = full.removeprefix(prefix).replace("LETTER ", "").lower()
            found[alphabets[prefix]].append(Letter(char, alphabets[prefix], name, faces[char]))
    return [letter for letters in found.values() for letter in letters]


@cache
def _font(face: str, pixels: int) -> ImageFont.FreeTypeFont:
    # Basic layout: the other needs a library that Pillow may lack, and shapes Arabic letters by context.
    return ImageFont.truetype(str(_folder() / f"{face}.ttf"), pixels, layout_engine=ImageFont.Layout.BASIC)


def _folder() -> Path:
    """matplotlib's folder of typefaces, found without importing matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise FewshotError("data set 'glyphs' needs matplotlib's typefaces; pip install matplotlib")
    return Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
