"""What is shown of a sweep, and what where there is no room for it."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from toy_data import plain_result

from fewshot.sweep.jobs import Job
from fewshot.sweep.view import View, varying


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[View, list[Job]]:
    jobs = [Job(n, f"id{n}", ["ways=5", f"seed={n}"], log=f"logs/{n}.log") for n in range(5)]
    for job, status in zip(jobs, ("done", "failed", "running", "stopped", "waiting"), strict=True):
        job.status = status
    jobs[1].reason, jobs[1].attempts = "killed by SIGKILL", 1
    for n in (0, 2):
        (tmp_path / f"id{n}").mkdir()
    (tmp_path / "id0" / "result.json").write_text(json.dumps(plain_result()))
    (tmp_path / "id2" / "metrics.jsonl").write_text('{"step": 30, "val/accuracy": 87.5}\n')
    view = View(jobs, tmp_path)
    view.slots = 2
    view.steps = dict.fromkeys(range(5), 100)
    return view, jobs


def lines(view: View, width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", str(height))
    console = Console(file=io.StringIO(), width=width)
    console.print(view._frame())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_every_state(
    sweep: tuple[View, list[Job]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    view, _ = sweep
    with view:
        view.update()
        shown = lines(view, 200, 24, monkeypatch)
    assert [line.split() for line in shown] == [
        ["#", "job"],
        ["0", "seed=0", "done", "98.61", "±", "0.21", "%", "(val", "98.61)"],
        ["1", "seed=1", "failed", f"{view.folder}/logs/1.log:", "killed", "by", "SIGKILL"],
        ["2", "seed=2", "running", "step", "30/100", "87.5", "%"],
        ["3", "seed=3", "stopped"],
        ["4", "seed=4", "waiting"],
        ["1", "done,", "1", "running,", "1", "failed,", "1", "stopped,", "1", "waiting", "of", "5"],
    ]
    assert capsys.readouterr().out.endswith("1 done, 1 running, 1 failed, 1 stopped, 1 waiting of 5, 2 at a time\n")


def test_a_small_terminal_keeps_what_matters(sweep: tuple[View, list[Job]], monkeypatch: pytest.MonkeyPatch) -> None:
    view, _ = sweep
    with view:
        shown = lines(view, 60, 6, monkeypatch)
    assert [line.split()[:3] for line in shown[:3]] == [
        ["#", "job"],
        ["1", "seed=1", "failed"],
        ["2", "seed=2", "running"],
    ]
    assert " ".join(shown[3:]).endswith("1 waiting of 5 (3 not shown)")
    assert len(shown) < 6
    assert max(map(len, shown)) <= 60


def test_a_job_is_named_by_what_varies() -> None:
    jobs = [Job(0, "a", ["ways=5", "seed=0", "shots=1"]), Job(1, "b", ["ways=5", "seed=1", "shots=1"])]
    assert varying(jobs) == {0: "seed=0", 1: "seed=1"}
    assert varying(jobs[:1]) == {0: "ways=5"}


def test_a_launch_that_fails_at_its_start_still_has_its_table(
    sweep: tuple[View, list[Job]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The summary is printed whatever ended the sweep, also where no batch was ever entered."""
    View(sweep[1], sweep[0].folder).summary()
    assert "1 done, 1 running, 1 failed, 1 stopped, 1 waiting of 5" in capsys.readouterr().out
