"""Charts with a row for each setting: the accuracies of many settings, published beside own. Layer 5."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from fewshot.printable import printable
from fewshot.report.groups import Group
from fewshot.report.settings import value_of
from fewshot.report.style import COLOURS, INK, MARKERS, MUTED, PAGE, styled
from fewshot.text import shortened

WIDTH, ROW = 4.0, 0.2  # inches of one panel, and of a row's height
LONGEST = 26  # letters of a name


def short(name: str) -> str:
    """A name as a chart has room for it: of a long one the first parts."""
    parts = printable(name).split(", ")
    while len(parts) > 1 and len(", ".join(parts)) > LONGEST:
        parts.pop()
    said = ", ".join(parts)
    return shortened(said if said == printable(name) else f"{said} …", LONGEST + 2)


def by_mean(groups: Sequence[Group], names: Sequence[str]) -> list[str]:
    """Each name once, that of the highest mean accuracy first."""
    accuracies: dict[str, list[float]] = {}
    for group, name in zip(groups, names, strict=True):
        accuracies.setdefault(name, []).append(group.accuracy)
    return sorted(accuracies, key=lambda name: -fmean(accuracies[name]))


def draw_rows(groups: Sequence[Group], names: Sequence[str], axis: str) -> Any:
    """A matplotlib Figure of accuracies, the best on average on top; a colour and a mark for each value of `axis`."""
    from matplotlib.figure import Figure

    values = sorted({value_of(g, axis) for g in groups})
    order = by_mean(groups, names)
    with styled():
        figure = Figure(figsize=(WIDTH, 0.9 + ROW * len(order)))
        axes = figure.subplots()
        for i, value in enumerate(values):
            chosen = [(g, order.index(n)) for g, n in zip(groups, names, strict=True) if value_of(g, axis) == value]
            axes.errorbar([g.accuracy for g, _ in chosen], [row for _, row in chosen],
                          xerr=[g.ci95 or 0.0 for g, _ in chosen], color=COLOURS[i % len(COLOURS)],
                          marker=MARKERS[i % len(MARKERS)], markersize=4.5, linestyle="none", capsize=2, elinewidth=1,
                          label=printable(f"{axis} {value:g}"))  # fmt: skip
        _list(axes, [short(name) for name in order])
        figure.legend(loc="outside upper left", ncols=len(values), frameon=False, fontsize=8, labelcolor=INK,
                      handletextpad=0.2, columnspacing=1.2)  # fmt: skip
    return figure


def draw_paper(groups: Sequence[Group], names: Sequence[str]) -> Any:
    """Ours and the published value, each with its interval, of the groups that have one."""
    from matplotlib.figure import Figure

    kept = [(g, g.paper, f"{short(name)}, {g.task}") for g, name in zip(groups, names, strict=True) if g.paper]
    with styled():
        figure = Figure(figsize=(2 * WIDTH, 0.9 + 2.1 * ROW * len(kept)))
        axes = figure.subplots()
        for place, (group, paper, _) in enumerate(kept):
            axes.errorbar(paper["accuracy"], place - 0.13, xerr=paper.get("ci95") or 0.0, color=MUTED, marker="D",
                          markersize=5, markerfacecolor=PAGE, capsize=2.5, elinewidth=1)  # fmt: skip
            axes.errorbar(group.accuracy, place + 0.13, xerr=group.ci95 or 0.0, color=COLOURS[0], marker="o",
                          markersize=5, capsize=2.5, elinewidth=1)  # fmt: skip
            axes.annotate(group.verdicts, (1.01, place), xycoords=("axes fraction", "data"), fontsize=8, color=INK,
                          va="center", annotation_clip=False)  # fmt: skip
        _list(axes, [label for _, _, label in kept])
        axes.set_title("◆ published    ● ours", fontsize=8, color=MUTED)
    return figure


def _list(axes: Any, labels: Sequence[str]) -> None:
    """A label for each row, from the top, over an axis of accuracies."""
    axes.set(ylim=(len(labels) - 0.5, -0.5), xlabel="test accuracy, %")
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(axis="x")
