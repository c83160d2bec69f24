"""Sweeps on a real SLURM: preempted, requeued, split into arrays, failing, and asked for again."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm
import torch
from command_line import QUIET, SCRIPT, episodes, metrics, result, succeed

from fewshot import checkpoint

pytestmark = pytest.mark.slow
# Jobs in `low` give way to those in `high`: SIGTERM at once, the end after GraceTime, then back into the queue.
PREEMPTION = """
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MaxArraySize=4
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=6 MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""
LAUNCHER = [
    "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=0.25", "hydra.launcher.timeout_min=20", "hydra.launcher.signal_delay_s=60",
]  # fmt: skip
LONG = 300.0  # seconds, on any machine: a test that passes does not wait for them
# Its steps wait while there is a file `wait` in the working directory: a test has time to interrupt it.
SLOW = """
import os, time
from fewshot.algorithms.protonet import ProtoNet

class Slow(ProtoNet):
    def forward(self, batch):
        time.sleep(1 if os.path.exists("wait") else 0)
        return super().forward(batch)

class Fails(ProtoNet):
    def forward(self, batch):
        if os.path.exists("broken"):
            raise RuntimeError("broken on purpose")
        return super().forward(batch)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Slurm]:
    try:
        with slurm.running(tmp_path_factory.mktemp("slurm"), PREEMPTION) as running:
            yield running
    except slurm.Unavailable as reason:
        pytest.skip(f"no SLURM on this machine: {reason}")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with algorithms of the user's own."""
    (tmp_path / "mine.py").write_text(SLOW)
    return tmp_path


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, f"not within {LONG} s: {what}"
        time.sleep(0.3)


class Sweep:
    """`fewshot train -m` that waits for its jobs, in a process of its own."""

    def __init__(self, cluster: slurm.Slurm, cwd: Path, *words: str) -> None:
        self.cluster, self.log = cluster, cwd / "sweep.log"
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [SCRIPT, "train", "-m", *QUIET, *LAUNCHER, *words],
                cwd=cwd, env={**os.environ, **cluster.environment}, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def end(self) -> tuple[int, str]:
        """Exit code and all that it has said."""
        code = self.process.wait(timeout=LONG)
        return code, self.log.read_text()


def record(sweep: Path) -> list[dict[str, object]]:
    return json.loads((sweep / "sweep.json").read_text())["jobs"]


