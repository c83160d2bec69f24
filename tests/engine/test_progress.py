"""Progress is shown on stderr where work takes long, as a bar only on a terminal."""

import io
import sys

import pytest

from fewshot.engine import progress
from fewshot.engine.progress import Progress


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
