"""The console: a bar in a terminal, plain lines elsewhere, and no crash when nobody reads."""

import contextlib
import fcntl
import inspect
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fewshot.loggers import console
from fewshot.loggers.base import RunInfo
from fewshot.loggers.console import Console

CONF = Path(__file__).parents[2] / "conf" / "logger" / "console.yaml"
ROW = {"train/loss": 0.43214, "train/accuracy": 91.234}
VALIDATION = {"val/accuracy": 93.421, "val/accuracy_ci95": 0.512, "val/loss": 0.2}


def run_info(steps: int = 100, first_step: int = 0) -> RunInfo:
    return RunInfo(
        folder=Path("run"),
        name="maml_glyphs",
        id="run",
        steps=steps,
        first_step=first_step,
        config={},
        group="",
        job_type="train",
    )


class Terminal:
    """A pseudo-terminal as standard output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(self.slave, "w", encoding="utf-8")
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "stdout", self.stream)

    def close(self) -> None:
        self.stream.close()
        with contextlib.suppress(OSError):  # a test may have closed it
            os.close(self.master)

    def text(self) -> str:
        """What was written since the last call; the kernel passes it on a little later."""
        parts = []
        while select.select([self.master], [], [], 0.1)[0]:
            parts.append(os.read(self.master, 1 << 16))
        return b"".join(parts).decode()


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Terminal]]:
    opened: list[Terminal] = []

    def open_one(columns: int) -> Terminal:
        opened.append(Terminal(monkeypatch, columns))
        return opened[-1]

    yield open_one
    for terminal in opened:
        terminal.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the console sees; its last entry is now."""
    times = [1000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: times[-1])
    return times


def test_plain_lines_are_rate_limited_but_validations_are_not(capsys, clock):
    logger = Console(line_seconds=2.0)
    logger.start(run_info())
    for step, now, row in [(10, 1005, ROW), (20, 1006, ROW), (20, 1006.5, VALIDATION), (30, 1009, ROW)]:
        clock.append(now)
        logger.progress(step)
        logger.log(step, row)
    logger.finish({}, "finished")
    assert capsys.readouterr().out.splitlines() == [
        "step 10/100  loss 0.4321  acc 91.2  2 steps/s  0:00:45 left",
        "step 20/100  val 93.42 ± 0.51  3.08 steps/s  0:00:26 left",
        "step 30/100  loss 0.4321  acc 91.2  3.33 steps/s  0:00:21 left",
    ]


def test_a_resumed_run_counts_only_its_own_steps_in_the_speed(capsys, clock):
    logger = Console()
    logger.start(run_info(steps=200, first_step=100))
    clock.append(1010.0)
    logger.log(120, ROW)
    assert "step 120/200" in (line := capsys.readouterr().out)
    assert line.endswith("2 steps/s  0:00:40 left\n")


def test_a_run_without_training_steps_prints_its_rows(capsys):
    logger = Console()
    logger.start(run_info(steps=0))
    logger.log(0, VALIDATION)
    logger.finish(None, "failed")
    assert capsys.readouterr().out == "step 0  val 93.42 ± 0.51\n"


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_bar_in_a_terminal(open_terminal, clock, status):
    terminal = open_terminal(120)
    logger = Console(live_seconds=0.25)
    logger.start(run_info())
    clock.append(1005.0)
    logger.log(50, ROW)
    logger.log(50, VALIDATION)
    logger.finish(None, status)
    screen = terminal.text()
    last = screen.split("\r")[-2]
    assert "maml_glyphs" in last
    assert last.count("━") == 2 * last.split("\x1b[0m")[0].count("━"), "half of the bar at half of the steps"
    assert "step 50/100  loss 0.4321  acc 91.2  val 93.42 ± 0.51" in last
    assert ("10 steps/s  0:00:05 left" if status == "finished" else status) in last
    assert screen.endswith("\x1b[?25h"), "the cursor is visible again"
    assert sys.stdout is terminal.stream, "rich gives standard output back"


