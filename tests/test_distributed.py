"""One run in several processes, as torchrun starts it: the same gradient, numbers and files as in one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import QUIET, Done, call, metrics, only, refusal, result
from test_outer_step import SGD, double, draws, make, outer
from torch import Tensor
from toy_data import blobs

from fewshot import checkpoint
from fewshot.engine.processes import ALONE, Processes
from fewshot.episode import Episode

pytestmark = pytest.mark.slow  # each process imports torch

WORKER = """
import json, sys
from pathlib import Path

import torch
sys.path.insert(0, sys.argv[1])
from test_distributed import update

from fewshot.engine import processes
from fewshot.engine.processes import join

torch.set_num_threads(1)
group = join()
gradient, buffers = update(group)
spoiled = update(group, spoiled=group.rank == 1)
found = {
    "agreed": [group.agree(None), group.agree(15 if group.rank == 1 else None), group.agree((2, 10)[group.rank])],
    "gathered": group.gather({"rank": group.rank, "t": torch.full((2,), group.rank).tolist()}),
    "broadcast": group.broadcast(["first"] if group.first else None),
    "reports": processes.reports_end(failed=False),
    "bad step": spoiled,
}
here = Path(sys.argv[2])
torch.save([gradient, buffers], here / f"{group.rank}.pt")
(here / f"{group.rank}.json").write_text(json.dumps(found))
"""
# `fewshot` that sends itself a signal at its n-th training batch, in the process of one rank.
ENTRY = """
import json, os, sys

from fewshot.cli import main
from fewshot.streams import EpisodeStream

rank, n, signum = json.loads(sys.argv[1])
plain, calls = EpisodeStream.batch, 0


def batch(stream, k):
    global calls
    calls += 1
    if calls == n and int(os.environ.get("RANK", "0")) == rank:
        os.kill(os.getpid(), signum)
    return plain(stream, k)


