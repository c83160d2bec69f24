"""A sweep in the terminal: a live table, or plain lines where none can be drawn. Layer 5; no torch."""

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot.cli.show import percent, print_table
from fewshot.cli.sweep.jobs import Job
from fewshot.cli.sweep.progress import Progress
from fewshot.loggers.console import can_draw

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "failed": "bold red", "stopped": "yellow"}
ORDER = ("running", "failed", "stopped", "done", "waiting")  # who stays where not all jobs fit
MOST_ROWS = 1000


class View:
    """Follows jobs whose status another changes; a context manager while they run, once for each batch."""

    def __init__(self, jobs: Sequence[Job], folder: Path) -> None:
        self.jobs, self.folder = jobs, folder
        self.slots = 0  # jobs at a time, as a batch finds them
        self.steps: dict[int, int | None] = {}  # how many each job trains, by number
        self.names: dict[int, str] = {}
        self._progress: dict[int, Progress] = {}
        self._results: dict[int, str] = {}
        self._live: Live | None = None

    def __enter__(self) -> "View":
        self.names = varying(self.jobs)
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
            self._print("  ".join(filter(None, [at, self._what(job), self._where(job)])))

    def update(self) -> None:
        for job in self.jobs:
            if job.status == "running" and job.identity:
                self._progress.setdefault(job.number, Progress(self.folder / job.identity)).look()
        if self._live is not None:
            try:
                self._live.update(self._table(shutil.get_terminal_size().lines - 3), refresh=True)
            except (OSError, ValueError):
                self._live = None
                self._hang_up()

    def summary(self) -> None:
        """The table of all jobs, and one line."""
        try:
            print_table(self._table(MOST_ROWS))
            print(flush=True)
        except (OSError, ValueError):
            self._hang_up()

    def _table(self, room: int) -> "Table":
        from rich.table import Table
        from rich.text import Text

        narrow = shutil.get_terminal_size().columns < 100
        table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", caption_justify="left")
        table.add_column("#", justify="right")
        table.add_column("job", no_wrap=True, overflow="ellipsis", ratio=1 if narrow else None)
        table.add_column("", no_wrap=True)
        table.add_column("", overflow="fold")
        shown = self._chosen(room)
        for job in shown:
            style = STYLES[job.status]
            what = Text(" ".join(filter(None, [self._what(job), self._where(job)])))
            table.add_row(str(job.number), self.names[job.number], Text(job.status, style), what)
        table.caption = self._counts() + (
            f" ({len(self.jobs) - len(shown)} not shown)" if len(shown) < len(self.jobs) else ""
        )
        return table

    def _chosen(self, room: int) -> list[Job]:
        """As many jobs as there is room for, in order."""
        important = sorted(self.jobs, key=lambda job: ORDER.index(job.status))
        return sorted(important[: max(1, room)], key=lambda job: job.number)

    def _counts(self) -> str:
        count = Counter(job.status for job in self.jobs)
        parts = [
            f"{count[status]} {status}"
            for status in ("done", "running", "failed", "stopped", "waiting")
            if count[status]
        ]
        return ", ".join(parts) + f" of {len(self.jobs)}"

    def _what(self, job: Job) -> str:
        """The state of a job in a few words."""
        if job.status == "done":
            return self._result(job)
        if job.status == "running" and (progress := self._progress.get(job.number)) and progress.step is not None:
            accuracy = "" if progress.accuracy is None else f"  {progress.accuracy:.1f} %"
            return f"step {progress.step}/{self.steps[job.number]}{accuracy}"
        return job.reason or ""

    def _where(self, job: Job) -> str:
        return str(self.folder / job.log) if job.status == "failed" and job.attempts else ""

    def _result(self, job: Job) -> str:
        if job.number not in self._results:
            result = json.loads((self.folder / str(job.identity) / "result.json").read_bytes())
            validated = f" (val {result['val']['accuracy']:.2f})" if result["val"] else ""
            self._results[job.number] = percent(result["test"]) + f" %{validated}"
        return self._results[job.number]

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except (OSError, ValueError):
            self._hang_up()

    def _hang_up(self) -> None:
        """Nobody reads any more: the sweep goes on, silently."""
        with suppress(OSError, ValueError, AttributeError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def varying(jobs: Sequence[Job]) -> dict[int, str]:
    """By number: the overrides that not all jobs share."""
    counts = Counter(word for job in jobs for word in set(job.overrides))
    return {
        job.number: " ".join(word for word in job.overrides if counts[word] < len(jobs)) or " ".join(job.overrides[:1])
        for job in jobs
    }
