"""Sweeps under the local launcher: a job fails alone, and the same command runs exactly what is missing.

The faults are those of a user's own algorithm; an environment variable names them, so that a job which is at fault
now and whole later is the same job.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb_record
from command_line import SCRIPT, Done, metrics, refusal, result, start

from fewshot import checkpoint
from fewshot.errors import InputError
from fewshot.held_run import HeldRun
from fewshot.sweep.jobs import SweepRecord

ALGORITHM = '''
import glob
import os
import signal
import sys
import time

import torch
from fewshot.algorithms.protonet import ProtoNet


class Faulty(ProtoNet):
    """Prototypical networks, and what FAULTS says of this seed, `1=throw 2=leave`, in its second step."""

    def __init__(self, backbone, *, seed: int, **keys) -> None:
        super().__init__(backbone, **keys)
        faults = dict(word.split("=") for word in os.environ.get("FAULTS", "").split())
        self.fault, self.seed, self.steps = faults.get(str(seed)), seed, 0

    def forward(self, batch):
        self.steps += 1
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

    def hang_once(self):
        if not os.path.exists("hung"):
            open("hung", "w").close()
            while True:
                time.sleep(1)

    def wait(self):
        """Until a signal has come: a test stops the job here, however slow the machine is."""
        open(f"waiting{self.seed}", "w").close()
        while signal.getsignal(signal.SIGTERM).__self__.received is None:
            time.sleep(0.01)

    def wait_when_two_are_done(self):
        if len(glob.glob("outputs/sweeps/*/*/result.json")) >= 2:
            self.wait()
'''
YAML = """
_target_: faulty.Faulty
stream: {_target_: fewshot.episode.Episodes, tasks: 1, ways: "${train_ways}", shots: 1, queries: 2}
distance: squared_euclidean
temperature: 10.0
seed: ${seed}
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


