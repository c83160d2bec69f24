"""How far a long piece of work is, on stderr: nothing where it takes less than a second. Layer 0."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

PATIENCE = 1.0  # seconds until something is shown
ELSEWHERE = 60.0  # the same for what every run does, where there is no terminal: a log needs no line of each
EVERY = 0.1  # seconds between two states of the bar


class Progress:
    """`with Progress("decoding pictures", 600) as work: work.advance(16)`.

    A bar on a terminal. Elsewhere two lines: once it has taken PATIENCE, and at the end. usual: it is part of every
    run, and ELSEWHERE counts there.
    """

    def __init__(self, doing: str, total: int, *, usual: bool = False) -> None:
        self.doing, self.total, self.done, self.usual = doing, total, 0, usual
        self._bar: Any = None
        self._shown = False

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._next = self._begin + _patience(usual=self.usual)
        return self

    def advance(self, steps: int = 1) -> None:
        """So many more are done."""
        self.done += steps
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY
        if not self._shown:
            self._shown = True
            self._show()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done)

    def _show(self) -> None:
        if not sys.stderr.isatty():
            _say(f"{self.doing}: {self.total}")
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn(self.doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=Console(file=sys.stderr), transient=True)
        self._bar.add_task(self.doing, total=self.total)
        self._bar.start()

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._shown:
            took = time.monotonic() - self._begin
            _say(f"{self.doing}: {self.done} of {self.total} in {took:.0f} s")


@contextlib.contextmanager
def announced(doing: str) -> Iterator[None]:
    """One line for work whose parts cannot be counted, once it has taken so long that one wonders."""
    say = threading.Timer(_patience(usual=True), lambda: _say(f"{doing} ..."))
    say.daemon = True
    say.start()
    try:
        yield
    finally:
        say.cancel()


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads any more (`2>&1 | head`): the work goes on
        print(line, file=sys.stderr, flush=True)


def _patience(*, usual: bool) -> float:
    return ELSEWHERE if usual and not sys.stderr.isatty() else PATIENCE