EpisodeStream.batch = batch
main(sys.argv[2:])
"""
RUN = [
    *QUIET, "algorithm.norm_statistics=running", "trainer.steps=9", "trainer.val_every=3", "trainer.log_every=2",
    "trainer.checkpoint_every=4", "evaluation.episodes=50", "evaluation.tasks=10",
]  # fmt: skip


def update(group: Processes, *, spoiled: bool = False) -> tuple[Tensor, Tensor] | int | None:
    """The float64 gradient of one MAML step, averaged over the processes, and the buffers after it; where some
    process was spoiled by a nan, the step at which this one noticed."""
    images = blobs(classes=15)
    algorithm = make("maml running", images).double()
    step = outer(algorithm, SGD, processes=group)
    batch = double(draws(algorithm, images, part=group.rank, parts=group.size).batch(3))
    assert isinstance(batch, Episode)
    step(batch._replace(query_x=batch.query_x * torch.nan) if spoiled else batch, step=3, rate=1.0)
    if (bad := step.guard.bad_step(wait=True)) is not None:
        return bad
    gradient = torch.cat([p.grad.flatten() for p in step.parameters if p.grad is not None])
    return gradient, torch.cat([b.flatten() for b in algorithm.buffers()])


def launch(words: list[str], cwd: Path) -> list[Done]:
    """Two processes with the environment that torchrun gives, and without its own lines; by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, *words], cwd=cwd, env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    ended = [process.communicate(timeout=300) for process in started]
    return [Done(process.returncode, *said) for process, said in zip(started, ended, strict=True)]


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    for done in launch(["-c", WORKER, str(Path(__file__).parent), str(tmp_path)], tmp_path):
        assert (done.code, done.out, done.err) == (0, "", "")
    whole = update(ALONE)
    assert isinstance(whole, tuple)
    each = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for ours, first, second in zip(whole, *each, strict=True):
        assert torch.equal(first, second)  # bit for bit
        difference = ((first - ours).norm() / ours.norm()).item()
        print(f"relative difference of two processes from one: {difference:.1e}")
        assert difference <= 1e-12
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {
            "agreed": [None, 15, 10],
            "gathered": [{"rank": 0, "t": [0, 0]}, {"rank": 1, "t": [1, 1]}],
            "broadcast": ["first"],
            "reports": rank == 0,
            "bad step": 1,
        }


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """2 -> 1 -> 2 by torchrun, stopped by a signal to one process and then by one to the run."""
    here, alone = tmp_path / "here", tmp_path / "alone"
    here.mkdir()
    alone.mkdir()
    entry = tmp_path / "entry.py"
    entry.write_text(ENTRY)

    def two(*moment: int) -> Done:
        command = [Path(sys.executable).with_name("torchrun"), "--nproc-per-node=2", entry, json.dumps(moment), "train"]
        done = subprocess.run([*command, *RUN], cwd=here, capture_output=True, text=True, timeout=300)
        return Done(done.returncode, done.stdout, done.stderr)

    first = two(1, 3, signal.SIGTERM)
    run = only(here / "outputs" / "train")
    stopped = [line for line in first.err.splitlines() if line.startswith(("stopped", "error"))]
    assert stopped == [f"stopped at step 3 of 9; saved in {run.relative_to(here)}"]
    codes = re.findall(r"exitcode  : (-?\d+)", first.err)
    assert "75" in codes
    assert set(codes) <= {"75", "-15"}, "torchrun ends a process that is still on its way out by SIGTERM"
    assert checkpoint.steps(run / "checkpoints")[-1] == 3

    second = subprocess.run(
        [sys.executable, entry, json.dumps([0, 3, signal.SIGUSR1]), "train", *RUN],
        cwd=here, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (second.returncode, second.stderr.splitlines()[-1]) == (
        75,
        f"stopped at step 6 of 9; saved in {run.relative_to(here)}",
    )

    third = two(0, 99, signal.SIGTERM)
    assert third.code == 0, third.err
    assert third.out.count("test accuracy") == 1
    assert only(here / "outputs" / "train") == run
    assert result(run)["environment"]["processes"] == 2

    assert call("train", *RUN, cwd=alone).code == 0
    other = only(alone / "outputs" / "train")
    assert_same_up_to_rounding(run, other)


def assert_same_up_to_rounding(run: Path, other: Path) -> None:
    """Rows, and test episodes one by one: at most one query of a hundred falls to the other side."""
    ours, theirs = metrics(run), metrics(other)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, same in zip(ours, theirs, strict=True):
        assert row.keys() == same.keys()
        for key in (key for key in row if key.endswith("loss")):
            assert row[key] == pytest.approx(same[key], rel=1e-3), key
    with np.load(run / "episodes" / "test.npz") as a, np.load(other / "episodes" / "test.npz") as b:
        assert (a["classes"] == b["classes"]).all()
        assert abs(a["accuracy"] - b["accuracy"]).mean() <= 1.0
    test = [result(folder)["test"] for folder in (run, other)]
    print(f"test accuracy {[t['accuracy'] for t in test]}, loss {[t['loss'] for t in test]}")
    assert abs(test[0]["accuracy"] - test[1]["accuracy"]) <= test[1]["accuracy_ci95"]


def test_one_line_for_all_processes(tmp_path: Path) -> None:
    """What no process can do, and what one of them alone meets; the other ends as well."""
    both = launch(["-m", "fewshot", "train", *RUN, "algorithm.stream.tasks=3"], tmp_path)
    assert [done.code for done in both] == [2, 2]
    assert "".join(done.err for done in both) == (
        "error: algorithm.stream.tasks=3 cannot be shared out evenly among 2 processes; "
        "use a multiple of 2, or as many processes as divide 3\n"
    )

    own = tmp_path / "entry.py"
    own.write_text(
        "import os\n"
        "from fewshot.cli import main\n"
        "from fewshot.errors import FewshotError\n"
        "from fewshot.streams import EpisodeStream\n"
        "plain = EpisodeStream.batch\n"
        "def batch(stream, k):\n"
        "    if k == 2 and os.environ['RANK'] == '1':\n"
        "        raise FewshotError('this process alone cannot go on')\n"
        "    return plain(stream, k)\n"
        "EpisodeStream.batch = batch\n"
        "main()\n"
    )
    both = launch([str(own), "train", *RUN], tmp_path)
    assert [done.code for done in both] == [1, 1]
    assert "".join(done.err for done in both) == "error: this process alone cannot go on\n"


def test_what_runs_in_one_process_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # fmt: skip
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    assert (
        refusal("report", "outputs", cwd=tmp_path) == "'fewshot report' runs in one process; start it without torchrun"
    )