@pytest.mark.slow
def test_jobs_fail_alone_and_the_same_command_runs_what_is_missing(here: Path) -> None:
    faults = "1=throw 2=leave 3=die 4=leave_quietly 5=exhaust"
    done = start("train", "-m", *WORDS, "seed=0,1,2,3,4,5,6", cwd=here, FAULTS=faults)
    assert done.code == 1, done.err
    reasons = [job["reason"] for job in jobs(here)]
    assert reasons[0] is reasons[6] is None
    assert "Faulty.throw (faulty.py, line 29: " in reasons[1]
    assert reasons[1].endswith(" raised RuntimeError: no such luck; --debug shows the trace")
    assert reasons[2].endswith(" raised SystemExit: 3; --debug shows the trace")
    assert reasons[3] == "killed by SIGKILL (out of memory, if nobody else did)"
    assert reasons[4].endswith(" raised SystemExit: 0; --debug shows the trace")
    assert reasons[5].startswith("exit code 1: out of memory (")
    assert [job["exit_code"] for job in jobs(here)] == [0, 2, 2, -9, 2, 1, 0]
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


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until something has come about in a sweep that is running."""
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("not within two minutes")


def interrupted(words: list[str], here: Path, signum: int, condition: Callable[[], bool], faults: str) -> Done:
    """`fewshot train -m` that gets a signal when the condition has come about."""
    command, environment = [SCRIPT, "train", "-m", *words], os.environ | {"FAULTS": faults}
    with subprocess.Popen(
        command, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(condition, process)
        process.send_signal(signum)
        out, err = process.communicate(timeout=120)
    return Done(process.returncode, out, err)


def steps(here: Path) -> dict[str, list[int]]:
    """Per job, the steps in its metrics.jsonl; a line that is being written is not there yet."""
    return {
        file.parent.name: [json.loads(line)["step"] for line in file.read_text().split("\n")[:-1]]
        for file in here.glob("outputs/sweeps/*/*/metrics.jsonl")
    }


@pytest.mark.slow
def test_stopped_twice_no_job_is_done_twice_and_none_is_lost(here: Path) -> None:
    words = [*WORDS, "seed=0,1,2,3,4"]

    def two_done() -> bool:
        return len(results(here)) == 2 and all((here / f"waiting{seed}").exists() for seed in (2, 3))

    first = interrupted(words, here, signal.SIGINT, two_done, "2=wait 3=wait")
    assert first.code == 130, first.err
    assert "Traceback" not in first.out + first.err
    assert [job["status"] for job in jobs(here)] == ["done", "done", "stopped", "stopped", "waiting"]
    assert {job["identity"] for job in jobs(here)[:2]} == results(here)
    (folder,) = here.glob("outputs/sweeps/*")
    assert first.err == f"stopped with 2 of 5 jobs done; the same command goes on in {folder.relative_to(here)}\n"

    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    (here / "waiting3").unlink()
    second = interrupted(
        words, here, signal.SIGTERM, lambda: len(results(here)) == 4 and (here / "waiting3").exists(), "3=wait"
    )
    assert second.code == 75, second.err
    assert [job["status"] for job in jobs(here)] == ["done", "done", "done", "stopped", "done"]

    assert start("train", "-m", *words, cwd=here).code == 0
    assert len(results(here)) == 5
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert steps(here) == {run: [1, 2, 3, 4, 5, 6] for run in results(here)}
    assert [job["attempts"] for job in jobs(here)] == [1, 1, 2, 3, 1]
    for number in (2, 3):
        assert "going on with" in (folder / "logs" / f"{number}.log").read_text(), "a half-done job began anew"


@pytest.mark.slow
def test_a_job_computes_the_same_bits_as_a_run_by_itself(here: Path) -> None:
    """Though it is forked from a process that has imported torch; on its slot's threads, in W&B's offline record."""
    words = [word for word in WORDS if not word.startswith(("hydra.", "logger="))]
    assert start("train", *words, "threads=1", cwd=here).code == 0
    assert start("train", "-m", *WORDS, "seed=0", "logger=[console,wandb]", cwd=here).code == 0
    (single,), (job,) = (here.glob(f"outputs/{place}/*/*/run.json") for place in ("train", "sweeps"))
    ours, theirs = (checkpoint.load(file.parent / "checkpoints")[1]["model"] for file in (job, single))
    assert all(torch.equal(ours[key], theirs[key]) for key in {*ours, *theirs})
    for key in ("test", "val", "baselines", "protocol"):
        assert result(single.parent)[key] == result(job.parent)[key]
    assert result(job.parent)["environment"]["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)

    (record,) = job.parent.glob("wandb/offline-run-*")
    (run,) = wandb_record.records(record)["run"]
    assert (run["run_group"], run["job_type"]) == (job.parents[1].name, "train")
    assert run["tags"] == ["faulty", "glyphs", "sweep"]


@pytest.mark.slow
def test_a_job_that_hangs_is_killed_and_tried_again(here: Path) -> None:
    limits = ["hydra.launcher.timeout=20", "hydra.launcher.grace=1", "hydra.launcher.retries=1"]
    done = start("train", "-m", *WORDS, *limits, "seed=0", cwd=here, FAULTS="0=hang_once")
    assert done.code == 0, done.err
    assert "failed  " in done.out
    assert "logs/0.log: not done after 20 s" in done.out
    (job,) = jobs(here)
    assert (job["status"], job["attempts"], job["exit_code"], job["reason"]) == ("done", 2, 0, None)
    assert steps(here) == {job["identity"]: [1, 2, 3, 4, 5, 6]}


@pytest.mark.slow
def test_a_second_signal_ends_everything_at_once(here: Path) -> None:
    """Also a job that does not listen."""
    command = [SCRIPT, "train", "-m", *WORDS, "seed=0"]
    environment = os.environ | {"FAULTS": "0=hang_once"}
    with subprocess.Popen(command, cwd=here, env=environment, stdout=subprocess.PIPE, text=True) as process:
        wait_for((here / "hung").exists, process)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    (run,) = here.glob("outputs/sweeps/*/*/run.json")
    HeldRun.open(run.parent).close()  # nobody holds it any more


@pytest.mark.slow
def test_a_launcher_that_is_killed_leaves_no_job_behind(here: Path) -> None:
    killed = interrupted([*WORDS, "seed=0"], here, signal.SIGKILL, (here / "waiting0").exists, "0=wait")
    assert killed.code == -signal.SIGKILL
    (run,) = here.glob("outputs/sweeps/*/*/run.json")
    for _ in range(200):
        time.sleep(0.1)
        with contextlib.suppress(InputError):
            HeldRun.open(run.parent).close()
            break
    else:
        raise AssertionError("the job goes on")
    assert "stopped at step" in (run.parents[1] / "logs" / "0.log").read_text()


def test_one_sweep_is_run_by_one_process(here: Path) -> None:
    held = SweepRecord(here / "outputs" / "sweeps" / "mine", [])
    words = ("train", "-m", *WORDS, "seed=0", "name=mine")
    assert refusal(*words, cwd=here) == "the sweep outputs/sweeps/mine is running already; wait for it, or stop it"
    held.close()
    assert refusal(*words, "hydra.launcher.slots=0", cwd=here) == "hydra.launcher.slots=0 is below 1"
    assert "objetive" in refusal(*words, "hydra.launcher.objetive=x", cwd=here)


def test_what_cannot_be_run_is_its_own_failure_and_the_launcher_needs_no_torch(here: Path) -> None:
    """A value that validation refuses: named, with exit code 2; nothing is started for it."""
    code = (
        "import sys; from fewshot.cli import main; from fewshot.sweep import launch\n"
        "launch.warm_up = lambda gpus: None\n"  # the process that jobs are forked from, which does import torch
        f"try: main({['train', '-m', *WORDS, 'shots=0,-1']})\n"
        "except SystemExit as error: print('torch' in sys.modules); sys.exit(error.code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.endswith("False\n")
    assert [job["reason"] for job in jobs(here)] == [f"exit code 2: shots={n} is below 1" for n in (0, -1)]
    assert [(job["identity"], job["attempts"]) for job in jobs(here)] == [(None, 0)] * 2


@pytest.mark.slow
def test_a_search_that_was_stopped_draws_and_finds_the_same(here: Path) -> None:
    words = [*WORDS, "hydra/sweeper=optuna", "hydra.sweeper.trials=4"]
    stopped = interrupted(words, here, signal.SIGINT, (here / "waiting0").exists, "0=wait_when_two_are_done")
    assert stopped.code == 130, stopped.err
    assert 2 <= len(results(here)) < 4
    again = start("train", "-m", *words, cwd=here)
    assert again.code == 0, again.err
    assert [job["status"] for job in jobs(here)] == ["done"] * 4
    assert set(steps(here)) == results(here)

    (here / "whole").mkdir()
    whole = start("train", "-m", *words, "output_dir=whole", cwd=here)
    assert whole.code == 0, whole.err
    assert trials(here / "whole") == trials(here / "outputs")
    assert whole.out.splitlines()[-1] == again.out.splitlines()[-1]
    assert {path.name for path in (here / "whole").glob("sweeps/*/*") if path.joinpath("result.json").exists()} == (
        results(here)
    )
    more = start("train", "-m", *words, "hydra.sweeper.trials=5", cwd=here)
    assert more.code == 0
    assert len(results(here)) == 5
    assert trials(here / "outputs")[:4] == trials(here / "whole")


def trials(output_dir: Path) -> list[tuple[dict[str, Any], float | None]]:
    """What the database of a search holds: parameters and value of each trial."""
    import optuna

    (file,) = output_dir.glob("sweeps/*/search.db")
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{file}")
    accuracies = [result(file.parent)["val"]["accuracy"] for file in output_dir.glob("sweeps/*/*/result.json")]
    assert sorted(trial.value for trial in study.trials) == sorted(accuracies)
    return [(trial.params, trial.value) for trial in study.trials]
