"""A report as one HTML file: the finding, the table of algorithms and tasks, charts, then all the rest. Layer 5."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import yaml

from fewshot import __version__
from fewshot.errors import InputError
from fewshot.printable import printable
from fewshot.report import charts, rows, tables
from fewshot.report.differences import same_and_differing
from fewshot.report.embedding import draw_embedding, maps
from fewshot.report.episodes import draw_shown
from fewshot.report.figures import episode_title, reason
from fewshot.report.groups import Group
from fewshot.report.report import Report
from fewshot.report.runs import RunRecord
from fewshot.report.settings import axes, on_axis
from fewshot.report.style import svg
from fewshot.report.template import render

SHOWN = 12  # settings of which episodes are shown


@dataclass(frozen=True)
class Picture:
    svg: str  # empty: it cannot be drawn, and the caption says why
    caption: str
    title: str = ""
    tall: bool = False


def html(report: Report) -> str:
    """One file with everything in it: nothing is loaded from anywhere."""
    groups, names = report.groups, report.names
    return render(
        "page.html",
        title=report.title, summary=report.summary(), warnings=report.warnings(), repeats=report.repeats,
        version=__version__, headline=report.headline, details=report.details, method=report.method,
        below_pixels=report.below_pixels, unlike=report.comparison.unlike[:3],
        made=time.strftime("%Y-%m-%d %H:%M %Z"), commands=[" ".join(sweep.command) for sweep in report.sweeps],
        pivot=report.pivot, charts=list(_charts(groups, names)),
        results=tables.results(groups, names, report.marks), each_run=tables.each_run(report.runs),
        pairs=tables.pairs(report.comparison, groups, names),
        papers=tables.papers(groups, names), paper_picture=_paper(groups, names),
        episodes=list(_episodes(groups, names)), shown=SHOWN, settings=len(groups), cost=tables.cost(groups, names),
        unfinished=report.unfinished, jobs=[job for job in report.jobs if job.last_lines],
        protocol=same_and_differing(groups, names, lambda run: run.result["protocol"]),
        training=same_and_differing(groups, names, lambda run: run.result.get("train") or {}),
        configuration=same_and_differing(groups, names, lambda run: run.setting),
        configurations=[(f"{name}, {g.task}: seeds {', '.join(map(str, g.seeds))}", _configuration(g.runs))
                        for g, name in zip(groups, names, strict=True)],
        environment=same_and_differing(groups, names, lambda run: run.result.get("environment") or {}),
    )  # fmt: skip


def _picture(caption: str, draw: Callable[[], Any]) -> Picture:
    """A picture that cannot be drawn (weights that are not finite, for example) takes no other one along."""
    try:
        return Picture(svg(draw(), caption), caption)
    except Exception as error:
        return Picture("", f"{caption}: cannot be drawn, {reason(error)}")


def _panels(title: str, draw: Callable[[], charts.Panels]) -> list[Picture]:
    """The panels of one chart, each with its title above it."""
    try:
        drawn = draw()
    except Exception as error:
        return [Picture("", f"{title}: cannot be drawn, {reason(error)}")]
    return [
        replace(
            _picture(f"{title}, {name}", partial(_itself, figure)),
            title=f"{title}, {name}",
            tall=figure.get_size_inches()[1] > 1.5 * charts.HEIGHT,
        )
        for name, figure in drawn
    ]


def _itself(figure: Any) -> Any:
    return figure


def _charts(groups: Sequence[Group], names: Sequence[str]) -> Iterator[Picture]:
    """Accuracies on different data do not share a chart."""
    data = list(dict.fromkeys(group.tested_on for group in groups))
    for tested_on in data:
        members = [i for i, group in enumerate(groups) if group.tested_on == tested_on]
        yield from _charts_of_data([groups[i] for i in members], [names[i] for i in members],
                                   f", {tested_on}" if len(data) > 1 else "")  # fmt: skip


def _charts_of_data(groups: Sequence[Group], names: Sequence[str], where: str) -> Iterator[Picture]:
    for axis, keys in axes(groups).items():
        able, own = on_axis(groups, axis, keys)
        if able:
            short = axis.split(".")[-1] if "." in axis else axis
            yield from _panels(f"Accuracy by {short}{where}", partial(charts.draw_against, able, own, axis))
    if any(group.inner_steps for group in groups):
        yield from _panels(f"Inner steps{where}", partial(charts.draw_inner_steps, groups, names))
    trained = [i for i, group in enumerate(groups) if group.runs[0].kind == "train"]
    members, own = [groups[i] for i in trained], [names[i] for i in trained]
    for key, title, label in (("val/accuracy", "Validation accuracy", "validation accuracy, %"),
                              ("train/loss", "Training loss", "training loss")):  # fmt: skip
        if any(run.curve(key)[0] for g in members for run in g.runs):
            yield from _panels(f"{title}{where}", partial(charts.draw_curves, members, own, key, label))


def _paper(groups: Sequence[Group], names: Sequence[str]) -> Picture | None:
    if not any(g.paper for g in groups):
        return None
    return _picture("Published and own accuracy", partial(rows.draw_paper, groups, names))


def _episodes(groups: Sequence[Group], names: Sequence[str]) -> Iterator[tuple[str, list[list[Picture]]]]:
    """For each of the `SHOWN` best settings a heading, and for each kept episode of its first seed: its picture and the
    map of its embeddings."""
    ranked = [tables.best_first(members, groups) for members in tables.by_cell(groups).values()]
    ranks = {i: rank for members in ranked for rank, i in enumerate(members)}
    for i in sorted(sorted(ranks, key=lambda i: ranks[i])[:SHOWN]):
        group, name, run, found = groups[i], names[i], groups[i].runs[0], []
        try:
            kept = run.shown
        except InputError as error:  # damaged
            kept, found = [], [[Picture("", str(error))]]
        for shown in kept:
            what = episode_title(run, shown)
            alike = f"{name}, {group.task}, {what}"
            found.append([
                replace(_picture(alike, partial(draw_shown, shown, "")), title=what),
                replace(_picture(f"embeddings of {alike}", partial(draw_embedding, maps(shown), legend=False)),
                        title="its embeddings"),
            ])  # fmt: skip
        if found:
            yield f"{name}, {group.task} on {group.tested_on}, seed {run.result['seed']}", found


def _configuration(runs: Sequence[RunRecord]) -> str:
    """config.yaml of the first, and in which keys the others differ from it."""
    first, *others = runs
    said = yaml.safe_dump(dict(first.config), sort_keys=False, allow_unicode=True)
    for run in others:
        keys = [key for key, value in run.config.items() if first.config.get(key) != value]
        differing = yaml.safe_dump({key: run.config[key] for key in keys}, sort_keys=False, allow_unicode=True)
        said += f"\n# seed {run.result['seed']}, where it differs:\n{differing}"
    return "\n".join(map(printable, said.split("\n")))
