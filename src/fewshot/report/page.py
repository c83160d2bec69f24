"""A report of many runs, gathered once, as one HTML file or as Markdown. Layer 5."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from fewshot import __version__
from fewshot.errors import InputError
from fewshot.metrics import Mean
from fewshot.printable import printable
from fewshot.report import figures, tables
from fewshot.report.differences import same_and_differing
from fewshot.report.episodes import draw_embedding, draw_shown
from fewshot.report.groups import Group, grouped, labels, paired
from fewshot.report.runs import RunRecord, read_runs
from fewshot.report.style import svg
from fewshot.report.sweeps import MissingJob, find_sweeps


@dataclass(frozen=True)
class Picture:
    svg: str
    caption: str


class Report:
    """What the run folders and sweeps at or below some paths hold."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.runs, damaged = read_runs(paths)
        self.sweeps, damaged_sweeps = find_sweeps(paths)
        self.left_out = [*damaged, *damaged_sweeps]  # a line for each record that cannot be read

    @cached_property
    def groups(self) -> list[Group]:
        return grouped(self.runs)

    @cached_property
    def names(self) -> list[str]:
        return labels(self.groups)

    @property
    def finished(self) -> list[RunRecord]:
        return [run for run in self.runs if run.finished]

    @property
    def repeats(self) -> int:
        """Finished runs that another run of the same setting and seed replaces."""
        return len(self.finished) - sum(len(g.runs) for g in self.groups)

    @property
    def jobs(self) -> list[MissingJob]:
        """The jobs of sweeps that have no result."""
        return [job for sweep in self.sweeps for job in sweep.missing]

    @property
    def unfinished(self) -> tables.Table:
        return tables.unfinished(self.runs, self.jobs)

    def summary(self) -> str:
        """`16 runs finished, 1 unfinished; sweep of 18 jobs: 16 with a result, 1 failed, 1 waiting`."""
        parts = [f"{len(self.finished)} runs finished, {len(self.runs) - len(self.finished)} unfinished"]
        for sweep in self.sweeps:
            by_status: dict[str, int] = {}
            for job in sweep.missing:
                by_status[job.status] = by_status.get(job.status, 0) + 1
            counts = {"with a result": sweep.jobs - len(sweep.missing)} | by_status
            what = ", ".join(f"{n} {status}" for status, n in counts.items())
            parts.append(f"sweep {sweep.path.name} of {sweep.jobs} jobs: {what}")
        return "; ".join(parts)

    def warnings(self) -> list[str]:
        """A line for each record that is left out, and for each run whose records were changed after its end."""
        runs = [(printable(run.path), ", ".join(names)) for run in self.runs if (names := run.changed)]
        changed = [f"{path}: {names} changed since the end of the run, whose numbers they were" for path, names in runs]
        return [f"left out: {line}" for line in self.left_out] + changed

    def pair(self) -> tuple[RunRecord, RunRecord, Mean]:
        """Of exactly two finished runs: the first, the second, and first minus second. InputError otherwise."""
        if len(self.finished) != 2:
            raise InputError(
                f"a paired comparison needs two finished runs; there are {len(self.finished)}; give two folders"
            )
        a, b = self.finished
        return a, b, paired(a, b)


def paired_line(a: RunRecord, b: RunRecord, difference: Mean) -> str:
    """`A minus B: +1.20 ± 0.35 points over 600 episodes, ...: the first is better`."""
    over = f"points over the same {a.result['test']['episodes']} episodes"
    sentence = f"{a.path} minus {b.path}: {difference.value:+.2f} ± {difference.ci95:.2f} {over}"
    if abs(difference.value) <= difference.ci95:
        return f"{sentence}: no difference can be told"
    return f"{sentence}: the {'first' if difference.value > 0 else 'second'} is better"


def markdown(report: Report, pair: str | None) -> str:
    """Results, papers, cost and what is missing, as Markdown tables."""
    these = (report.groups, report.names)
    parts = [("Results", tables.results(*these)), ("Paper and ours", tables.papers(*these)),
             ("Cost", tables.cost(*these)), ("Not finished", report.unfinished)]  # fmt: skip
    text = f"# Runs of {', '.join(map(str, report.paths))}\n\n{report.summary()}.\n"
    text += "".join(f"\n{line}.\n" for line in report.warnings())
    if pair:
        text += f"\n{pair}.\n"
    return text + "".join(f"\n## {title}\n\n{tables.markdown(table)}" for title, table in parts if table.rows)


