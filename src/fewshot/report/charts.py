"""Charts of many runs with a line for each setting: accuracy against what was swept, training, inner steps. Layer 5.

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
from fewshot.report.rows import WIDTH, by_mean, draw_rows, short
from fewshot.report.settings import value_of
from fewshot.report.style import COLOURS, MARKERS, MUTED, name_lines, styled, usual_range, whole_steps
from fewshot.sizes import numbers

HEIGHT = 2.7  # inches of one panel
TICKS = 8  # from more values than this, an axis is a scale and no list of values
MOST = 8  # lines of a chart with colours and names of their own

Panels = list[tuple[str, Any]]
End = tuple[float, str, str]  # of a line: its height, its name, its colour


class Lines:
    """How each name is drawn, the same in all panels of a chart: of many the best in colour, the others grey."""

    def __init__(self, groups: Sequence[Group], names: Sequence[str]) -> None:
        self.names = list(dict.fromkeys(names))
        best = by_mean(groups, names)[:MOST]
        self.named = [name for name in self.names if name in best]

    @property
    def note(self) -> str:
        """For the title of a chart."""
        return f", the best {MOST} of {len(self.names)} named" if len(self.names) > MOST else ""

    def style(self, name: str) -> dict[str, Any]:
        """Colour, marker, and from the seventh on another stroke."""
        if name not in self.named:
            return {"color": MUTED, "alpha": 0.35, "linewidth": 0.7, "marker": "", "zorder": 1}
        i = self.named.index(name)
        return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4.5,
                "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3], "zorder": 2}  # fmt: skip

    def end(self, y: float, name: str) -> list[End]:
        """The name beside the end of its line."""
        return [(y, short(name), self.style(name)["color"])] if name in self.named and math.isfinite(y) else []


def draw_against(groups: Sequence[Group], names: Sequence[str], axis: str) -> Panels:
    """Accuracy against `axis`: shots, ways or the path of a key; a panel for each value of the others of the task."""
    values = sorted({value_of(g, axis) for g in groups})
    positions, log_scale = _positions(values)
    lines = Lines(groups, names)
    listed = len(values) <= TICKS
    part = {"shots": "ways", "ways": "shots"}.get(axis)
    titles = [g.task if part is None else f"{g.result[part]}-{part.removesuffix('s')}" for g in groups]
    order = _tasks(groups) if part is None else sorted(set(titles), key=numbers)
    if listed and len(lines.names) > MOST:
        members = {title: [i for i, other in enumerate(titles) if other == title] for title in order}
        return [(t, draw_rows([groups[i] for i in m], [names[i] for i in m], axis)) for t, m in members.items()]

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
                              color=lines.style(name)["color"], markerfacecolor="none",
                              markeredgewidth=0.7)  # fmt: skip
            y = [g.accuracy for g in mine]
            axes.errorbar(x, y, [g.ci95 or 0.0 for g in mine], capsize=2.5, elinewidth=1, **lines.style(name))
            ends += lines.end(y[-1], name)
        axes.set(xlabel=printable(f"{axis} (per class)" if axis == "shots" else axis))
        if listed:
            axes.set(xlim=(-0.35, len(values) - 0.75))
            axes.set_xticks(list(positions.values()), [f"{v:g}" for v in values])
        elif log_scale:
            axes.set_xscale("log")
        return ends

    return _panels(order, titles, panel, "test accuracy, %", lines.note)


def _positions(values: Sequence[float]) -> tuple[dict[float, float], bool]:
    """Where each value stands: few ones side by side, many on their own scale, which may be logarithmic."""
    if len(values) <= TICKS:
        return {value: float(i) for i, value in enumerate(values)}, False
    return {value: float(value) for value in values}, values[0] > 0 and values[-1] / values[0] >= 20


def draw_curves(groups: Sequence[Group], names: Sequence[str], key: str, label: str) -> Panels:
    """One key of metrics.jsonl by step: the mean over seeds and a band from the lowest to the highest seed."""
    lines = Lines(groups, names)

    def panel(axes: Any, members: Sequence[int]) -> list[End]:
        ends: list[End] = []
        values: list[float] = []  # of the named lines, which choose the scale
        for i in members:
            steps, curves = _common([run.curve(key) for run in groups[i].runs])
            if not steps:
                continue
            style, mean = lines.style(names[i]), np.mean(curves, 0)
            if len(steps) == 1:
                width = groups[i].runs[0].curve(f"{key}_ci95")[1]
                axes.errorbar(steps, mean, width[:1] or 0.0, color=style["color"], marker="o", markersize=4,
                              capsize=2.5)  # fmt: skip
            axes.plot(steps, mean, **{**style, "marker": ""})
            if names[i] in lines.named:
                values += mean[np.isfinite(mean)].tolist()
                axes.fill_between(steps, np.min(curves, 0), np.max(curves, 0), color=style["color"], alpha=0.2,
                                  linewidth=0)  # fmt: skip
            ends += lines.end(float(mean[-1]), names[i])
        axes.set(xlabel="step")
        whole_steps(axes)
        if lines.note and values:
            room = 0.06 * (max(values) - min(values))
            axes.set_ylim(min(values) - room, max(values) + room)
        elif key == "train/loss":
            usual_range(axes)
        return ends

    return _panels(_tasks(groups), [g.task for g in groups], panel, label, lines.note)


def draw_inner_steps(groups: Sequence[Group], names: Sequence[str]) -> Panels:
    """Test accuracy after 0, 1, 2, ... inner steps, of the groups that have any; a ring where training stops."""
    kept = [i for i, g in enumerate(groups) if g.inner_steps]
    tasks, own = [groups[i] for i in kept], [names[i] for i in kept]
    lines = Lines(tasks, own)

    def panel(axes: Any, members: Sequence[int]) -> list[End]:
        return [end for m in members for end in lines.end(plot_steps(axes, tasks[m], lines.style(own[m])), own[m])]

    return _panels(_tasks(tasks), [g.task for g in tasks], panel, "test accuracy, %", lines.note)


def plot_steps(axes: Any, group: Group, style: dict[str, Any]) -> float:
    """The accuracies of a group after each inner step; returns the last."""
    assert group.step_accuracy is not None
    means = [mean_ci95(torch.from_numpy(column)) for column in group.step_accuracy.T]
    steps = list(range(len(means)))
    axes.errorbar(steps, [m.value for m in means], [m.ci95 for m in means], capsize=2.5, elinewidth=1, **style)
    trained = (group.runs[0].config.get("algorithm") or {}).get("inner_steps")
    words = "inner steps at test"
    if trained in steps:
        words += " (ring: as many as in training)"
        axes.plot([trained], [means[trained].value], **style | {"marker": "o", "markersize": 10},
                  markerfacecolor="none", markeredgewidth=1)  # fmt: skip
    axes.set(xlabel=words)
    whole_steps(axes)
    return means[-1].value


def _tasks(groups: Sequence[Group]) -> list[str]:
    """The panels of a chart by task, from few ways and shots to many."""
    return list(dict.fromkeys(g.task for g in sorted(groups, key=lambda g: g.size)))


def _panels(
    titles: Sequence[str], title_of: Sequence[str], draw: Callable[[Any, Sequence[int]], list[End]], label: str,
    note: str,
) -> Panels:  # fmt: skip
    """A figure for each title: `draw(axes, members)` fills it and says where its lines end. note: behind each title."""
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
            name_lines(axes, ends)
    return [(title + note, figure) for title, figure, _, _ in drawn]


def _common(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[list[int], np.ndarray]:
    """The steps that all curves have, and their values there [seeds, steps]."""
    shared = sorted(set.intersection(*[set(steps) for steps, _ in curves]))
    looked_up = [dict(zip(steps, values, strict=True)) for steps, values in curves]
    return shared, np.array([[curve[step] for step in shared] for curve in looked_up])
