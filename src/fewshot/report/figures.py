"""Charts of runs: curves, accuracy against shots and ways, inner steps, paper against ours. Layer 5.

Each returns a matplotlib Figure. Whiskers are 95 % intervals over test episodes; bands and small circles are seeds.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fewshot.engine.durable import replace
from fewshot.metrics import mean_ci95
from fewshot.report.episodes import draw_embedding, draw_shown
from fewshot.report.groups import Group
from fewshot.report.runs import RunRecord
from fewshot.report.style import COLOURS, INK, MARKERS, MUTED, PAGE, name_lines, png, styled
from fewshot.run_folder import RunFolder

log = logging.getLogger("fewshot")
WIDTH, HEIGHT = 3.5, 2.6  # inches of one panel


def draw_finished(folder: RunFolder) -> None:
    """`draw_run` at the end of a run, which is finished by then: a picture that cannot be drawn never fails it."""
    try:
        draw_run(folder)
    except Exception as error:
        log.warning("no figures in %s: %s", folder.figures, " ".join(str(error).split()) or type(error).__name__)


def draw_run(folder: RunFolder) -> None:
    """curves.png, episode.png and embedding.png in a run's `figures/`, from the folder alone."""
    run = RunRecord(folder.path)
    pictures: dict[str, Any] = {}
    if run.metrics:
        pictures["curves"] = draw_training(run)
    if run.shown:
        hardest = run.shown[-1]
        pictures["episode"] = draw_shown(hardest, episode_title(run, hardest))
        pictures["embedding"] = draw_embedding(hardest, episode_title(run, hardest))
    folder.figures.mkdir(exist_ok=True)
    for name, figure in pictures.items():
        replace(folder.figures / f"{name}.png", png(figure))


def episode_title(run: RunRecord, shown: Any) -> str:
    """`episode 412, the hardest of 600: 72.0 % right`."""
    count = run.result["test"]["episodes"]
    which = "the first" if shown.episode == 0 else "the hardest"
    return f"episode {shown.episode}, {which} of {count}: {shown.accuracy:.1f} % right"