def html(report: Report, pair: str | None) -> str:
    """One file with everything in it: nothing is loaded from anywhere."""
    import jinja2  # late: a quarter of a second

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((files("fewshot.report") / "page.html").read_text())
    groups, names = report.groups, report.names
    return template.render(
        title=f"Runs of {', '.join(str(path) for path in report.paths)}",
        summary=report.summary(), warnings=report.warnings(), repeats=report.repeats, pair=pair, version=__version__,
        made=time.strftime("%Y-%m-%d %H:%M %Z"), commands=[" ".join(sweep.command) for sweep in report.sweeps],
        results=tables.results(groups, names), each_run=tables.each_run(report.runs),
        against=list(_against(groups, names)), curves=list(_curves(groups, names)),
        papers=tables.papers(groups, names), paper_picture=_paper(groups, names), inner=_inner_steps(groups, names),
        episodes=list(_episodes(groups, names)), cost=tables.cost(groups, names),
        unfinished=report.unfinished, jobs=[job for job in report.jobs if job.last_lines],
        protocol=same_and_differing(groups, names, lambda run: run.result["protocol"]),
        training=same_and_differing(groups, names, lambda run: run.result.get("train") or {}),
        environment=same_and_differing(groups, names, lambda run: run.result["environment"]),
    )  # fmt: skip


Chosen = tuple[list[Group], list[str]]


def _by_data(groups: Sequence[Group], names: Sequence[str]) -> dict[str, Chosen]:
    """Accuracies on different data do not share a chart."""
    found: dict[str, Chosen] = {}
    for group, name in zip(groups, names, strict=True):
        kept = found.setdefault(group.tested_on, ([], []))
        kept[0].append(group)
        kept[1].append(name)
    return found


def _against(groups: Sequence[Group], names: Sequence[str]) -> Iterator[Picture]:
    for data, (members, own) in _by_data(groups, names).items():
        for axis in ("shots", "ways"):
            if len({g.result[axis] for g in members}) > 1:
                what = f"Test accuracy on {data} against {axis}"
                yield Picture(svg(figures.draw_against(members, own, axis), what), what)


def _curves(groups: Sequence[Group], names: Sequence[str]) -> Iterator[Picture]:
    trained = [(g, name) for g, name in zip(groups, names, strict=True) if g.runs[0].kind == "train"]
    for data, (members, own) in _by_data([g for g, _ in trained], [name for _, name in trained]).items():
        for key, label in (("val/accuracy", "validation accuracy, %"), ("train/loss", "training loss")):
            if any(run.curve(key)[0] for g in members for run in g.runs):
                what = f"{label.split(',')[0].capitalize()} by outer step, {data.split()[0]}"
                yield Picture(svg(figures.draw_curves(members, own, key, label), what), what)


def _paper(groups: Sequence[Group], names: Sequence[str]) -> Picture | None:
    if not any(g.paper for g in groups):
        return None
    what = "Published and own accuracy"
    return Picture(svg(figures.draw_paper(groups, names), what), what)


def _inner_steps(groups: Sequence[Group], names: Sequence[str]) -> list[Picture]:
    found = []
    for data, (members, own) in _by_data(groups, names).items():
        if any(g.step_accuracy is not None and g.step_accuracy.shape[1] > 1 for g in members):
            what = f"Test accuracy after each inner step, {data}"
            found.append(Picture(svg(figures.draw_inner_steps(members, own), what), what))
    return found


def _episodes(groups: Sequence[Group], names: Sequence[str]) -> Iterator[tuple[str, list[Any]]]:
    """For each group a heading, and for each kept episode of its first seed: picture and embedding map."""
    for group, name in zip(groups, names, strict=True):
        run = group.runs[0]
        pictures = []
        for shown in run.shown:
            what = figures.episode_title(run, shown)
            alike = f"{name}, {group.task}, {what}"
            pictures.append(
                (svg(draw_shown(shown, what), alike), svg(draw_embedding(shown, ""), f"embeddings of {alike}"))
            )
        if pictures:
            yield f"{name}, {group.task} on {group.tested_on}, seed {run.result['seed']}", pictures
