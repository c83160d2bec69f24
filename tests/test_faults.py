"""Kills and signals: what is resumed equals, bit for bit, what was never interrupted.

The moment is chosen in an entry script beside the console script's: the n-th file that is stored, the n-th batch of
validation episodes, the n-th training batch, or n seconds into training.
"""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from command_line import QUIET, Done, episodes, metrics, only, result, succeed

from fewshot import checkpoint

ENTRY = """
import json, os, sys, threading, time
from pathlib import Path

from fewshot.cli import main
from fewshot.sampler import EpisodeSampler
from fewshot.streams import EpisodeStream
from fewshot.trainer import Trainer

where, n, signum = json.loads(sys.argv[1])
begun = threading.Event()


def strike():
    os.kill(os.getpid(), signum)


def watched(function):
    calls = 0

    def call(*args, **kwargs):
        nonlocal calls
        if begun.is_set():
            calls += 1
            if calls == n:
                strike()
        return function(*args, **kwargs)

    return call


def fit(*args, **kwargs):
    begun.set()
    if where == "time":
        threading.Timer(n, strike).start()
    return plain_fit(*args, **kwargs)


plain_fit, Trainer.fit = Trainer.fit, fit
if where == "store":  # before each step of storing a file: nothing between two of them is left out
    os.fsync = watched(os.fsync)
    Path.rename = watched(Path.rename)
if where == "validate":
    EpisodeSampler.sample = watched(EpisodeSampler.sample)
if where == "batch":
    EpisodeStream.batch = watched(EpisodeStream.batch)
main(sys.argv[2:])
"""
RUN = [
    *QUIET, "algorithm.norm_statistics=running", "trainer.steps=12", "trainer.val_every=3",
    "trainer.log_every=5", "trainer.checkpoint_every=2", "evaluation.val_episodes=20",
    "evaluation.tasks=10",
]  # fmt: skip


class Moment(NamedTuple):
    where: str  # store | validate | batch | time
    n: float
    signum: int = signal.SIGKILL


def struck(moment: Moment, cwd: Path) -> Done:
    """`fewshot train` that sends itself a signal."""
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, json.dumps(moment), "train", *RUN],
        cwd=cwd, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("uninterrupted")
    succeed("train", *RUN, cwd=here)
    return only(here / "outputs" / "train")


def record(run: Path) -> dict[str, Any]:
    """All that a run leaves, without what a clock says."""
    found = result(run)
    for key in ("timing", "finished", "environment", "files", "seal"):  # files: hashes, of metrics.jsonl with its times
        del found[key]
    return {
        "result": found,
        "episodes": episodes(run),
        "metrics": [{key: value for key, value in row.items() if key != "time/seconds"} for row in metrics(run)],
        "checkpoints": checkpoint.steps(run / "checkpoints"),
        "files": sorted(path.name for path in (run / "checkpoints").iterdir()),
    }


def state(run: Path, which: str) -> dict[str, Any]:
    _, tree = checkpoint.load(run / "checkpoints", which)
    for key in ("seconds", "data_seconds"):
        del tree["progress"][key]
    return tree


def assert_same(ours: Any, theirs: Any, where: str = "") -> None:
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{where}/{index}")
    else:
        assert ours == theirs, where


def assert_as_if_uninterrupted(run: Path, other: Path) -> None:
    assert_same(record(run), record(other))
    for which in ("last", "best"):
        assert_same(state(run, which), state(other, which), which)


@pytest.mark.slow
def test_killed_while_storing_and_while_validating(tmp_path: Path, uninterrupted: Path) -> None:
    """The second process dies in a validation; a line that a kill has torn is dropped."""
    assert struck(Moment("store", 14), tmp_path).code == -signal.SIGKILL
    run = only(tmp_path / "outputs" / "train")
    left = {path.name for path in (run / "checkpoints").iterdir()}
    assert any(name.startswith(".") for name in left), f"not in the midst of a checkpoint: {left}"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "train/lo')

    before = len(metrics_whole(run))
    assert struck(Moment("validate", 5), tmp_path).code == -signal.SIGKILL
    assert len(metrics_whole(run)) > before
    assert only(tmp_path / "outputs" / "train") == run, "a new folder instead of the old one"
    assert not (run / "result.json").exists()

    succeed("train", *RUN, "resume=true", cwd=tmp_path)
    assert_as_if_uninterrupted(run, uninterrupted)


def metrics_whole(run: Path) -> list[str]:
    return [line for line in (run / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]


@pytest.mark.slow  # quick: test_signals.py, and test_trainer.py in one process
def test_stopped_by_signals(tmp_path: Path, uninterrupted: Path) -> None:
    """SIGTERM in training, then Ctrl-C in the test after it: one line each, 75 and 130, and the run can go on."""
    first = struck(Moment("batch", 5, signal.SIGTERM), tmp_path)
    run = only(tmp_path / "outputs" / "train")
    place = run.relative_to(tmp_path)
    assert (first.code, first.err) == (75, f"stopped at step 5 of 12; saved in {place}\n")
    assert checkpoint.steps(run / "checkpoints")[-1] == 5
    assert not (run / "result.json").exists()

    second = struck(Moment("validate", 7, signal.SIGINT), tmp_path)  # six batches of validation come before
    assert second.code == 130
    *_, last = second.err.splitlines()
    assert last == f"stopped while testing; the same command goes on from {place}"
    assert "Traceback" not in second.err
    assert not (run / "result.json").exists()

    succeed("train", *RUN, cwd=tmp_path)
    ours, theirs = record(run), record(uninterrupted)
    assert set(ours.pop("files")) - set(theirs.pop("files")) <= {"5"}
    assert_same(ours, theirs)
    assert_same(state(run, "last"), state(uninterrupted, "last"))


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path, uninterrupted: Path) -> None:
    """Twelve kills and more, up to five in each run: while storing, while validating, and at any time."""
    draw = random.Random(int(os.environ.get("FEWSHOT_KILL_SEED", "0")))
    kills = {"store": 0, "validate": 0, "time": 0}
    folder = 0
    while sum(kills.values()) < 12:
        folder += 1
        here = tmp_path / str(folder)
        here.mkdir()
        for _ in range(5):
            where = min(kills, key=lambda kind: kills[kind])
            moment = Moment(where, {"store": draw.randint(1, 40), "validate": draw.randint(1, 5),
                                    "time": draw.uniform(0, 0.8)}[where])  # fmt: skip
            done = struck(moment, here)
            if done.code == 0:
                break
            assert done.code == -signal.SIGKILL, done.err
            kills[where] += 1
            if list(here.glob("outputs/train/*/*/result.json")):  # killed after its last write: there is no more to do
                break
        else:
            succeed("train", *RUN, cwd=here)
        assert_as_if_uninterrupted(only(here / "outputs" / "train"), uninterrupted)
    print(f"{sum(kills.values())} kills in {folder} runs: {kills}")
