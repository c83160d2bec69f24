"""Progress is shown on stderr where work takes long, as a bar only on a terminal."""

import io
import sys
from collections.abc import Callable

import pytest

from fewshot.engine import progress
from fewshot.engine.progress import Progress, announced


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work() -> None:
    with Progress("decoding pictures", 30) as shown:
        for _ in range(3):
            shown.advance(10)


def test_short_work_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    work()
    assert capfd.readouterr() == ("", "")


def test_lines_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    work()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["decoding pictures: 30", "decoding pictures: 30 of 30 in 0 s"]


def test_work_goes_on_where_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(sys, "stderr", Closed())
    work()


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    work()
    assert "decoding pictures" in screen.getvalue()
    assert "30/30" in screen.getvalue()
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") > 0  # the cursor is back


def test_work_whose_parts_cannot_be_counted(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    class AtOnce:
        def __init__(self, seconds: float, say: Callable[[], None]) -> None:
            waits.append(seconds)
            self.start = say

        def cancel(self) -> None:
            waits.append(-1)

    monkeypatch.setattr(progress.threading, "Timer", AtOnce)
    with announced("preparing"):
        pass
    assert capfd.readouterr().err == "preparing ...\n"
    assert waits == [progress.ELSEWHERE, -1]
