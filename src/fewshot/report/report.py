"""What run folders and sweeps at or below some paths hold, gathered once for all views. Layer 5."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from fewshot.printable import printable
from fewshot.report import findings, tables
from fewshot.report.comparison import Comparison
from fewshot.report.groups import Group, grouped
from fewshot.report.runs import RunRecord, read_runs
from fewshot.report.settings import labels
from fewshot.report.sweeps import MissingJob, find_sweeps
from fewshot.report.table import Table


class Report:
    """Runs, what they were asked in groups, and what the comparison of these finds."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.runs, damaged = read_runs(paths)
        self.sweeps, damaged_sweeps = find_sweeps(paths)
        self.left_out = [*damaged, *damaged_sweeps]  # a line for each record that cannot be read

    @property
    def title(self) -> str:
        return f"Runs of {', '.join(printable(path) for path in self.paths)}"

    @cached_property
    def groups(self) -> list[Group]:
        return grouped(self.runs)

    @cached_property
    def names(self) -> list[str]:
        return labels(self.groups)

    @cached_property
    def comparison(self) -> Comparison:
        return Comparison(self.groups)

    @cached_property
    def marks(self) -> list[str]:
        return findings.marks(self.groups, self.comparison)

    @cached_property
    def headline(self) -> str:
        return findings.headline(self.groups, self.names, self.comparison)

    @cached_property
    def details(self) -> list[str]:
        """A sentence for each task, but for the one that is the headline."""
        sentences = findings.details(self.groups, self.names, self.comparison)
        return [sentence for sentence in sentences if sentence != self.headline]

    @property
    def below_pixels(self) -> str:
        return findings.below_pixels(self.groups, self.names)

    @property
    def method(self) -> str:
        return findings.method(self.comparison, self.groups)

    @property
    def pivot(self) -> Table:
        return tables.pivot(self.groups, self.names, self.marks)

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
    def unfinished(self) -> Table:
        return tables.unfinished(self.runs, self.jobs)

    def summary(self) -> str:
        """`16 runs finished, 1 unfinished; sweep of 18 jobs: 16 with a result, 1 failed, 1 waiting`; of a sweep that is
        complete nothing."""
        done, left = len(self.finished), len(self.runs) - len(self.finished)
        parts = [f"{done} run{'s' * (done != 1)} finished" + (f", {left} unfinished" if left else "")]
        for sweep in [sweep for sweep in self.sweeps if sweep.missing]:
            by_status: dict[str, int] = {}
            for job in sweep.missing:
                by_status[job.status] = by_status.get(job.status, 0) + 1
            counts = {"with a result": sweep.jobs - len(sweep.missing)} | by_status
            what = ", ".join(f"{n} {status}" for status, n in counts.items())
            parts.append(f"sweep {printable(sweep.path.name)} of {sweep.jobs} jobs: {what}")
        return "; ".join(parts)

    def warnings(self) -> list[str]:
        """A line for each record that is left out, and for each run whose records were changed after its end."""
        runs = [(printable(run.path), ", ".join(names)) for run in self.runs if (names := run.changed)]
        changed = [f"{path}: {names} changed since the end of the run, whose numbers they were" for path, names in runs]
        return [f"left out: {line}" for line in self.left_out] + changed
