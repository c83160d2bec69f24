"""The tables of a report, once for the terminal, Markdown and HTML: cells are text. Layer 5."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewshot.report.groups import Group
from fewshot.report.runs import RunRecord
from fewshot.report.sweeps import MissingJob

NONE = "–"


# Columns that hold words; all others hold numbers, which are set flush right.
WORDS = {
    "algorithm",
    "run",
    "data",
    "network",
    "source",
    "task",
    "status",
    "step",
    "why",
    "folder",
    "what",
    "value",
    "runs",
}


@dataclass(frozen=True)
class Table:
    """columns, and rows of as many cells. shared: column -> what would stand in every row, and is left out of them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    shared: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def words(self) -> list[bool]:
        """Of each column: whether it holds words."""
        return [column in WORDS for column in self.columns]

    @property
    def caption(self) -> str:
        """`In all rows: ways 5, shots 1.`, and the note in a line of its own."""
        shared = ", ".join(f"{column} {value}" for column, value in self.shared.items())
        return "\n".join(filter(None, [f"In all rows: {shared}." if shared else "", self.note]))


def condensed(columns: Mapping[str, Sequence[str]], *, always: Collection[str], note: str = "") -> Table:
    """A table without needless columns: those without values go, those with one value in all rows become `shared`.

    always: columns that stay in the table even if all their values are the same.
    """
    filled = {name: cells for name, cells in columns.items() if any(cell != NONE for cell in cells)}
    shared = {name: cells[0] for name, cells in filled.items() if name not in always and len(set(cells)) == 1}
    kept = {name: cells for name, cells in filled.items() if name not in shared}
    return Table(list(kept), list(zip(*kept.values(), strict=True)), shared, note)


def number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def accuracy(value: float | None, ci95: float | None) -> str:
    """`98.61 ± 0.21`."""
    return number(value) if ci95 is None else f"{number(value)} ± {number(ci95)}"


def results(groups: Sequence[Group], names: Sequence[str]) -> Table:
    """A row for each setting: mean over seeds with the interval over episodes; apart from it the spread over seeds.

    The accuracy stands second, then what differs between the rows.
    """
    first = groups[0].runs[0] if groups else None
    marks = ["" if first is None or g.runs[0].same_network(first) else "*" for g in groups]
    overlaps = [g.result["protocol"].get("overlap") for g in groups]
    columns = {
        "algorithm": names,
        "accuracy %": [
            accuracy(g.accuracy, g.ci95) + (" †" if o else "") for g, o in zip(groups, overlaps, strict=True)
        ],
        "ways": [str(g.result["ways"]) for g in groups],
        "shots": [str(g.result["shots"]) for g in groups],
        "data": [g.tested_on for g in groups],
        "network": [g.runs[0].network.text + mark for g, mark in zip(groups, marks, strict=True)],
        "published": [published(g) for g in groups],
        "sd of seeds": [number(g.spread) for g in groups],
        "seeds": [_list(g.seeds) for g in groups],
        "raw pixels": [number(g.mean("baselines", "raw_pixels", "accuracy")) for g in groups],
        "untrained": [number(g.mean("baselines", "untrained", "accuracy")) for g in groups],
        "steps": [_list([run.steps for run in g.runs]) for g in groups],
    }
    notes = (
        ["* Another network than in the first row: the difference is not the algorithm's alone."] if any(marks) else []
    )
    notes += [f"† {overlap}." for overlap in dict.fromkeys(filter(None, overlaps))]
    return condensed(columns, always=("algorithm", "accuracy %", "published", "sd of seeds"), note="\n".join(notes))


def published(group: Group) -> str:
    """`98.7 ± 0.4: reproduced`."""
    paper = group.paper
    return NONE if not paper else f"{_paper(paper)}: {group.verdicts}"