def same_as(run: Path, other: Path) -> None:
    """Bit for bit the weights, metrics and test episodes of an uninterrupted run."""
    assert episodes(run) == episodes(other)
    assert result(run)["test"].items() >= {k: v for k, v in result(other)["test"].items() if k != "seconds"}.items()
    strip = [[{k: v for k, v in row.items() if k != "time/seconds"} for row in metrics(r)] for r in (run, other)]
    assert strip[0] == strip[1]
    ours, theirs = (checkpoint.load(r / "checkpoints", "last")[1]["model"] for r in (run, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_sweep_of_six_two_of_them_interrupted(cluster: slurm.Slurm, here: Path) -> None:
    """One is preempted by a job of higher priority, one is told that its time is up: both go on where they were."""
    words = ["algorithm=protonet", "algorithm._target_=mine.Slow", "trainer.steps=160", "trainer.checkpoint_every=160",
             "trainer.val_every=80"]  # fmt: skip
    (here / "wait").touch()
    with Sweep(cluster, here, *words, "seed=0,1,2,3,4,5", "name=six", "hydra.launcher.partition=low") as sweep:
        folder = here / "outputs" / "sweeps" / "six"

        def begun() -> list[Path]:
            return [path.parent for path in folder.glob("*/metrics.jsonl") if len(metrics(path.parent)) >= 2]

        until(lambda: len(begun()) == 2, "two running jobs")
        first, second = begun()
        ids = json.loads((folder / "slurm" / "jobs.json").read_text())
        arrays = Counter(ident.split("_")[0] for ident in ids.values())
        assert len(arrays) == 2 and max(arrays.values()) <= 4, "arrays of at most four"

        cluster.run("scancel", "--signal=USR2", ids[second.name])  # as --signal does before the time limit
        until(lambda: cluster.jobs()[ids[second.name]]["Restarts"] == "1", "the requeue")
        high = cluster.run("sbatch", "--partition=high", "--mem=100M", "--cpus-per-task=2", "--time=1",
                           "--output=/dev/null", "--wrap=sleep 1").split()[-1]  # fmt: skip
        until(lambda: cluster.jobs()[high]["JobState"] == "COMPLETED", "the job of higher priority")
        assert cluster.jobs()[ids[first.name]]["Restarts"] == "1"
        stopped = {run: [row["step"] for row in metrics(run)] for run in (first, second)}
        saved = {run: checkpoint.steps(run / "checkpoints") for run in (first, second)}
        (here / "wait").unlink()
        cluster.release()
        code, said = sweep.end()
    assert code == 0, said
    jobs = record(folder)
    assert [job["status"] for job in jobs] == ["done"] * 6
    assert len(list(folder.glob("*/result.json"))) == 6

    for run in (first, second):
        assert 0 < saved[run][-1] < 80, "saved when it was told to, not by its own schedule"
        log = (folder / str(next(job["log"] for job in jobs if job["identity"] == run.name))).read_text()
        assert f"going on with {run.relative_to(here)}" in log
        assert [row["step"] for row in metrics(run)] == list(range(1, 161)), "no step is missing or done twice"
        seed = result(run)["seed"]
        apart = here / f"apart{seed}"
        apart.mkdir()
        (apart / "mine.py").write_text(SLOW)
        succeed("train", *QUIET, *words, f"seed={seed}", cwd=apart)
        (alone,) = (apart / "outputs" / "train").glob("*/*")
        same_as(run, alone)
        assert saved[run][-1] <= stopped[run][-1] < 80

    succeed("report", str(folder), "--csv", "six.csv", cwd=here)
    assert len((here / "six.csv").read_text().splitlines()) == 7


def test_a_job_preempted_as_it_starts_is_not_lost(cluster: slurm.Slurm, here: Path) -> None:
    """SIGTERM meets a Python that only begins: it must not end the job, which SLURM would then call failed."""
    (here / "wait").touch()
    (here / "sitecustomize.py").write_text('import os, time\ntime.sleep(20 if os.path.exists("wait") else 0)\n')
    folder = here / "outputs" / "sweeps" / "early"
    words = ["algorithm=protonet", "name=early", "seed=0", "hydra.launcher.partition=low"]
    with Sweep(cluster, here, *words, f"hydra.launcher.setup=['export PYTHONPATH={here}']") as sweep:
        until(lambda: (folder / "slurm" / "jobs.json").exists(), "a job")
        (ident,) = json.loads((folder / "slurm" / "jobs.json").read_text()).values()
        until(lambda: cluster.jobs()[ident]["JobState"] == "RUNNING", "its start")
        cluster.run("sbatch", "--partition=high", "--mem=100M", "--cpus-per-task=2", "--time=1", "--output=/dev/null",
                    "--wrap=sleep 1")  # fmt: skip
        until(lambda: cluster.jobs()[ident]["Reason"] == "BeginTime", "the requeue")
        (here / "wait").unlink()
        cluster.release()
        code, said = sweep.end()
    assert code == 0, said
    assert [job["status"] for job in record(folder)] == ["done"]


def test_failures_are_seen_and_only_they_run_again(cluster: slurm.Slurm, here: Path) -> None:
    """SLURM calls the job failed, the command ends with 1 and says why; the same command runs that one alone."""
    words = ["algorithm=protonet", "algorithm._target_=mine.ProtoNet,mine.Fails", "name=two"]
    (here / "broken").touch()
    with Sweep(cluster, here, *words) as sweep:
        code, said = sweep.end()
    folder = here / "outputs" / "sweeps" / "two"
    assert code == 1, said
    good, bad = record(folder)
    ids = json.loads((folder / "slurm" / "jobs.json").read_text())
    states = cluster.jobs()
    assert (good["status"], states[ids[good["identity"]]]["JobState"]) == ("done", "COMPLETED")
    assert (bad["status"], states[ids[bad["identity"]]]["JobState"]) == ("failed", "FAILED")
    assert "broken on purpose" in str(bad["reason"])
    assert "broken on purpose" in said

    (here / "broken").unlink()
    before = (folder / str(good["identity"]) / "result.json").read_bytes()
    with Sweep(cluster, here, *words) as sweep:
        code, said = sweep.end()
    assert code == 0, said
    assert len(cluster.jobs().keys() - states.keys()) == 1, (
        "only the failed job was submitted"
    )  # SLURM forgets old ones
    assert (folder / str(good["identity"]) / "result.json").read_bytes() == before
    assert [job["status"] for job in record(folder)] == ["done", "done"]


def test_jobs_outlive_the_command_which_finds_them_again(cluster: slurm.Slurm, here: Path) -> None:
    words = ["algorithm=protonet", "algorithm._target_=mine.Slow", "trainer.steps=40", "seed=0,1", "name=left"]
    (here / "wait").touch()
    folder = here / "outputs" / "sweeps" / "left"
    with Sweep(cluster, here, *words) as sweep:
        until(lambda: list(folder.glob("*/metrics.jsonl")), "a running job")
        sweep.process.send_signal(signal.SIGINT)
        code, said = sweep.end()
    assert code == 130, said
    assert "2 jobs stay in SLURM's queue" in said
    assert "Traceback" not in said
    before = cluster.jobs().keys()
    (here / "wait").unlink()
    with Sweep(cluster, here, *words) as sweep:
        code, said = sweep.end()
    assert code == 0, said
    assert not cluster.jobs().keys() - before, "nothing was submitted twice"
    assert [job["status"] for job in record(folder)] == ["done", "done"]
