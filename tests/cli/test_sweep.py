"""Sweeps under the local launcher: a job fails alone, and the same command runs exactly what is missing.

The faults are those of a user's own algorithm; an environment variable names them, so that a job which is at fault
now and whole later is the same job.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import metrics, start

ALGORITHM = '''
import os
import signal
import sys
import time

import torch
from fewshot.algorithms.protonet import ProtoNet


class Faulty(ProtoNet):
    """Prototypical networks, and what FAULTS says of this seed: `1=raise 2=exit`. Each step takes `pause` seconds."""

    def __init__(self, backbone, *, seed: int, pause: float, **keys) -> None:
        super().__init__(backbone, **keys)
        faults = dict(word.split("=") for word in os.environ.get("FAULTS", "").split())
        self.fault, self.pause, self.steps = faults.get(str(seed)), pause, 0

    def forward(self, batch):
        self.steps += 1
        time.sleep(self.pause)
        if self.steps == 2:
            getattr(self, self.fault or "nothing")()
        return super().forward(batch)

    def nothing(self): ...

    def throw(self):
        raise RuntimeError("no such luck")

    def leave(self):
        sys.exit(3)

    def leave_quietly(self):
        sys.exit(0)

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def exhaust(self):
        torch.empty(1 << 60)

    def hang(self):
        while True:
            time.sleep(1)
'''
YAML = """
_target_: faulty.Faulty
stream: {_target_: fewshot.episode.Episodes, tasks: 1, ways: "${train_ways}", shots: 1, queries: 2}
distance: squared_euclidean
temperature: 10.0
seed: ${seed}
pause: 0.0
"""
WORDS = [
    "--config-dir", "conf", "algorithm=faulty", "backbone=mlp", "queries=2", "trainer.steps=6", "trainer.log_every=1",
    "trainer.val_every=3", "trainer.checkpoint_every=1", "evaluation.episodes=10", "evaluation.val_episodes=10",
    "evaluation.tasks=10", "logger=console", "hydra.launcher.slots=2",
]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a user's algorithm that can fail."""
    (tmp_path / "faulty.py").write_text(ALGORITHM)
    (tmp_path / "conf" / "algorithm").mkdir(parents=True)
    (tmp_path / "conf" / "algorithm" / "faulty.yaml").write_text(YAML)
    return tmp_path


def sweep_json(here: Path) -> dict[str, Any]:
    (file,) = here.glob("outputs/sweeps/*/sweep.json")
    return json.loads(file.read_text())


def jobs(here: Path) -> list[dict[str, Any]]:
    return sweep_json(here)["jobs"]


def results(here: Path) -> set[str]:
    """Identities that have a result."""
    return {file.parent.name for file in here.glob("outputs/sweeps/*/*/result.json")}


def test_jobs_fail_alone_and_the_same_command_runs_what_is_missing(here: Path) -> None:
    faults = "1=throw 2=leave 3=die 4=leave_quietly 5=exhaust"
    done = start("train", "-m", *WORDS, "seed=0,1,2,3,4,5,6", cwd=here, FAULTS=faults)
    assert done.code == 1, done.err
    reasons = [job["reason"] for job in jobs(here)]
    assert reasons[0] is reasons[6] is None
    assert reasons[1:4] == [
        "exit code 1: RuntimeError: no such luck",
        reasons[2],
        "killed by SIGKILL (out of memory, if nobody else did)",
    ]
    assert reasons[2].startswith("exit code 3: ")
    assert reasons[4] == "ended with exit code 0, but without a result"
    assert reasons[5].startswith("exit code 1: error: out of memory (")
    assert [job["exit_code"] for job in jobs(here)] == [0, 1, 3, -9, 0, 1, 0]
    assert [job["status"] for job in jobs(here)] == ["done", *["failed"] * 5, "done"]
    assert results(here) == {job["identity"] for job in jobs(here) if job["status"] == "done"}
    folder = here / "outputs" / "sweeps"
    for job in jobs(here):
        log = next(folder.iterdir()) / job["log"]
        assert "step 1/6" in log.read_text()
        named = [line for line in done.out.splitlines() if line.startswith(f"job {job['number']}  failed  ")]
        if job["status"] == "failed":
            assert str(log.relative_to(here)) in named[0]
            assert job["reason"] in named[0]
    assert "2 done, 5 failed of 7" in done.out
    assert "Traceback" not in done.out + done.err

    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/result.json")}
    again = start("train", "-m", *WORDS, "seed=0,1,2,3,4,5,6", cwd=here)
    assert again.code == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert [job["attempts"] for job in jobs(here)] == [1, 2, 2, 2, 2, 2, 1]
    assert {job["status"] for job in jobs(here)} == {"done"}
    assert {job["reason"] for job in jobs(here)} == {None}
    for run in next(folder.iterdir()).glob("*/result.json"):
        assert [row["step"] for row in metrics(run.parent)] == [1, 2, 3, 4, 5, 6]
    logs = next(folder.iterdir()) / "logs"
    assert "going on with" in (logs / "3.log").read_text(), "a half-done job did not go on from its checkpoint"

    nothing_left = start("train", "-m", *WORDS, "seed=0,1,2,3,4,5,6", cwd=here)
    assert "running" not in nothing_left.out
    changed = start("train", "-m", *WORDS, "seed=0", "trainer.steps=2", "name=other", cwd=here)
    assert changed.code == 0
    assert len(results(here)) == 8, "the result of another configuration was taken"