def papers(groups: Sequence[Group], names: Sequence[str]) -> Table:
    """Paper against ours, of the groups that have a published value."""
    chosen = [(g, g.paper, name) for g, name in zip(groups, names, strict=True) if g.paper]
    columns = {
        "run": [f"{name}, {g.task}" for g, _, name in chosen],
        "source": [str(paper.get("source") or NONE) for _, paper, _ in chosen],
        "published %": [_paper(paper) for _, paper, _ in chosen],
        "ours %": [accuracy(g.accuracy, g.ci95) for g, _, _ in chosen],
        "difference": [f"{g.accuracy - paper['accuracy']:+.2f}" for g, paper, _ in chosen],
        "tolerance": [number(paper.get("tolerance")) for _, paper, _ in chosen],
        "network": [g.runs[0].network.text for g, _, _ in chosen],
        "verdict": [g.verdicts for g, _, _ in chosen],
    }
    return condensed(columns, always=[name for name in columns if name not in ("tolerance", "network")])


def _paper(paper: Mapping[str, Any]) -> str:
    return f"{paper['accuracy']} ± {paper['ci95']}" if paper.get("ci95") else f"{paper['accuracy']}"


def cost(groups: Sequence[Group], names: Sequence[str]) -> Table:
    """Means over seeds of what training and testing took."""

    def share(group: Group) -> float | None:
        step, data = group.mean("timing", "seconds_per_step"), group.mean("timing", "data_seconds_per_step")
        return None if data is None or not step else 100 * data / step

    def times(group: Group, key: str, factor: float = 1.0) -> float | None:
        value = group.mean("timing", key)
        return None if value is None else factor * value

    columns = {
        "run": names,
        "task": [g.task for g in groups],
        "network": [g.runs[0].network.text for g in groups],
        "training s": [number(times(g, "train_seconds"), 1) for g in groups],
        "ms per step": [number(times(g, "seconds_per_step", 1000), 1) for g in groups],
        "data share %": [number(share(g), 1) for g in groups],
        "peak memory MB": [number(times(g, "peak_memory_mb"), 0) for g in groups],
        "test episodes/s": [number(times(g, "test_episodes_per_second"), 1) for g in groups],
    }
    return condensed(columns, always=[name for name in columns if name != "network"])


def unfinished(runs: Sequence[RunRecord], jobs: Sequence[MissingJob]) -> Table:
    """Runs without a result, and a sweep's jobs that have none: how far they came, and why."""
    columns = ["run", "status", "step", "why", "folder"]
    jobs_rows = [
        [f"job {job.number}: {' '.join(job.overrides)}", job.status,
         _step(RunRecord(job.folder) if job.folder else None), job.reason or NONE, str(job.folder or job.sweep)]
        for job in jobs
    ]  # fmt: skip
    taken = {job.folder.resolve() for job in jobs if job.folder}
    run_rows = [
        [run.name, "unfinished", _step(run), "stopped or running; the same command goes on with it", str(run.path)]
        for run in runs if not run.finished and run.path.resolve() not in taken
    ]  # fmt: skip
    return Table(columns, [*jobs_rows, *run_rows])


def _step(run: RunRecord | None) -> str:
    planned = (run.config.get("trainer") or {}).get("steps") if run else None
    return f"{run.steps} of {planned}" if run and planned is not None else NONE


def each_run(runs: Sequence[RunRecord]) -> Table:
    """Every finished run by itself."""
    finished = [run for run in runs if run.finished]
    tests = [run.result["test"] for run in finished]
    columns = {
        "run": [run.name for run in finished],
        "accuracy %": [accuracy(test["accuracy"], test["accuracy_ci95"]) for test in tests],
        "data": [f"{run.result['dataset']} {run.result['split']}" for run in finished],
        **{key: [str(run.result[key]) for run in finished] for key in ("ways", "shots", "seed", "steps")},
        "network": [run.network.text for run in finished],
        "episodes": [str(test["episodes"]) for test in tests],
        "folder": [str(run.path) for run in finished],
    }
    return condensed(columns, always=("run", "accuracy %", "folder"))


def _list(values: Sequence[int]) -> str:
    """`0, 1, 2`; equal ones once."""
    return ", ".join(map(str, dict.fromkeys(values)))


def markdown(table: Table) -> str:
    """A Markdown table; bars in cells are escaped."""
    rule = ["---" if words else "---:" for words in table.words]
    lines = [table.columns, rule, *[[cell.replace("|", "\\|") for cell in row] for row in table.rows]]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{text}\n{table.caption}\n" if table.caption else text
