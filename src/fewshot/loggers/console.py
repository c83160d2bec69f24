"""The run in the terminal: a live bar, or plain lines where no bar can be drawn. Layer 2.

Plain lines when standard output is not a terminal, is a narrow or a dumb one, or when NO_COLOR is set
(https://no-color.org). If nobody reads any more (`| head`, a closed window), the output ends and the run continues.
"""

import contextlib
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot.loggers.base import RunInfo

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

MIN_COLUMNS = 60  # the narrowest terminal in which step, loss and accuracy fit beside a bar
MIN_BAR, MAX_BAR = 8, 30


class Console:
    """A live bar with step, training loss and accuracy, last validation, speed and remaining time.

    live_seconds: least time between two drawings of the bar (one costs about 0.3 ms).
    line_seconds: least time between two plain lines; a validation is always printed.
    """

    def __init__(self, *, live_seconds: float = 0.25, line_seconds: float = 2.0) -> None:
        self.live_seconds = live_seconds
        self.line_seconds = line_seconds
        self._live: Live | None = None
        self._closed = False
        self._due = math.inf  # when the bar may be drawn again
        self._next_line = 0.0
        self._shown: dict[str, float] = {}
        self._marks: deque[tuple[float, int]] = deque(maxlen=40)  # (time, step), to take the speed over
        self._name = ""
        self._step = self._steps = 0

    def start(self, run: RunInfo) -> None:
        self._name, self._steps, self._step = run.name, run.steps, run.first_step
        self._marks.append((time.monotonic(), run.first_step))
        if run.steps > run.first_step and can_draw():
            self._start_live()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._shown.update(metrics)
        if self._live is not None:
            self.progress(step)
            return
        now = time.monotonic()
        if now >= self._next_line or any(key.startswith("val/") for key in metrics):
            self._next_line = now + self.line_seconds
            self._marks.append((now, step))
            self._print("  ".join([self._count(step), *_describe(metrics), *self._pace(step, now)]))

    def progress(self, step: int) -> None:
        self._step = step
        if (now := time.monotonic()) >= self._due:
            self._draw(step, now)

    def trained(self, step: int) -> None:
        """Ends the bar: what comes now, the test, has one of its own."""
        self._draw(step, time.monotonic(), ending="" if step >= self._steps else "stopped early")
        self._stop_live()

    def finish(self, result: Mapping[str, Any] | None, status: str) -> None:
        """Ends the bar; the result itself is printed by the command line."""
        if self._live is None:
            return
        self._draw(self._step, time.monotonic(), ending="" if status == "finished" else status)
        self._stop_live()

    def _start_live(self) -> None:
        """Start the live bar; if the terminal refuses it, plain lines remain."""
        import rich.console
        import rich.errors
        import rich.live

        console = rich.console.Console(highlight=False)
        live = rich.live.Live(console=console, auto_refresh=False)
        try:
            live.start()
            console.show_cursor(True)  # a killed run must not leave the terminal without one
        except (OSError, ValueError, rich.errors.LiveError):
            return
        self._live, self._due = live, 0.0
        self._draw(self._step, time.monotonic())  # the first step may take long

    def _stop_live(self) -> None:
        live, self._live, self._due = self._live, None, math.inf
        with contextlib.suppress(OSError, ValueError):
            if live is not None:
                live.stop()

    def _draw(self, step: int, now: float, ending: str = "") -> None:
        if self._live is None:
            return
        self._marks.append((now, step))
        self._due = now + self.live_seconds
        try:
            gone = not sys.stdout.isatty()  # rich then draws nothing and raises nothing
            if not gone:
                self._live.update(self._bar(step, now, ending), refresh=True)
        except (OSError, ValueError):
            gone = True
        if gone:
            self._hang_up()
            self._stop_live()

    def _bar(self, step: int, now: float, ending: str) -> "Text":
        """One line that fits: name, bar, and as many of the numbers as there is room for, the speed last."""
        from rich.text import Text

        room = shutil.get_terminal_size().columns - 1
        pace = [ending] if ending else self._pace(step, now)
        figures = [self._count(step), *_describe(self._shown), *pace]
        while len(figures) > 1 and len("  ".join(figures)) > room:
            figures.pop(-2 if figures[-2:] == pace else -1)
        text = "  ".join(figures)
        name = f"{self._name}  " if room >= len(self._name) + 2 + MIN_BAR + 2 + len(text) else ""
        bar = min(MAX_BAR, room - len(name) - 2 - len(text))
        line = Text(name, no_wrap=True, overflow="crop", end="")
        if bar >= MIN_BAR:
            done = round(bar * min(1.0, step / self._steps))
            full, empty = ("━", "━") if _encodes("━") else ("#", ".")
            line.append(full * done, style="bar.complete").append(empty * (bar - done) + "  ", style="bar.back")
        return line.append(text)

    def _count(self, step: int) -> str:
        return f"step {step}/{self._steps}" if self._steps else f"step {step}"

    def _pace(self, step: int, now: float) -> list[str]:
        """Speed over the last drawings or lines, and the time that the remaining steps take at it."""
        then, first = self._marks[0]
        if step <= first or now <= then:
            return []
        rate = (step - first) / (now - then)
        left = max(0, round((self._steps - step) / rate))
        return [f"{rate:.3g} steps/s", f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"]

    def _print(self, line: str) -> None:
        if self._closed or sys.stdout is None:
            return
        encoding = sys.stdout.encoding or "utf-8"
        try:
            print(line.encode(encoding, "replace").decode(encoding), flush=True)
        except (OSError, ValueError):  # BrokenPipeError, or a closed file
            self._hang_up()

    def _hang_up(self) -> None:
        """Nobody reads any more. Later prints and the flush at exit must not fail either
        (https://docs.python.org/3/library/signal.html#note-on-sigpipe)."""
        self._closed = True
        with contextlib.suppress(OSError, ValueError, AttributeError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _describe(metrics: Mapping[str, float]) -> list[str]:
    """`loss 0.4312`, `acc 91.2`, `val 93.42 ± 0.51`, as far as they are there. Accuracies in percent."""
    figures = []
    if (loss := metrics.get("train/loss")) is not None:
        figures.append(f"loss {loss:.4f}")
    if (accuracy := metrics.get("train/accuracy")) is not None:
        figures.append(f"acc {accuracy:.1f}")
    if (accuracy := metrics.get("val/accuracy")) is not None:
        interval = metrics.get("val/accuracy_ci95")
        sign = "±" if _encodes("±") else "+/-"
        figures.append(f"val {accuracy:.2f}" + (f" {sign} {interval:.2f}" if interval is not None else ""))
    return figures


def can_draw() -> bool:
    """Whether standard output is a terminal that is wide enough, and colours are not refused."""
    try:
        terminal = sys.stdout is not None and sys.stdout.isatty()
    except ValueError:  # closed
        return False
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in ("dumb", "unknown")
    return terminal and not plain and shutil.get_terminal_size().columns >= MIN_COLUMNS


def _encodes(character: str) -> bool:
    try:
        character.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
