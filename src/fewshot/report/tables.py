"""The tables of a report, once for the terminal, Markdown and HTML: cells are text. Layer 5."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewshot.report.groups import Group
from fewshot.report.runs import Record
from fewshot.report.sweeps import Job

NONE = "–"


@dataclass(frozen=True)
class Table:
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1  # so many columns from the left hold words; numbers follow


def number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def accuracy(value: float | None, ci95: float | None) -> str:
    """`98.61 ± 0.21`."""
    return number(value) if ci95 is None else f"{number(value)} ± {number(ci95)}"


def results(groups: Sequence[Group], names: Sequence[str]) -> Table:
    """A row for each setting: mean over seeds with the interval over episodes; apart from it the spread over seeds.

    Columns that no row fills are left out.
    """
    columns = ["run", "algorithm", "data", "ways", "shots", "seeds", "steps", "accuracy %", "sd of seeds", "raw pixels",
               "untrained", "published"]  # fmt: skip
    rows = [
        [g.runs[0].name, name, g.tested_on, str(g.result["ways"]), str(g.result["shots"]), _list(g.seeds),
         _list([run.steps for run in g.runs]), accuracy(g.accuracy, g.ci95), number(g.spread),
         number(g.mean("baselines", "raw_pixels", "accuracy")), number(g.mean("baselines", "untrained", "accuracy")),
         published(g)]
        for g, name in zip(groups, names, strict=True)
    ]  # fmt: skip
    kept = [i for i in range(len(columns)) if any(row[i] != NONE for row in rows)]
    return Table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows], words=3)


def published(group: Group) -> str:
    """`98.7 ± 0.4: reproduced`."""
    paper = group.paper
    return NONE if not paper else f"{_paper(paper)}: {group.verdicts}"


def papers(groups: Sequence[Group], names: Sequence[str]) -> Table:
    """Paper against ours, of the groups that have a published value."""
    columns = ["run", "source", "published %", "ours %", "difference", "tolerance", "verdict"]
    rows = []
    for g, name in zip(groups, names, strict=True):
        if paper := g.paper:
            difference = f"{g.accuracy - paper['accuracy']:+.2f}"
            ours, source = accuracy(g.accuracy, g.ci95), str(paper.get("source") or NONE)
            rows.append([f"{name}, {g.task}", source, _paper(paper), ours, difference,
                         number(paper.get("tolerance")), g.verdicts])  # fmt: skip
    return Table(columns, rows, words=2)


def _paper(paper: Mapping[str, Any]) -> str:
    return f"{paper['accuracy']} ± {paper['ci95']}" if paper.get("ci95") else f"{paper['accuracy']}"


def cost(groups: Sequence[Group], names: Sequence[str]) -> Table:
    """Means over seeds of what training and testing took."""
    columns = ["run", "task", "training s", "ms per step", "data share %", "peak memory MB", "test episodes/s"]
    rows = []
    for g, name in zip(groups, names, strict=True):
        step, data = g.mean("timing", "seconds_per_step"), g.mean("timing", "data_seconds_per_step")
        share = None if data is None or not step else 100 * data / step
        rows.append([name, g.task, number(g.mean("timing", "train_seconds"), 1), number(step and 1000 * step, 1),
                     number(share, 1), number(g.mean("timing", "peak_memory_mb"), 0),
                     number(g.mean("timing", "test_episodes_per_second"), 1)])  # fmt: skip
    return Table(columns, rows, words=2)


def unfinished(runs: Sequence[Record], jobs: Sequence[Job]) -> Table:
    """Runs without a result, and a sweep's jobs that have none: how far they came, and why."""
    columns = ["run", "status", "step", "why", "folder"]
    jobs_rows = [
        [f"job {job.number}: {' '.join(job.overrides)}", job.status, _step(Record(job.folder) if job.folder else None),
         job.reason or NONE, str(job.folder or job.sweep)]
        for job in jobs
    ]  # fmt: skip
    taken = {job.folder.resolve() for job in jobs if job.folder}
    run_rows = [
        [run.name, "unfinished", _step(run), "stopped or running; the same command goes on with it", str(run.path)]
        for run in runs if not run.finished and run.path.resolve() not in taken
    ]  # fmt: skip
    return Table(columns, [*jobs_rows, *run_rows], words=5)


def _step(run: Record | None) -> str:
    planned = (run.config.get("trainer") or {}).get("steps") if run else None
    return f"{run.steps} of {planned}" if run and planned is not None else NONE


def each_run(runs: Sequence[Record]) -> Table:
    """Every finished run by itself."""
    columns = ["run", "data", "ways", "shots", "seed", "steps", "accuracy %", "episodes", "folder"]
    rows = []
    for run in runs:
        if run.finished:
            result, test = run.result, run.result["test"]
            asked = [str(result[key]) for key in ("ways", "shots", "seed", "steps")]
            reached = [accuracy(test["accuracy"], test["accuracy_ci95"]), str(test["episodes"])]
            rows.append([run.name, f"{result['dataset']} {result['split']}", *asked, *reached, str(run.path)])
    return Table(columns, rows, words=2)


def same_and_differing(
    groups: Sequence[Group], names: Sequence[str], facts: Callable[[Record], Mapping[str, Any]]
) -> tuple[dict[str, str], Table]:
    """Of facts such as the protocol: those that all runs share, and for the others which runs have which value."""
    keys = dict.fromkeys(key for g in groups for run in g.runs for key in facts(run))
    same: dict[str, str] = {}
    rows: list[list[str]] = []
    for key in keys:
        holders: dict[str, list[str]] = {}
        for g, name in zip(groups, names, strict=True):
            for run in g.runs:
                seed = f" seed {run.result['seed']}" if len({_text(facts(r).get(key)) for r in g.runs}) > 1 else ""
                holders.setdefault(_text(facts(run).get(key)), []).append(f"{name} {g.task}{seed}")
        if len(holders) == 1:
            same[key] = next(iter(holders))
        else:
            rows += [[key, value, _short(who, holders, names, groups)] for value, who in holders.items()]
    return same, Table(["what", "value", "runs"], rows, words=3)


def _short(who: Sequence[str], holders: Mapping[str, list[str]], names: Sequence[str], groups: Sequence[Group]) -> str:
    """The runs of one value; an algorithm whose runs all have it by its name alone."""
    others = {holder for held in holders.values() if held is not who for holder in held}
    found = []
    for name, g in zip(names, groups, strict=True):
        mine = [w for w in who if w.startswith(f"{name} {g.task}")]
        whole = not any(other.startswith(tuple(f"{name} {h.task}" for h in groups)) for other in others)
        found += [name] if whole and mine else mine
    return ", ".join(dict.fromkeys(found))


def _text(value: Any) -> str:
    return NONE if value is None else str(value)


def _list(values: Sequence[int]) -> str:
    """`0, 1, 2`; equal ones once."""
    return ", ".join(map(str, dict.fromkeys(values)))


def markdown(table: Table) -> str:
    """A Markdown table; bars in cells are escaped."""
    rule = ["---" if i < table.words else "---:" for i in range(len(table.columns))]
    lines = [table.columns, rule, *[[cell.replace("|", "\\|") for cell in row] for row in table.rows]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
