"""Maps of an episode's embeddings, for MAML and its relatives before and after adaptation. Layer 5."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fewshot.printable import printable
from fewshot.report.style import COLOURS, INK, MUTED, RULE, styled
from fewshot.shown import ShownEpisode
from fewshot.text import shortened

SIDE = 3.5  # inches of a map
NAMED, LONGEST = 10, 24  # classes with their names beside the maps, and letters of a name
LETTER = 0.07  # inches that one takes
BEFORE, AFTER = "before adaptation", "after adaptation"


def maps(shown: ShownEpisode) -> list[tuple[str, ShownEpisode]]:
    """What can be mapped, each with its title: one map without a title where embeddings do not adapt to the task."""
    if shown.support_z0 is None or shown.query_z0 is None or shown.means0 is None:
        return [("", shown)]
    earlier = replace(shown, support_z=shown.support_z0, query_z=shown.query_z0, means=shown.means0)
    return [(BEFORE, earlier), (AFTER, shown)]


def draw_embedding(chosen: Sequence[tuple[str, ShownEpisode]], title: str = "", *, legend: bool = True) -> Any:
    """A Figure with a map for each of `maps`: the two directions in which the embeddings vary most, on one scale.

    Each query is tied to the mean of its own class; right and wrong are those of the test, after adaptation.
    """
    from matplotlib.figure import Figure

    with styled():
        handles = _legend(chosen[0][1].names.tolist()) if legend else []
        beside = 0.4 + LETTER * max((len(handle.get_label()) for handle in handles), default=0)
        figure = Figure(figsize=(SIDE * len(chosen) + beside * legend, SIDE + 0.3 * bool(title)))
        panels = figure.subplots(1, len(chosen), squeeze=False)[0]
        if title:
            figure.suptitle(printable(title), fontsize=9, x=0.01, ha="left", color=INK)
        for axes, (heading, shown) in zip(panels, chosen, strict=True):
            _draw(axes, shown)
            axes.set_title(heading, fontsize=9, color=INK)
        if legend:
            figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8, labelcolor=INK,
                          handletextpad=0.2)  # fmt: skip
    return figure


def _legend(names: Sequence[str]) -> list[Any]:
    """The marks, and of few classes the names."""
    from matplotlib.lines import Line2D

    kinds: list[tuple[str, dict[str, Any]]] = [
        ("class mean", {"marker": "o", "markersize": 10}),
        ("support", {"marker": "s", "markersize": 5, "markerfacecolor": "none"}),
        ("query", {"marker": "o", "markersize": 4}),
        ("wrong query", {"marker": "x", "markersize": 6, "markeredgewidth": 1.8}),
    ]
    marks = [Line2D([], [], color=MUTED, linestyle="none", label=name, **style) for name, style in kinds]
    return marks + [
        Line2D([], [], color=COLOURS[n % len(COLOURS)], linestyle="none", marker="o", markersize=8,
               label=f"{n + 1} {shortened(printable(name), LONGEST)}")
        for n, name in enumerate(names if len(names) <= NAMED else ())
    ]  # fmt: skip


def _draw(axes: Any, shown: ShownEpisode) -> None:
    means, support, query, parts = principal(shown)
    for n in range(len(shown.names)):
        colour = COLOURS[n % len(COLOURS)]
        mine, right = query[shown.query_y == n], shown.right[shown.query_y == n]
        for x, y in mine:
            axes.plot([x, means[n, 0]], [y, means[n, 1]], color=colour, linewidth=0.5, alpha=0.5, zorder=1)
        shapes: list[tuple[np.ndarray, dict[str, Any]]] = [
            (support[shown.support_y == n], {"marker": "s", "markersize": 5, "markerfacecolor": "none"}),
            (mine[right], {"marker": "o", "markersize": 4}),
            (mine[~right], {"marker": "x", "markersize": 6, "markeredgewidth": 1.8}),
        ]
        for points, style in shapes:
            axes.plot(points[:, 0], points[:, 1], color=colour, linestyle="none", zorder=2, **style)
        box = {"boxstyle": "circle,pad=0.2", "facecolor": colour, "edgecolor": "none"}
        axes.text(means[n, 0], means[n, 1], f"{n + 1}", ha="center", va="center", fontsize=8, color="white",
                  weight="bold", zorder=5, bbox=box)  # fmt: skip
    axes.set_xlabel(f"first principal direction ({parts[0]:.0f} % of the variance)")
    axes.set_ylabel(f"second ({parts[1]:.0f} %)")
    axes.set(xticks=[], yticks=[])
    axes.margins(0.08)
    axes.set_aspect("equal", adjustable="datalim")  # what is near in the map is near in its plane
    axes.spines[["left", "bottom"]].set_color(RULE)


def principal(shown: ShownEpisode) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Class means [N, 2], support and query embeddings on the two first principal directions of support and query,
    and the percentage of the variance in each direction [2] (0 where all embeddings are the same).

    ValueError where an embedding is not finite.
    """
    z = np.concatenate([shown.support_z, shown.query_z]).astype(np.float64)
    if not np.isfinite(z).all():
        raise ValueError("its embeddings are not finite")
    centre = z.mean(0)
    _, size, directions = np.linalg.svd(z - centre, full_matrices=False)
    axes = np.zeros((2, z.shape[1]))
    axes[: len(directions[:2])] = directions[:2]  # an embedding may have one dimension
    variance = np.zeros(2)
    variance[: len(size[:2])] = size[:2] ** 2
    total = (size**2).sum()
    share = 100 * variance / total if total > 0 else variance
    means, support, query = ((x - centre) @ axes.T for x in (shown.means, shown.support_z, shown.query_z))
    return means, support, query, share
