"""A sweep in the terminal: a live table, or plain lines where none can be drawn. Layer 7; no torch."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot.cli.show import percent, print_table
from fewshot.loggers.console import can_draw
from fewshot.run_folder import RunFolder
from fewshot.sweep.jobs import Job
from fewshot.sweep.progress import JobProgress

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table

STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "failed": "bold red", "stopped": "yellow"}
ORDER = ("running", "failed", "stopped", "done", "waiting")  # which jobs are shown first where not all fit


class View:
    """Shows jobs, whose status a batch changes. A context manager, entered once for each batch."""

    def __init__(self, jobs: Sequence[Job], folder: Path) -> None:
        self.jobs, self.folder = jobs, folder
        self.slots = 0  # jobs at a time; a batch sets it
        self.steps: dict[int, int | None] = {}  # how many each job trains, by number
        self._progress: dict[int, JobProgress] = {}
        self._results: dict[int, str] = {}
        self._live: Live | None = None

    @property
    def names(self) -> dict[int, str]:
        """By number: a job's name in the table. `jobs` grows with each batch, and with it what tells jobs apart."""
        return varying(self.jobs)

    def __enter__(self) -> "View":
        if can_draw():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(highlight=False), auto_refresh=False, transient=True)
            self._live.start()
            self._live.console.show_cursor(True)  # a killed launcher must not leave the terminal without one
            self.update()
        else:
            self._print(f"sweep {self.folder}: {self._counts()}, {self.slots} at a time")
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError, ValueError):
            if self._live is not None:
                self._live.stop()
        self._live = None

    def changed(self, job: Job) -> None:
        """A job has another status than before."""
        if self._live is not None:
            self.update()
        elif job.status != "waiting":
            at = f"job {job.number}  {job.status}  {self.names[job.number]}"
            self._print("  ".join(filter(None, [at, self._details(job)])))

    def update(self) -> None:
        for job in self.jobs:
            if job.status == "running" and job.identity:
                self._progress.setdefault(job.number, JobProgress(self.folder / job.identity)).update()
        if self._live is not None:
            try:
                self._live.update(self._frame(), refresh=True)
            except (OSError, ValueError):
                self._live = None
                self._hang_up()

    def summary(self) -> None:
        """The table of all jobs, and one line."""
        try:
            print_table(self._table(room=None))
            print(self._counts(), flush=True)
        except (OSError, ValueError):
            self._hang_up()

    def _table(self, *, room: int | None) -> "Table":
        """room: how many jobs to show, each cut to one line; None: all, with long texts folded."""
        from rich.table import Table
        from rich.text import Text

        whole = room is None
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("#", justify="right", no_wrap=True)
        table.add_column("job", min_width=12, overflow="fold")
        table.add_column("", no_wrap=True)
        table.add_column("", min_width=16, overflow="fold")
        names = self.names
        for job in self._chosen(room):
            name, what = (
                Text(text, no_wrap=not whole, overflow="fold" if whole else "ellipsis")
                for text in (names[job.number], self._details(job))
            )
            table.add_row(str(job.number), name, Text(job.status, STYLES[job.status]), what)
        return table

    def _chosen(self, room: int | None) -> list[Job]:
        """The most important jobs that there is room for, in the order of their numbers."""
        important = sorted(self.jobs, key=lambda job: ORDER.index(job.status))
        return sorted(important[:room], key=lambda job: job.number)

    def _frame(self) -> "Group":
        """The part of the table that fits into the terminal, and how many jobs have each status."""
        from rich.console import Group

        room = max(1, shutil.get_terminal_size().lines - 4)
        hidden = len(self.jobs) - room
        return Group(self._table(room=room), self._counts() + (f" ({hidden} not shown)" if hidden > 0 else ""))

    def _counts(self) -> str:
        count = Counter(job.status for job in self.jobs)
        parts = [
            f"{count[status]} {status}"
            for status in ("done", "running", "failed", "stopped", "waiting")
            if count[status]
        ]
        return ", ".join(parts) + f" of {len(self.jobs)}"

    def _details(self, job: Job) -> str:
        """The state of a job in a few words."""
        if job.status == "done":
            return self._result(job)
        if job.status == "running" and (progress := self._progress.get(job.number)) and progress.step is not None:
            accuracy = "" if progress.accuracy is None else f"  {progress.accuracy:.1f} %"
            return f"step {progress.step}/{self.steps[job.number]}{accuracy}"
        log = f"{self.folder / job.log}: " if job.status == "failed" and job.attempts else ""
        return log + (job.reason or "")

    def _result(self, job: Job) -> str:
        if job.number not in self._results:
            result = RunFolder(self.folder / str(job.identity)).result()
            validated = f" (val {val['accuracy']:.2f})" if (val := result.get("val")) else ""
            self._results[job.number] = percent(result["test"]) + f" %{validated}"
        return self._results[job.number]

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except (OSError, ValueError):
            self._hang_up()

    def _hang_up(self) -> None:
        """The terminal or pipe is closed: the sweep continues without output."""
        with suppress(OSError, ValueError, AttributeError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def varying(jobs: Sequence[Job]) -> dict[int, str]:
    """By number: the overrides that not all jobs share."""
    counts = Counter(word for job in jobs for word in set(job.overrides))
    return {
        job.number: " ".join(word for word in job.overrides if counts[word] < len(jobs)) or " ".join(job.overrides[:1])
        for job in jobs
    }
