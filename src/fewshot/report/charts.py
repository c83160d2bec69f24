"""Charts of many runs: accuracy against what was swept, learning curves, inner steps, paper and ours. Layer 5.

Each gives (title, matplotlib Figure) for every panel; panels of one chart share their scale. Whiskers are 95 %
intervals over test episodes; bands and small circles are seeds.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fewshot.metrics import mean_ci95
from fewshot.printable import printable
from fewshot.report.groups import Group
from fewshot.report.settings import value_of
from fewshot.report.style import COLOURS, INK, MARKERS, MUTED, PAGE, name_lines, styled, whole_steps
from fewshot.sizes import numbers
from fewshot.text import shortened

WIDTH, HEIGHT = 4.0, 2.7  # inches of one panel
LONGEST = 30  # letters of a name beside a line
TICKS = 8  # from more values than this, an axis is a scale and no list of values

Panels = list[tuple[str, Any]]
End = tuple[float, str, str]  # of a line: its height, its name, its colour


class Lines:
    """How each name is drawn, the same in all panels of a chart."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(dict.fromkeys(names))

    def colour(self, name: str) -> str:
        return COLOURS[self.names.index(name) % len(COLOURS)]

    def style(self, name: str) -> dict[str, Any]:
        """Colour, marker, and from the seventh on another stroke."""
        i = self.names.index(name)
        return {"color": self.colour(name), "marker": MARKERS[i % len(MARKERS)], "markersize": 4.5,
                "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3]}  # fmt: skip


def draw_against(groups: Sequence[Group], names: Sequence[str], axis: str) -> Panels:
    """Accuracy against `axis`: shots, ways or the path of a key; a panel for each value of the others of the task."""
    values = sorted({value_of(g, axis) for g in groups})
    positions, log_scale = _positions(values)
    lines = Lines(names)
    listed = len(values) <= TICKS

    def panel(axes: Any, members: Sequence[int]) -> list[End]:
        ends = []
        for s, name in enumerate(lines.names):
            mine = sorted((groups[i] for i in members if names[i] == name), key=lambda g: value_of(g, axis))
            if not mine:
                continue
            shift = 0.1 * (s - (len(lines.names) - 1) / 2) / max(1, len(lines.names) / 4) if listed else 0.0
            x = [positions[value_of(g, axis)] + shift for g in mine]
            for place, group in zip(x, mine, strict=True):
                if len(group.runs) > 1:
                    axes.plot([place] * len(group.runs), group.accuracies, "o", markersize=3.5,
                              color=lines.colour(name), markerfacecolor="none", markeredgewidth=0.7)  # fmt: skip
            y = [g.accuracy for g in mine]
            axes.errorbar(x, y, [g.ci95 or 0.0 for g in mine], capsize=2.5, elinewidth=1, **lines.style(name))
            ends.append((y[-1], name, lines.colour(name)))
        axes.set(xlabel=printable(f"{axis} (per class)" if axis == "shots" else axis))
        if listed:
            axes.set(xlim=(-0.35, len(values) - 0.75))
            axes.set_xticks(list(positions.values()), [f"{v:g}" for v in values])
        elif log_scale:
            axes.set_xscale("log")
        return ends

    part = {"shots": "ways", "ways": "shots"}.get(axis)
    titles = [g.task if part is None else f"{g.result[part]}-{part.removesuffix('s')}" for g in groups]
    order = _tasks(groups) if part is None else sorted(set(titles), key=numbers)
    return _panels(order, titles, panel, "test accuracy, %")


def _positions(values: Sequence[float]) -> tuple[dict[float, float], bool]:
    """Where each value stands: few ones side by side, many on their own scale, which may be logarithmic."""
    if len(values) <= TICKS:
        return {value: float(i) for i, value in enumerate(values)}, False
    return {value: float(value) for value in values}, values[0] > 0 and values[-1] / values[0] >= 20


def draw_curves(groups: Sequence[Group], names: Sequence[str], key: str, label: str) -> Panels:
    """One key of metrics.jsonl by step: the mean over seeds and a band from the lowest to the highest seed."""
    lines = Lines(names)

    def panel(axes: Any, members: Sequence[int]) -> list[End]:
        ends = []
        for i in members:
            steps, curves = _common([run.curve(key) for run in groups[i].runs])
            if not steps:
                continue
            colour, mean = lines.colour(names[i]), np.mean(curves, 0)
            if len(steps) == 1:
                width = groups[i].runs[0].curve(f"{key}_ci95")[1]
                axes.errorbar(steps, mean, width[:1] or 0.0, color=colour, marker="o", markersize=4, capsize=2.5)
            axes.plot(steps, mean, **{**lines.style(names[i]), "marker": ""})
            axes.fill_between(steps, np.min(curves, 0), np.max(curves, 0), color=colour, alpha=0.2, linewidth=0)
            if math.isfinite(mean[-1]):
                ends.append((float(mean[-1]), names[i], colour))
        axes.set(xlabel="step")
        whole_steps(axes)
        return ends

    return _panels(_tasks(groups), [g.task for g in groups], panel, label)


def draw_inner_steps(groups: Sequence[Group], names: Sequence[str]) -> Panels:
    """Test accuracy after 0, 1, 2, ... inner steps, of the groups that have any; a ring where training stops."""
    kept = [i for i, g in enumerate(groups) if g.inner_steps]
    lines = Lines(names)

    def panel(axes: Any, members: Sequence[int]) -> list[End]:
        chosen = [(groups[kept[m]], names[kept[m]], lines.colour(names[kept[m]])) for m in members]
        return [(plot_steps(axes, group, colour), name, colour) for group, name, colour in chosen]

    tasks = [groups[i] for i in kept]
    return _panels(_tasks(tasks), [g.task for g in tasks], panel, "test accuracy, %")


def plot_steps(axes: Any, group: Group, colour: str) -> float:
    """The accuracies of a group after each inner step; returns the last."""
    assert group.step_accuracy is not None
    means = [mean_ci95(torch.from_numpy(column)) for column in group.step_accuracy.T]
    steps = list(range(len(means)))
    axes.errorbar(steps, [m.value for m in means], [m.ci95 for m in means], color=colour, marker="o", markersize=3.5,
                  capsize=2.5, elinewidth=1)  # fmt: skip
    trained = (group.runs[0].config.get("algorithm") or {}).get("inner_steps")
    if trained in steps:
        axes.plot([trained], [means[trained].value], "o", markersize=10, markerfacecolor="none", color=colour,
                  markeredgewidth=1)  # fmt: skip
    axes.set(xlabel="inner steps at test")
    whole_steps(axes)
    return means[-1].value


def draw_paper(groups: Sequence[Group], names: Sequence[str]) -> Any:
    """Ours and the published value, each with its interval; a row for each group that has one."""
    from matplotlib.figure import Figure

    kept = [(g, g.paper, _short(f"{name}, {g.task}")) for g, name in zip(groups, names, strict=True) if g.paper]
    with styled():
        figure = Figure(figsize=(2 * WIDTH, 0.9 + 0.42 * len(kept)))
        axes = figure.subplots()
        for place, (group, paper, _) in enumerate(kept):
            axes.errorbar(paper["accuracy"], place - 0.13, xerr=paper.get("ci95") or 0.0, color=MUTED, marker="D",
                          markersize=5, markerfacecolor=PAGE, capsize=2.5, elinewidth=1)  # fmt: skip
            axes.errorbar(group.accuracy, place + 0.13, xerr=group.ci95 or 0.0, color=COLOURS[0], marker="o",
                          markersize=5, capsize=2.5, elinewidth=1)  # fmt: skip
            axes.annotate(group.verdicts, (1.01, place), xycoords=("axes fraction", "data"), fontsize=8, color=INK,
                          va="center", annotation_clip=False)  # fmt: skip
        axes.set(ylim=(len(kept) - 0.5, -0.5), xlabel="test accuracy, %")
        axes.set_yticks(range(len(kept)), [label for _, _, label in kept])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(axis="x")
        axes.set_title("◆ published    ● ours", fontsize=8, color=MUTED)
    return figure


def _tasks(groups: Sequence[Group]) -> list[str]:
    """The panels of a chart by task, from few ways and shots to many."""
    return list(dict.fromkeys(g.task for g in sorted(groups, key=lambda g: g.size)))


def _short(name: str) -> str:
    return shortened(printable(name), LONGEST)


def _panels(
    titles: Sequence[str], title_of: Sequence[str], draw: Callable[[Any, Sequence[int]], list[End]], label: str
) -> Panels:
    """A figure for each title: `draw(axes, members)` fills it and says where its lines end."""
    from matplotlib.figure import Figure

    with styled():
        drawn = []
        for title in titles:
            figure = Figure(figsize=(WIDTH, HEIGHT))
            axes = figure.subplots()
            ends = draw(axes, [i for i, t in enumerate(title_of) if t == title])
            axes.set(ylabel=label)
            drawn.append((title, figure, axes, ends))
        scales = [axes.get_ylim() for *_, axes, _ in drawn]
        scale = (min(low for low, _ in scales), max(high for _, high in scales))
        for _, _, axes, ends in drawn:
            axes.set_ylim(scale)
            name_lines(axes, [(y, _short(name), colour) for y, name, colour in ends])
    return [(title, figure) for title, figure, _, _ in drawn]


def _common(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[list[int], np.ndarray]:
    """The steps that all curves have, and their values there [seeds, steps]."""
    shared = sorted(set.intersection(*[set(steps) for steps, _ in curves]))
    looked_up = [dict(zip(steps, values, strict=True)) for steps, values in curves]
    return shared, np.array([[curve[step] for step in shared] for curve in looked_up])