@pytest.mark.parametrize(("end", "said"), [(100, "step 100/100"), (50, "step 50/100  stopped early")])
def test_the_bar_ends_with_the_training_and_not_after_the_test(open_terminal, clock, end, said):
    terminal = open_terminal(120)
    logger = Console(live_seconds=0.25)
    logger.start(run_info())
    clock.append(1005.0)
    logger.progress(end)
    logger.trained(end)
    screen = terminal.text()
    assert said in screen.split("\r")[-2] and screen.endswith("\x1b[?25h")
    logger.finish({}, "finished")
    assert terminal.text() == ""


def test_bar_is_drawn_no_more_often_than_asked(open_terminal, clock):
    terminal = open_terminal(120)
    logger = Console(live_seconds=10.0)
    logger.start(run_info(steps=100_000))
    logger.progress(1)
    terminal.text()
    for step in range(2, 1000):
        logger.progress(step)
    assert terminal.text() == ""
    clock.append(1010.0)
    logger.progress(1000)
    assert "step 1000/100000" in terminal.text()
    logger.finish(None, "finished")


@pytest.mark.parametrize("columns", [60, 70, 80, 200])
def test_bar_fits_into_one_line(open_terminal, clock, columns):
    terminal = open_terminal(columns)
    logger = Console()
    logger.start(run_info(steps=1_000_000))
    clock.append(1005.0)
    logger.log(999_999, ROW | VALIDATION)
    text = str(logger._bar(999_999, 1005.0, ""))
    logger.finish(None, "finished")
    assert len(text) < columns
    assert text.count("step 999999/1000000  loss 0.4321") == 1
    assert ("left" in text) == (columns > 70)  # what is left outlives the speed
    assert ("steps/s" in text) == (columns > 80)
    assert "step 999999" in terminal.text()


@pytest.mark.parametrize(("columns", "variables"), [(40, {}), (120, {"NO_COLOR": "1"}), (120, {"TERM": "dumb"})])
def test_plain_lines_in_a_terminal_that_is_not_for_bars(monkeypatch, open_terminal, columns, variables):
    terminal = open_terminal(columns)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    logger = Console()
    logger.start(run_info())
    logger.log(10, {"train/loss": 1.0})
    logger.finish(None, "finished")
    assert terminal.text().startswith("step 10/100  loss 1.0000")


def test_a_terminal_that_goes_away_ends_the_output_only(open_terminal, clock):
    terminal = open_terminal(120)
    logger = Console(live_seconds=0.0)
    logger.start(run_info())
    os.close(terminal.master)
    for step in (1, 2, 3):
        logger.progress(step)
        logger.log(step, ROW)
    logger.finish(None, "finished")
    print("what the command line prints last", flush=True)


SCRIPT = """
from pathlib import Path
from fewshot.loggers.base import RunInfo
from fewshot.loggers.console import Console

logger = Console(line_seconds=0.0)
logger.start(RunInfo(folder=Path("run"), name="n", id="run", steps=5000, first_step=0, config={}, group="",
                     job_type="train"))
for step in range(1, 5001):
    logger.log(step, {"train/loss": 1.0, "val/accuracy": 50.0, "val/accuracy_ci95": 1.0})
    logger.progress(step)
logger.finish(None, "finished")
print("the end", flush=True)
"""


def test_closed_pipe():
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("step 1/5000")
        process.stdout.close()
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""


def test_a_stream_without_unicode():
    variables = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, env=variables, check=True)
    assert b"val 50.00 +/- 1.00" in done.stdout
    assert done.stderr == b""


def test_rich_is_imported_only_for_a_bar():
    check = "import sys; import fewshot.loggers.console; assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_yaml_keys_are_the_constructor_parameters():
    keys = OmegaConf.load(CONF)
    assert keys.pop("_target_") == "fewshot.loggers.console.Console"
    assert set(keys) == set(inspect.signature(Console).parameters)
    assert CONF.read_text().startswith("# @package logger.console\n")