def draw_training(run: RunRecord) -> Any:
    """Loss, and accuracy on training and validation episodes, by step, of one run."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(2 * WIDTH, HEIGHT))
        loss, accuracy = figure.subplots(1, 2)
        steps, values = run.curve("train/loss")
        loss.plot(steps, values, color=COLOURS[0])
        loss.set(title="training loss", xlabel="step", ylim=(0, None))
        ends = []
        for key, name, colour in (
            ("train/accuracy", "training", COLOURS[5]),
            ("val/accuracy", "validation", COLOURS[1]),
        ):
            steps, values = run.curve(key)
            if not values:
                continue
            if key == "val/accuracy":
                _, width = run.curve("val/accuracy_ci95")
                accuracy.errorbar(steps, values, width, color=colour, marker="o", markersize=3, elinewidth=0.8)
            else:
                accuracy.plot(steps, values, color=colour)
            ends.append((steps[-1], values[-1], name, colour))
        accuracy.set(title="accuracy, %", xlabel="step", ylim=(None, 100))
        name_lines(accuracy, ends)
    return figure


def draw_against(groups: Sequence[Group], names: Sequence[str], axis: str) -> Any:
    """Accuracy against `axis` (shots or ways), a panel for each value of the other, a line for each name."""
    other = {"shots": "ways", "ways": "shots"}[axis]
    values = sorted({g.result[axis] for g in groups})
    places = {value: float(i) for i, value in enumerate(values)}
    series = list(dict.fromkeys(names))

    def panel(axes: Any, members: Sequence[int]) -> list[tuple[float, float, str, str]]:
        ends = []
        for s, name in enumerate(series):
            mine = sorted((groups[i] for i in members if names[i] == name), key=lambda g: g.result[axis])
            if not mine:
                continue
            colour, shift = COLOURS[s % len(COLOURS)], 0.12 * (s - (len(series) - 1) / 2)
            x = [places[g.result[axis]] + shift for g in mine]
            for place, group in zip(x, mine, strict=True):
                if len(group.runs) > 1:
                    axes.plot([place + 0.05] * len(group.runs), group.accuracies, "o", markersize=3.5, color=colour,
                              markerfacecolor="none", markeredgewidth=0.7)  # fmt: skip
            y = [g.accuracy for g in mine]
            axes.errorbar(x, y, [g.ci95 or 0.0 for g in mine], color=colour, marker=MARKERS[s % len(MARKERS)],
                          markersize=4.5, capsize=2.5, elinewidth=1)  # fmt: skip
            ends.append((x[-1] + 0.07, y[-1], name, colour))
        axes.set(xlim=(-0.35, len(values) - 0.6), xlabel=f"{axis} (per class)" if axis == "shots" else axis)
        axes.set_xticks(list(places.values()), [str(v) for v in values])
        return ends

    titles = [f"{g.result[other]}{'-way' if other == 'ways' else '-shot'}" for g in groups]
    order = sorted(set(titles), key=lambda t: int(t.split("-")[0]))
    return _panels(order, titles, panel, "test accuracy, %")


def draw_curves(groups: Sequence[Group], names: Sequence[str], key: str, label: str) -> Any:
    """One key of metrics.jsonl by step: the mean over seeds and a band from the lowest to the highest seed."""
    series = list(dict.fromkeys(names))

    def panel(axes: Any, members: Sequence[int]) -> list[tuple[float, float, str, str]]:
        ends = []
        for i in members:
            steps, curves = _common([run.curve(key) for run in groups[i].runs])
            if not steps:
                continue
            colour, mean = COLOURS[series.index(names[i]) % len(COLOURS)], np.mean(curves, 0)
            axes.plot(steps, mean, color=colour)
            axes.fill_between(steps, np.min(curves, 0), np.max(curves, 0), color=colour, alpha=0.2, linewidth=0)
            ends.append((float(steps[-1]), float(mean[-1]), names[i], colour))
        axes.set(xlabel="step")
        return ends

    return _panels(_tasks(groups), [g.task for g in groups], panel, label)


def draw_inner_steps(groups: Sequence[Group], names: Sequence[str]) -> Any:
    """Test accuracy after 0, 1, 2, ... inner steps, of the groups that have any; a ring where training stops."""
    kept = [i for i, g in enumerate(groups) if g.step_accuracy is not None and g.step_accuracy.shape[1] > 1]
    series = list(dict.fromkeys(names))

    def panel(axes: Any, members: Sequence[int]) -> list[tuple[float, float, str, str]]:
        ends = []
        for i in (kept[m] for m in members):
            tested, colour = groups[i].step_accuracy, COLOURS[series.index(names[i]) % len(COLOURS)]
            assert tested is not None
            means = [mean_ci95(torch.from_numpy(column)) for column in tested.T]
            steps = list(range(len(means)))
            axes.errorbar(steps, [m.value for m in means], [m.ci95 for m in means], color=colour, marker="o",
                          markersize=3.5, capsize=2.5, elinewidth=1)  # fmt: skip
            trained = (groups[i].runs[0].config.get("algorithm") or {}).get("inner_steps")
            if trained in steps:
                axes.plot([trained], [means[trained].value], "o", markersize=10, markerfacecolor="none", color=colour,
                          markeredgewidth=1)  # fmt: skip
            ends.append((float(steps[-1]), means[-1].value, names[i], colour))
            axes.set_xticks(steps if len(steps) < 13 else steps[::5])
        axes.set(xlabel="inner steps at test")
        return ends

    tasks = [groups[i] for i in kept]
    return _panels(_tasks(tasks), [g.task for g in tasks], panel, "test accuracy, %")


def draw_paper(groups: Sequence[Group], names: Sequence[str]) -> Any:
    """Ours and the published value, each with its interval; a row for each group that has one."""
    from matplotlib.figure import Figure

    kept = [(g, g.paper, f"{name}, {g.task}") for g, name in zip(groups, names, strict=True) if g.paper]
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
    return list(dict.fromkeys(g.task for g in sorted(groups, key=lambda g: (g.result["ways"], g.result["shots"]))))


def _panels(
    titles: Sequence[str], title_of: Sequence[str],
    draw: Callable[[Any, Sequence[int]], list[tuple[float, float, str, str]]], label: str,
) -> Any:  # fmt: skip
    """A figure with a panel for each title: `draw(axes, members)` fills it and says where its lines end."""
    from matplotlib.figure import Figure

    with styled():
        columns = min(len(titles), 2)
        rows = -(-len(titles) // columns)
        figure = Figure(figsize=(WIDTH * max(columns, 1.4), HEIGHT * rows))
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        ends = []
        for title, axes in zip(titles, grid.flat, strict=False):
            ends.append((axes, draw(axes, [i for i, t in enumerate(title_of) if t == title])))
            axes.set_title(title)
        for axes in grid.flat[len(titles) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(label)
        for axes, places in ends:  # once the common scale is known
            name_lines(axes, places)
    return figure


def _common(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> tuple[list[int], np.ndarray]:
    """The steps that all curves have, and their values there [seeds, steps]."""
    shared = sorted(set.intersection(*[set(steps) for steps, _ in curves]))
    looked_up = [dict(zip(steps, values, strict=True)) for steps, values in curves]
    return shared, np.array([[curve[step] for step in shared] for curve in looked_up])
