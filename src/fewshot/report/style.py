"""The style of all pictures: colours that colour-blind readers can tell apart, thin axes, labels beside lines. Layer 5.

matplotlib is imported late everywhere: half a second.
"""

import base64
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fewshot.errors import InputError
from fewshot.printable import printable
from fewshot.report.fonts import give_letters

# Okabe & Ito (2008), Color Universal Design, without yellow and black; each has a lighter variant for dark pages.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "os^DvP"
RIGHT, WRONG = "#009e73", "#d55e00"
INK, MUTED, RULE, PAGE = "#1b1b1a", "#6b6b69", "#dddddb", "#fefefe"
# In a page's SVG each of these becomes a CSS variable, so that one picture serves light and dark readers.
VARIABLES = {colour: f"c{i}" for i, colour in enumerate(COLOURS)} | {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAGE: "page",
}

MOST_PIXELS = 1 << 16  # a side of a picture; few programs show a larger one

RC: dict[str, Any] = {
    "font.size": 9, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "text.color": INK,
    "axes.titlesize": 9, "axes.titlelocation": "left", "axes.titlecolor": INK, "axes.labelsize": 9,
    "axes.labelcolor": MUTED, "axes.edgecolor": MUTED, "axes.linewidth": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True,
    "axes.facecolor": "none", "figure.facecolor": PAGE, "grid.color": RULE, "grid.linewidth": 0.6,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "xtick.major.size": 3, "ytick.major.size": 0, "xtick.major.width": 0.6, "lines.linewidth": 1.6,
    "svg.fonttype": "none", "text.parse_math": False,
    "savefig.facecolor": "auto", "figure.constrained_layout.use": True,
}  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """Figures made and saved inside look alike, whatever the user's matplotlibrc says."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)  # type: ignore[arg-type]
        with warnings.catch_warnings():  # of letters, which `give_letters` and a browser care for, and of narrow axes
            warnings.simplefilter("ignore", UserWarning)
            yield


def png(figure: Any, *, dpi: int = 130) -> bytes:
    """A file that can be looked at anywhere, on a white page. InputError where it would have more than MOST_PIXELS."""
    file = io.BytesIO()
    width, height = (round(dpi * inches) for inches in figure.get_size_inches())
    if max(width, height) > MOST_PIXELS:
        raise InputError(f"the picture would have {width}x{height} pixels, more than {MOST_PIXELS} a side; draw less")
    with styled():
        give_letters(figure)
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def svg(figure: Any, title: str) -> str:
    """An <svg> element for a page: its colours are the page's variables, `title` is what a screen reader says.

    Its letters are set by the browser, which has all typefaces; photos are stored as WebP.
    """
    file = io.StringIO()
    figure.patch.set_visible(False)
    with styled():
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"data:image/png;base64,([^\"]+)", lambda match: _smaller(match[1]), text)
    text = re.sub("|".join(VARIABLES), lambda match: f"var(--{VARIABLES[match[0]]})", text)
    text = re.sub(r' (?:d|x|y)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), text)  # fine enough
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)  # the page's own typeface
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
    size = f'viewBox="0 0 {width} {height}" style="--width:{float(width):.0f}pt"'
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    opening = f'<svg role="img" aria-label="{_escaped(title)}" {size} {names}'
    return re.sub(r"<svg[^>]*", lambda _: opening, text, count=1)


def _smaller(png_base64: str) -> str:
    """A data URI of an image; of a photo, whose PNG takes over twice as much, as WebP."""
    from PIL import Image, features

    data = base64.b64decode(png_base64)
    if features.check("webp"):
        file = io.BytesIO()
        Image.open(io.BytesIO(data)).save(file, "WEBP", quality=70)
        if file.tell() < len(data) / 2:
            return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _escaped(text: str) -> str:
    return printable(text).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def apart(values: Sequence[float], least: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """The values moved as little as is needed for neighbours to be `least` apart, in their own order; between low and
    high, where there is room."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    blocks: list[list[int]] = []
    centres: list[float] = []
    for i in order:  # neighbours that touch become a block around their common centre
        blocks.append([i])
        centres.append(values[i])
        while len(blocks) > 1 and centres[-1] - centres[-2] < least * (len(blocks[-1]) + len(blocks[-2])) / 2:
            last = blocks.pop()
            blocks[-1] += last
            centres.pop()
            centres[-1] = sum(values[j] for j in blocks[-1]) / len(blocks[-1])
    placed = list(values)
    for block, centre in zip(blocks, centres, strict=True):
        for k, i in enumerate(block):
            placed[i] = centre + least * (k - (len(block) - 1) / 2)
    for i in reversed(order):
        placed[i] = high = min(placed[i], high)
        high -= least
    for i in order:
        placed[i] = low = max(placed[i], low)
        low += least
    return placed


def name_lines(axes: Any, ends: Sequence[tuple[float, str, str]]) -> None:
    """Words at the right edge instead of a legend: (y, text, colour) of each line's end."""
    if not ends:
        return
    low, high = axes.get_ylim()
    height = axes.figure.get_size_inches()[1] * axes.get_position().height * 72  # points
    places = apart([y for y, _, _ in ends], (high - low) * 10 / max(height, 1), low, high)
    for (_, text, colour), y in zip(ends, places, strict=True):
        axes.annotate(text, (1, y), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
                      color=colour, fontsize=8, va="center", annotation_clip=False)  # fmt: skip


def whole_steps(axes: Any) -> None:
    """Ticks of the x axis at whole numbers, thousands as `20k`."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if abs(x) >= 10_000 else f"{x:g}")


def usual_range(axes: Any) -> None:
    """Lets the start of a loss that is far above all the rest leave the axis at the top: it would flatten the rest."""
    curves = [line.get_ydata() for line in axes.lines if len(line.get_ydata())]
    start = max((max(y) for y in curves), default=1.0)
    rest = max((max(y[len(y) // 20 :]) for y in curves), default=1.0)
    if math.isfinite(rest) and start > 2 * rest:
        axes.set_ylim(top=1.1 * rest)
        axes.annotate(f"starts at {start:.3g}", (0, 1), xycoords="axes fraction", xytext=(14, -2),
                      textcoords="offset points", color=MUTED, fontsize=8, va="top")  # fmt: skip
