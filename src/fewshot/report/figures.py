"""The pictures in a run's own folder, made from the folder alone. Layer 5."""

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

from fewshot import records
from fewshot.engine.durable import replace
from fewshot.printable import printable
from fewshot.report.charts import End, plot_steps
from fewshot.report.embedding import draw_embedding, maps
from fewshot.report.episodes import draw_shown
from fewshot.report.groups import Group
from fewshot.report.runs import RunRecord
from fewshot.report.style import COLOURS, INK, MUTED, name_lines, png, styled, usual_range, whole_steps
from fewshot.run_folder import RunFolder
from fewshot.shown import ShownEpisode
from fewshot.sizes import chance

log = logging.getLogger("fewshot")
WIDTH, HEIGHT = 4.0, 3.0  # inches of one panel
MOST = 8  # numbers on a curve


def draw_finished(folder: RunFolder) -> None:
    """`draw_run` at the end of a run, which is finished by then: a picture that cannot be drawn never fails it."""
    try:
        draw_run(folder)
    except Exception as error:
        log.warning("no figures in %s: %s", folder.figures, reason(error))


def reason(error: Exception) -> str:
    """An exception in one line."""
    return printable(" ".join(str(error).split()) or type(error).__name__)


def draw_run(folder: RunFolder) -> None:
    """curves.png, inner_steps.png, episode.png and embedding.png in a run's `figures/`, as far as there are any."""
    records.inside(folder.path, folder.figures.name).mkdir(exist_ok=True)
    for name, figure in _pictures(RunRecord(folder.path)):
        replace(folder.figures / f"{name}.png", png(figure))


def _pictures(run: RunRecord) -> Iterator[tuple[str, Any]]:
    if run.metrics:
        yield "curves", draw_training(run)
    if Group([run]).inner_steps:
        yield "inner_steps", draw_inner_steps(run)
    if run.shown:
        hardest = run.shown[-1]
        yield "episode", draw_shown(hardest, episode_title(run, hardest))
        yield "embedding", draw_embedding(maps(hardest), episode_title(run, hardest))


def episode_title(run: RunRecord, shown: ShownEpisode) -> str:
    """`episode 412, the hardest of 600: 72.0 % right`."""
    count = run.result["test"]["episodes"]
    which = "the first" if shown.episode == 0 else "the hardest"
    return f"episode {shown.episode}, {which} of {count}: {shown.accuracy:.1f} % right"


def draw_training(run: RunRecord) -> Any:
    """Loss, and accuracy on training and validation episodes, by step; beside them the test and what it compares to."""
    with styled():
        figure, (loss, accuracy) = _titled(run, 2)
        steps, values = run.curve("train/loss")
        loss.plot(steps, values, color=COLOURS[0], marker="o" if len(steps) == 1 else "", markersize=4)
        loss.set(title="training loss", xlabel="step", ylim=(0, None))
        usual_range(loss)
        _accuracy(accuracy, run)
        for axes in (loss, accuracy):
            whole_steps(axes)
    return figure


def draw_inner_steps(run: RunRecord) -> Any:
    """Test accuracy after 0, 1, 2, ... inner steps, with chance and the pixels; a ring where training stops."""
    with styled():
        figure, (axes,) = _titled(run, 1)
        value = plot_steps(axes, Group([run]), {"color": COLOURS[0], "marker": "o", "markersize": 3.5})
        _numbers(axes, run)
        references = _references(axes, run, ("raw_pixels",))
        axes.set(title="test accuracy, %", ylim=(0, 100))
        name_lines(axes, [*references, (value, f"test {value:.1f}", COLOURS[0])])
    return figure


def _numbers(axes: Any, run: RunRecord) -> None:
    """The accuracy above each inner step, where they are few."""
    steps = Group([run]).step_accuracy
    assert steps is not None
    for step, value in enumerate(steps.mean(0)[: steps.shape[1] if steps.shape[1] <= MOST else 0]):
        axes.annotate(f"{value:.1f}", (step, value), xytext=(0, 9), textcoords="offset points", ha="center",
                      fontsize=8, color=COLOURS[0])  # fmt: skip


def _titled(run: RunRecord, panels: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    result = run.result
    figure = Figure(figsize=(panels * WIDTH, HEIGHT))
    task = f"{result['algorithm']} on {result['dataset']}, {result['ways']}-way {result['shots']}-shot"
    figure.suptitle(printable(f"{task}, seed {result['seed']}"), fontsize=10, x=0.01, ha="left", color=INK)
    return figure, figure.subplots(1, panels, squeeze=False, width_ratios=(4, 5)[-panels:])[0]


def _references(axes: Any, run: RunRecord, baselines: Sequence[str]) -> list[End]:
    """Chance and the baselines: each a line with its number."""
    values = {"chance": chance(run.result["ways"])}
    for key in baselines:
        if baseline := (run.result.get("baselines") or {}).get(key):
            values[key.replace("_", " ")] = baseline["accuracy"]
    for value in values.values():
        axes.axhline(value, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    return [(value, f"{name} {value:.1f}", MUTED) for name, value in values.items() if math.isfinite(value)]


def _accuracy(axes: Any, run: RunRecord) -> None:
    """Accuracies by step, and the test as the mark of the checkpoint that was tested."""
    result = run.result
    ends = _references(axes, run, ("untrained", "raw_pixels"))
    steps, values = run.curve("train/accuracy")
    if values:
        axes.plot(steps, values, color=COLOURS[5], marker="o" if len(steps) == 1 else "", markersize=4)
        ends.append((values[-1], "training", COLOURS[5]))
    steps, values = run.curve("val/accuracy")
    if values:
        widths = run.curve("val/accuracy_ci95")[1]
        axes.errorbar(steps, values, widths if len(widths) == len(steps) else None, color=COLOURS[1], marker="o",
                      markersize=3, elinewidth=0.8, capsize=2)  # fmt: skip
        ends.append((values[-1], "validation", COLOURS[1]))
    test, width = result["test"]["accuracy"], result["test"]["accuracy_ci95"]
    best = (result.get("val") or {}).get("best_step") if result["protocol"].get("checkpoint_rule") == "best" else None
    axes.errorbar([result["steps"] if best is None else best], [test], [width], color=INK, marker="D", markersize=5,
                  capsize=3, elinewidth=1.2, zorder=5)  # fmt: skip
    ends.append((test, f"test {test:.1f} ± {width:.1f}", INK))
    axes.set(title="accuracy, %", xlabel="step", ylim=(0, 100))
    name_lines(axes, [end for end in ends if math.isfinite(end[0])])
