"""A signal that comes while the process of a job is just being made is not lost: making it takes seconds."""

import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fewshot.signals import Stopped
from fewshot.sweep import local
from fewshot.sweep.jobs import Job
from fewshot.sweep.local import LocalBatch, Running
from fewshot.sweep.process import opened
from fewshot.sweep.slots import Slot

SLOT = Slot(None, 1)


class Child:
    """In the place of a job's process: while it is made, the launcher is told to stop."""

    def __init__(self, *_: Any, sentinel: int = 1, interrupted: bool = True) -> None:
        self.sentinel, self.told = sentinel, list[int]()
        if interrupted:
            signal.raise_signal(signal.SIGTERM)

    def send(self, signum: int) -> None:
        self.told.append(signum)


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> LocalBatch:
    """One that waits for jobs to be started."""
    monkeypatch.setattr(local, "Child", Child)
    made: Any = LocalBatch.__new__(LocalBatch)
    made.running, made.tries, made.starting, made.jobs = {}, Counter(), False, []
    made.cfgs = {0: SimpleNamespace(threads=None), 1: SimpleNamespace(threads=None)}
    made.sweep = SimpleNamespace(task=SimpleNamespace(job=None))
    made.record = SimpleNamespace(folder=Path("sweep"), save=lambda: None)
    made.view = SimpleNamespace(changed=lambda job: None)
    return made


def test_the_first_job_is_left_to_itself_and_the_launcher_ends(batch: LocalBatch) -> None:
    """It ends with its launcher: its process watches for that."""
    with pytest.raises(Stopped, match="stopped with 0 of 0 jobs done"), batch.stop_signal() as stop:
        batch._start(Job(0, "id", []), SLOT, stop)


def test_a_later_job_is_told_as_soon_as_it_is_there(batch: LocalBatch) -> None:
    first = Child(sentinel=0, interrupted=False)
    batch.running[0] = Running(Job(0, "id", []), first, SLOT)  # type: ignore[arg-type]
    with batch.stop_signal() as stop:
        batch._start(Job(1, "other", []), SLOT, stop)
    later: Any = batch.running[1].child
    assert (first.told, later.told) == ([signal.SIGTERM], [signal.SIGTERM])
    assert stop.received == signal.SIGTERM


def test_a_log_that_cannot_be_written_is_the_failure_of_its_job(batch: LocalBatch, tmp_path: Path) -> None:
    """The sweep's folder has become read-only, or has gone."""
    log = tmp_path / "gone" / "0.log"
    with pytest.raises(SystemExit, match=rf"error: cannot write {log}: No such file or directory"):
        opened(str(log))
    child: Any = SimpleNamespace(asked=None, exit_code=lambda: 1, log=log)
    assert batch._reason(child) == f"{log} cannot be written"
