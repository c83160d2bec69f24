"""A sweep's jobs as SLURM job arrays, through submitit. Layer 7. See docs/clusters.md.

submitit submits them, and puts a job that is preempted or out of time back into the queue. What is done here: jobs
that an earlier command has left in the queue are waited for; a sweep larger than SLURM's MaxArraySize becomes several
arrays; a job that fails does not end the wait for the others; and no accounting (`sacct`) is needed.
"""

import contextlib
import json
import math
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fewshot.engine.durable import replace
from fewshot.errors import FewshotError, InputError
from fewshot.signals import StopSignal
from fewshot.sweep.cluster import ClusterBatch
from fewshot.sweep.jobs import Job
from fewshot.sweep.settings import SlurmSettings

POLL_SECONDS = 5.0
# A job that is neither in the queue nor has a result counts as lost after so many polls: NFS shows files late.
POLLS_UNTIL_LOST = 4
# A Python that is only starting has no handlers yet: without this a preempted job would die, and SLURM call it failed.
IGNORING_SIGNALS = """sh -c 'trap "" TERM USR2; exec "$0" "$@"' """
RUNNING = ("RUNNING", "COMPLETING", "SUSPENDED")


class NoAnswer(FewshotError):
    """One of SLURM's programs has failed: its controller restarts, or cannot be reached."""


class SlurmBatch(ClusterBatch):
    """The jobs of one launch on SLURM; `slurm/jobs.json` keeps their ids by the runs' identities."""

    settings: SlurmSettings
    settings_type, package = SlurmSettings, "submitit"

    @property
    def folder(self) -> Path:
        """Where submitit's files and the job ids are."""
        return self.record.folder / "slurm"

    @property
    def name(self) -> str:
        """Of the jobs in SLURM."""
        return re.sub(r"[^\w.-]+", "-", self.record.folder.name)

    def at_a_time(self) -> int:
        return self.settings.array_parallelism

    def work_off(self, stop: StopSignal) -> None:
        """Submit what is not in the queue, and wait for all; after a signal the jobs stay there."""
        self.ids: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):  # damaged: as if there were none, each run is locked
            self.ids = json.loads((self.folder / "jobs.json").read_bytes())
        queued = queue(self.name)
        self.submit([job for job in self.open if self.ids.get(str(job.identity)) not in queued])
        self.wait(stop)

    def stopped_message(self) -> str:
        if not self.open:
            return super().stopped_message()
        numbers = sorted({self.ids[str(job.identity)].split("_")[0] for job in self.open})
        return (
            f"{len(self.open)} jobs stay in SLURM's queue: the same command waits for them again, "
            f"scancel {' '.join(numbers)} ends them"
        )

    def submit(self, jobs: Sequence[Job]) -> None:
        """As arrays of about equal size, which share the number of jobs that may run at a time."""
        import submitit

        if not jobs:
            return
        arrays = math.ceil(len(jobs) / max_array_size())
        size = math.ceil(len(jobs) / arrays)
        ours = ("_target_", "objective")
        keys = {key: value for key, value in asdict(self.settings).items() if value is not None and key not in ours}
        common = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")  # not SLURM's alone, for submitit
        keys["array_parallelism"] = max(1, self.settings.array_parallelism // arrays)
        # Since SLURM 22.05 srun does not take this from sbatch: the job would get one core.
        keys["srun_args"] = [f"--cpus-per-task={self.settings.cpus_per_task}"]
        executor = submitit.AutoExecutor(
            self.folder / "%j", cluster="slurm",
            slurm_max_num_timeout=keys.pop("max_num_timeout"),
            slurm_python=IGNORING_SIGNALS + shlex.quote(sys.executable),
        )  # fmt: skip
        executor.update_parameters(
            name=self.name, stderr_to_stdout=True,
            **{key if key in common else f"slurm_{key}": value for key, value in keys.items()},
        )  # fmt: skip
        for start in range(0, len(jobs), size):
            array = jobs[start : start + size]
            with executor.batch():
                handles = [executor.submit(self.remote(job, self.settings.cpus_per_task)) for job in array]
            self.ids |= {str(job.identity): handle.job_id for job, handle in zip(array, handles, strict=True)}
            replace(self.folder / "jobs.json", (json.dumps(self.ids, indent=1) + "\n").encode())

    def wait(self, stop: StopSignal) -> None:
        """Until none of the jobs is in the queue, or a signal ends the waiting."""
        absent = dict.fromkeys((job.number for job in self.open), 0)
        last = time.monotonic()
        while self.open and stop.received is None:
            stop.sleep(POLL_SECONDS)
            try:
                states = queue(self.name)
            except NoAnswer:  # the controller restarts: look again
                continue
            now = time.monotonic()
            for job in list(self.open):
                state = states.get(self.ids[str(job.identity)])
                self.follow(job, running=state in RUNNING, seconds=now - last)
                absent[job.number] = absent[job.number] + 1 if state is None else 0
                if state is None and (self.finished(job) or absent[job.number] >= POLLS_UNTIL_LOST):
                    self.settle(job, self.reason(job))
            last = now
            self.view.update()

    def reason(self, job: Job) -> str:
        """Why a job has no result: its exception as submitit has stored it, else its state as SLURM has it."""
        from submitit.core.utils import JobPaths, pickle_load

        ident = self.ids[str(job.identity)]
        paths = JobPaths(self.folder / "%j", job_id=ident)
        if paths.result_pickle.exists():
            return str(pickle_load(paths.result_pickle)[1]).strip().splitlines()[-1].split(": ", 1)[-1]
        listed = ""
        with contextlib.suppress(NoAnswer):  # it forgets a job MinJobAge seconds after its end
            listed = output_of("scontrol", "--oneliner", "show", "job", ident)
        state = re.search(r"JobState=(\S+)", listed)
        return f"SLURM says {state[1] if state else 'nothing any more'}; its own output is {paths.stdout}"


def queue(name: str) -> dict[str, str]:
    """State by id of the user's jobs of this name that wait, run, or are just ending."""
    lines = output_of("squeue", "--me", f"--name={name}", "--noheader", "--array", "--format=%i %T").splitlines()
    return dict(line.split() for line in lines)


def max_array_size() -> int:
    """How many jobs this SLURM takes in one array."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", output_of("scontrol", "show", "config"))
    return int(found[1]) if found else 1001  # its default


def output_of(*command: str) -> str:
    """What one of SLURM's programs prints. InputError where this machine has none, NoAnswer where it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except FileNotFoundError as error:
        raise InputError(f"no {command[0]} here: hydra/launcher=slurm is for machines with SLURM's programs") from error
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        raise NoAnswer(f"{command[0]} gives no answer ({said}); the same command goes on once SLURM does") from error
