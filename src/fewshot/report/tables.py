"""What the tables of a report say. Layer 5."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fewshot.printable import printable
from fewshot.report.comparison import Comparison
from fewshot.report.groups import Group
from fewshot.report.runs import RunRecord
from fewshot.report.sweeps import MissingJob
from fewshot.report.table import NONE, Table, accuracy, condensed, number

AGAIN = {"train": "goes on with it", "evaluate": "does it again"}  # after a stop
BEST, TIED = "best", "≈"  # of the settings of one task


def by_cell(groups: Sequence[Group]) -> dict[tuple[str, int | str, int | str], list[int]]:
    """The groups, by number, that share data, ways and shots."""
    found: dict[tuple[str, int | str, int | str], list[int]] = {}
    for i, group in sorted(enumerate(groups), key=lambda item: (item[1].tested_on, item[1].size)):
        found.setdefault(group.cell, []).append(i)
    return found


def best_first(members: Sequence[int], groups: Sequence[Group]) -> list[int]:
    """Settings by their accuracy."""
    return sorted(members, key=lambda i: -groups[i].accuracy)


def pivot(groups: Sequence[Group], names: Sequence[str], marks: Sequence[str]) -> Table:
    """A row for each algorithm or setting, a column for each task; the best of a task bold, ties with it marked."""
    cells = by_cell(groups)
    several_data = len({g.tested_on for g in groups}) > 1
    rows: list[tuple[str, dict[tuple[str, int | str, int | str], int]]] = []
    for cell, members in cells.items():
        for i in members:  # two settings of one name and task have a row each
            row = next((row for name, row in rows if name == names[i] and cell not in row), None)
            if row is None:
                rows.append((names[i], row := {}))
            row[cell] = i
    rows.sort(key=lambda row: (-len(row[1]), -fmean(groups[i].accuracy for i in row[1].values())))
    columns: dict[str, list[str]] = {"algorithm": [name for name, _ in rows] + ["raw pixels"]}
    strong: dict[str, list[bool]] = {}
    for cell, members in cells.items():
        title = groups[members[0]].task + (f" {cell[0]}" if several_data else "")
        chosen = [row.get(cell) for _, row in rows]
        pixels = groups[members[0]].mean("baselines", "raw_pixels", "accuracy")
        columns[title] = [NONE if i is None else marked(groups[i], marks[i]) for i in chosen] + [number(pixels)]
        strong[title] = [i is not None and marks[i] == BEST and len(members) > 1 for i in chosen]
    note = "Bold: the best of a column." if any(map(any, strong.values())) else ""
    if TIED in marks:
        note += f" {TIED} cannot be told from it."
    networks = Counter(g.runs[0].network.text for g in groups).most_common()
    if len(networks) > 1:
        usual = networks[0][0]
        used = [dict.fromkeys(groups[i].runs[0].network.text for i in row.values()) for _, row in rows]
        columns["network"] = ["" if list(those) == [usual] else ", ".join(those) for those in used] + [""]
        note += f" Network: {usual} where no other is named."
    note = "\n".join(filter(None, [note, *overlaps(groups)]))
    return condensed(columns, always=[name for name in columns if name != "network"], note=note, strong=strong)


def marked(group: Group, mark: str) -> str:
    """`88.51 ± 0.90`, with the mark of a tie before it, and that of classes seen in training after it."""
    said = accuracy(group.accuracy, group.ci95) + (" †" if group.result["protocol"].get("overlap") else "")
    return f"{TIED} {said}" if mark == TIED else said


def overlaps(groups: Sequence[Group]) -> list[str]:
    """A line for each kind of test that had classes of the training."""
    found = dict.fromkeys(filter(None, [g.result["protocol"].get("overlap") for g in groups]))
    return [f"† {overlap}." for overlap in found]


def pairs(comparison: Comparison, groups: Sequence[Group], names: Sequence[str]) -> Table:
    """All pairs, the better one first."""
    several_data = len({g.tested_on for g in groups}) > 1
    rows = []
    for pair in comparison.pairs:
        a, b, value = pair.a, pair.b, pair.difference.value
        better, other = (a, b) if value >= 0 else (b, a)
        task = groups[a].task + (f" {groups[a].tested_on}" if several_data else "")
        said = accuracy(abs(value), pair.difference.ci95)
        p = "<0.0001" if pair.p < 0.0001 else number(pair.p, 4)
        rows.append([task, names[better], names[other], said, p, "yes" if pair.apart else "no"])
    return Table(["task", "better", "other", "points", "p (Holm)", "told apart"], rows)


def results(groups: Sequence[Group], names: Sequence[str], marks: Sequence[str]) -> Table:
    """A row for each setting: mean over seeds with the interval over episodes; apart from it the spread over seeds.

    The best of a task first. The accuracy stands second, then what differs between the rows.
    """
    order = [i for members in by_cell(groups).values() for i in best_first(members, groups)]
    groups, names, marks = [groups[i] for i in order], [names[i] for i in order], [marks[i] for i in order]
    first = groups[0].runs[0] if groups else None
    stars = ["" if first is None or g.runs[0].same_network(first) else "*" for g in groups]
    columns = {
        "algorithm": names,
        "accuracy %": [marked(g, mark) for g, mark in zip(groups, marks, strict=True)],
        "ways": [str(g.result["ways"]) for g in groups],
        "shots": [str(g.result["shots"]) for g in groups],
        "data": [g.tested_on for g in groups],
        "published": [published(g) for g in groups],
        "sd of seeds": [number(g.spread) for g in groups],
        "network": [g.runs[0].network.text + star for g, star in zip(groups, stars, strict=True)],
        "seeds": [_list(g.seeds) for g in groups],
        "raw pixels": [number(g.mean("baselines", "raw_pixels", "accuracy")) for g in groups],
        "untrained": [number(g.mean("baselines", "untrained", "accuracy")) for g in groups],
        "steps": [_list([run.steps for run in g.runs]) for g in groups],
    }
    notes = (
        ["* Another network than in the first row: the difference is not the algorithm's alone."] if any(stars) else []
    )
    notes += [f"{TIED} cannot be told from the best of its task."] if TIED in marks else []
    bold = {"accuracy %": [mark == BEST for mark in marks]} if len(groups) > 1 else {}
    always = ("algorithm", "accuracy %", "published", "sd of seeds")
    return condensed(columns, always=always, note="\n".join([*notes, *overlaps(groups)]), strong=bold)


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
         _step(RunRecord(job.folder) if job.folder else None), job.reason or NONE, printable(job.folder or job.sweep)]
        for job in jobs
    ]  # fmt: skip
    taken = {job.folder.resolve() for job in jobs if job.folder}
    run_rows = [
        [run.name, "unfinished", _step(run), f"stopped or running; the same command {AGAIN[run.kind]}",
         printable(run.path)]
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
        "folder": [printable(run.path) for run in finished],
    }
    return condensed(columns, always=("run", "accuracy %", "folder"))


def _list(values: Sequence[int]) -> str:
    """`0, 1, 2`; equal ones once."""
    return ", ".join(map(str, dict.fromkeys(values)))
