"""Letters that the figures' own typeface lacks: from another one that is installed, else a box. Layer 5."""

import logging
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

log = logging.getLogger("fewshot")
BOX = "\u25a1"  # a white square, for a letter that no installed typeface has
# Typefaces of many scripts that systems come with; others are looked through after these.
FIRST = ("Noto Sans", "Arial Unicode MS", "Microsoft YaHei", "PingFang", "Hiragino Sans", "WenQuanYi", "Droid Sans",
         "Nirmala UI", "Segoe UI", "Lohit", "FreeSans", "Unifont")  # fmt: skip


def give_letters(figure: Any) -> None:
    """Every text of a figure gets typefaces that have its letters. Those that none has become boxes, which is said."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter

    texts = figure.findobj(Text)
    axes = [axis for each in figure.axes for axis in (each.xaxis, each.yaxis)]
    named = [(axis, f) for axis in axes if isinstance(f := axis.get_major_formatter(), FixedFormatter)]
    lacking = frozenset(
        c for text in [*(t.get_text() for t in texts), *(label for _, f in named for label in f.seq)] for c in text
    ) - _letters(_own())
    lacking = frozenset(c for c in lacking if not unicodedata.category(c).startswith("C"))
    if not lacking:
        return
    families, missing = typefaces(lacking)
    _say(missing)
    boxes = str.maketrans(dict.fromkeys(missing, BOX))
    family = ["DejaVu Sans", *families]
    for text in texts:
        text.set_fontfamily(family)
        text.set_text(text.get_text().translate(boxes))
    for axis, formatter in named:
        axis.set_tick_params(labelfontfamily=family)
        formatter.seq = [label.translate(boxes) for label in formatter.seq]


@cache
def typefaces(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of installed typefaces that have these letters, as few as it takes, and the letters that none has."""
    found, left = [], letters
    for name, file in _installed():
        if not left:
            break
        if have := left & _letters(file):
            found.append(name)
            left -= have
    return tuple(found), left


def _installed() -> Iterator[tuple[str, str]]:
    """Name and file of the regular typefaces, the likeliest ones first."""
    from matplotlib.font_manager import fontManager

    faces = {f.name: f.fname for f in fontManager.ttflist if f.style == "normal" and f.name != "Last Resort"}
    yield from sorted(faces.items(), key=lambda face: (not face[0].startswith(FIRST), face[0]))


def _own() -> str:
    from matplotlib.font_manager import findfont

    return str(findfont("DejaVu Sans"))


@cache
def _letters(file: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(file).get_charmap()))
    except (OSError, RuntimeError):  # no typeface that can be read
        return frozenset()


@cache
def _say(missing: frozenset[str]) -> None:
    if missing:
        log.warning("%s", missing_line(missing))


def missing_line(missing: Iterable[str]) -> str:
    letters = sorted(missing)
    some = " ".join(letters[:5]) + (" ..." if len(letters) > 5 else "")
    return (
        f"figures show {BOX} for {len(letters)} letters that no installed typeface has ({some}); "
        f"install one that does, such as Noto Sans"
    )
