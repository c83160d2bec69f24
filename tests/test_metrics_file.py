"""Rows of metrics: whole after a kill, each step once after a resume."""

import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fewshot.metrics_file import MetricsFile

ROWS = [{"step": step, "train/loss": 1 / step} for step in (1, 2, 3)]


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[MetricsFile]:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    yield file
    file.close()


def test_metrics_come_back(metrics: MetricsFile) -> None:
    row = {
        "val/loss": math.inf,
        "step": 7,
        "a": -math.inf,
        "b": math.nan,
        "c": [1, math.inf],
        "d": None,
        "e": "x",
    }
    metrics.append(row)
    metrics.append({"step": 8})
    text = metrics.path.read_text()
    assert text.startswith('{"step": 7, "val/loss": "inf"')
    assert "NaN" not in text
    assert "Infinity" not in text
    first, second = metrics.read()
    assert math.isnan(first.pop("b"))
    assert first == {key: value for key, value in row.items() if key != "b"}
    assert second == {"step": 8}
    with pytest.raises(KeyError, match="step"):
        metrics.append({"loss": 1.0})


@pytest.mark.parametrize("torn", ["", '{"step": 4, "tra', '{"step": 4}', "\0\0\0"])
def test_a_torn_last_line_is_dropped_and_steps_come_once(metrics: MetricsFile, torn: str) -> None:
    for row in ROWS:
        metrics.append(row)
    with metrics.path.open("a") as file:
        file.write(torn)
    assert metrics.read() == ROWS
    metrics.truncate(2)
    assert metrics.read() == ROWS[:2]
    metrics.append(ROWS[2])
    assert metrics.read() == ROWS
    assert metrics.path.read_bytes().count(b"\n") == 3
    metrics.truncate(-1)
    assert metrics.read() == []


def test_truncating_changes_no_bytes_of_what_stays(metrics: MetricsFile) -> None:
    for row in ROWS:
        metrics.append(row | {"nan": math.nan, "long": 0.1 + 0.2})
    before = metrics.path.read_bytes()
    metrics.truncate(3)
    assert metrics.path.read_bytes() == before


def test_a_damaged_line_is_left_out_with_a_warning(metrics: MetricsFile, logged: Callable[[], list[str]]) -> None:
    for line in ('{"step": 1}', "[]", '{"step": 2}'):
        with metrics.path.open("a") as file:
            file.write(line + "\n")
    assert metrics.read() == [{"step": 1}, {"step": 2}]
    (warning,) = logged()
    assert "metrics.jsonl: line 2 is damaged" in warning


def test_rows_survive_a_kill(metrics: MetricsFile) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from fewshot.metrics_file import MetricsFile\n"
        "metrics = MetricsFile(Path(sys.argv[1]))\n"
        "for step in range(100): metrics.append({'step': step})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(metrics.path)]).returncode == -signal.SIGKILL
    assert [row["step"] for row in metrics.read()] == list(range(100))
