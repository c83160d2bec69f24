"""Pictures of episodes. Layer 5."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fewshot.episode import Episode
from fewshot.printable import printable
from fewshot.report.style import INK, MUTED, RIGHT, WRONG, styled
from fewshot.shown import ShownEpisode
from fewshot.text import columns, shortened

GAP = 0.12  # between two images, in their width
BREAK = 0.6  # between support and query
EDGE = 0.1  # for frames that reach over
LETTER = 0.066  # inches that a letter of a class's name takes
LONGEST = 32  # letters of a name
SMALL = 10  # from so many ways the images are drawn smaller


def draw_episodes(batch: Episode, class_names: Sequence[str], title: str) -> Any:
    """A matplotlib Figure: one block per episode, a row per class, its support images left of its queries."""
    ways = batch.classes.shape[1]
    support, query = (x.cpu().numpy() for x in (batch.support_x, batch.query_x))
    names = [_shown([class_names[c] if c >= 0 else "" for c in classes]) for classes in batch.classes.tolist()]
    with styled():
        figure, blocks = _laid_out(title, names, (support.shape[1] + query.shape[1]) // ways, heading=0.25)
        for task, axes in enumerate(blocks):
            _draw(axes, names[task], _bytes(support[task]), _bytes(query[task]))
            axes.set_title(f"episode {task}", fontsize=8, color=MUTED, pad=16)
    return figure


def blanked(batch: Episode) -> Episode:
    """The same episodes with what they do not have, where they differ in size, as blank paper."""
    paper = 0.0 if batch.support_x.shape[2] == 1 else 1.0
    x = [x.masked_fill((y < 0)[..., None, None, None], paper)
         for x, y in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y))]  # fmt: skip
    return batch._replace(support_x=x[0], query_x=x[1])


def draw_shown(shown: ShownEpisode, title: str) -> Any:
    """A Figure of one episode of a test: each wrong query is framed and says which class it was taken for."""
    names, count = _shown(shown.names), (len(shown.support_x) + len(shown.query_x)) // len(shown.names)
    with styled():
        figure, (axes,) = _laid_out(title, [names], count)
        _draw(axes, names, shown.support_x, shown.query_x, shown.predicted)
    return figure


def _shown(names: Iterable[str]) -> list[str]:
    return [shortened(printable(name), LONGEST) for name in names]


def _laid_out(title: str, names: Sequence[Sequence[str]], count: int, heading: float = 0.0) -> tuple[Any, list[Any]]:
    """A figure with axes for a block of images per list of names, one above the other: all sizes are known, in inches.

    count: images in a row. heading: what a block's own title needs.
    """
    from matplotlib.figure import Figure  # late: half a second

    ways = len(names[0])
    tile = 0.5 if ways < SMALL else 0.36
    left = 0.35 + LETTER * max(columns(name) for block in names for name in block)
    wide, high = tile * (EDGE + count * (1 + GAP) + BREAK), tile * (EDGE + ways * (1 + GAP))
    width, above = max(left + wide + 0.1, 4.0 * bool(title)), 0.3 + heading  # above a block: its words, its own title
    top = 0.25 * bool(title)
    height = top + len(names) * (above + high)
    figure = Figure(figsize=(width, height))
    figure.set_layout_engine("none")
    figure.text(0.1 / width, 1 - 0.08 / height, printable(title), fontsize=9, color=INK, va="top")
    bottoms = [height - top - (i + 1) * (above + high) for i in range(len(names))]
    return figure, [figure.add_axes((left / width, b / height, wide / width, high / height)) for b in bottoms]


def _bytes(x: np.ndarray) -> np.ndarray:
    return (x * 255).round().astype(np.uint8)


def _draw(
    axes: Any,
    names: Sequence[str],
    support: np.ndarray,
    query: np.ndarray,
    predicted: np.ndarray | None = None,
) -> None:
    """Images [N*K, C, H, W] and [N*Q, C, H, W] uint8, in units of one image; row n is class n + 1."""
    ways, step = len(names), 1 + GAP
    shots, queries = len(support) // ways, len(query) // ways
    start = shots * step + BREAK  # of the queries
    for images, first, each in ((support, 0.0, shots), (query, start, queries)):
        mosaic = _mosaic(images, ways)
        extent = (first, first + each * step, ways * step, 0.0)
        axes.imshow(mosaic, extent=extent, interpolation="nearest", aspect="equal")
    for row, name in enumerate(names):
        middle = row * step + 0.5
        axes.text(-0.2, middle, f"{name}\u2002{row + 1}", ha="right", va="center", fontsize=8, color=INK)
    for text, x in (("support", 0.0), ("query", start)):
        axes.text(x, -0.15, text, ha="left", va="bottom", fontsize=8, color=MUTED)
    if predicted is not None:
        _mark(axes, predicted.reshape(ways, queries), start, step)
    axes.set(xlim=(-EDGE, start + queries * step), ylim=(ways * step, -EDGE))
    axes.set_axis_off()


def _mosaic(images: np.ndarray, ways: int) -> np.ndarray:
    """[N*M, C, H, W] uint8 -> RGBA, a row per class; the gaps are transparent. One channel is ink on paper."""
    count, channels, height, width = images.shape
    side = max(height, width)
    full, top, left = side + round(side * GAP), (side - height) // 2, (side - width) // 2
    tiles = np.zeros((count, full, full, 4), np.uint8)
    pixels = 255 - images.repeat(3, 1) if channels == 1 else images[:, :3]
    place = tiles[:, top : top + height, left : left + width]
    place[..., :3] = pixels.transpose(0, 2, 3, 1)
    place[..., 3] = 255
    rows = tiles.reshape(ways, count // ways, *tiles.shape[1:])  # [N, M, h, w, 4]
    return rows.transpose(0, 2, 1, 3, 4).reshape(ways * tiles.shape[1], -1, 4)


def _mark(axes: Any, predicted: np.ndarray, start: float, step: float) -> None:
    """A thin frame where the query was right; a thick one and the class it was taken for where it was wrong."""
    from matplotlib.patches import Rectangle

    ways, queries = predicted.shape
    for row in range(ways):
        for column in range(queries):
            x, y, label = start + column * step, row * step, int(predicted[row, column])
            right = label == row
            colour, width = (RIGHT, 0.8) if right else (WRONG, 2.0)
            axes.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor=colour, linewidth=width))
            if not right:
                box = {"boxstyle": "square,pad=0.18", "facecolor": WRONG, "edgecolor": "none"}
                axes.text(x + 0.94, y + 0.94, f"{label + 1}", ha="right", va="bottom", fontsize=6.5, color="white",
                          weight="bold", bbox=box)  # fmt: skip
