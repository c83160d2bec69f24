"""`hydra/launcher=slurm`: the jobs of a sweep as SLURM job arrays, through submitit. See docs/clusters.md.

submitit submits them, and puts one that is preempted or out of time back into the queue. Done here: jobs with a
result are not submitted; those that an earlier command has left in the queue are waited for; a sweep larger than
SLURM's MaxArraySize becomes several arrays; a job that fails does not end the wait for the others; no need of sacct.
"""

import contextlib
import json
import math
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from fewshot.cli.cluster import Job

POLL_SECONDS = 5.0
GRACE = 3  # looks at the queue without the job, and without its result, until it counts as dead: NFS shows files late


class SlurmLauncher(Launcher):
    """The keys are submitit's; additional_parameters: any further option of sbatch."""

    def __init__(
        self, *, partition: str | None, timeout_min: int, signal_delay_s: int, max_num_timeout: int,
        cpus_per_task: int, gpus_per_node: int | None, mem_gb: float | None, array_parallelism: int,
        setup: Sequence[str], additional_parameters: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.retries, self.cpus, self.parallelism = max_num_timeout, cpus_per_task, array_parallelism
        self.options = {
            "slurm_partition": partition, "timeout_min": timeout_min, "slurm_signal_delay_s": signal_delay_s,
            "cpus_per_task": cpus_per_task, "gpus_per_node": gpus_per_node, "mem_gb": mem_gb,
            "slurm_setup": list(setup), "slurm_additional_parameters": dict(additional_parameters),
            "slurm_srun_args": [f"--cpus-per-task={cpus_per_task}"],  # since SLURM 22.05 srun does not ask sbatch
            "stderr_to_stdout": True,
        }  # fmt: skip

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from fewshot.cli import cluster

        jobs = cluster.jobs(self.config, self.context, job_overrides, initial_job_idx, self.cpus)
        queue = Queue(Path(self.config.hydra.sweep.dir) / "slurm")
        without = [job for job in jobs if not job.finished]
        there = queue.active()
        missing = [job for job in without if queue.ids.get(job.folder.name) not in there]
        print(
            f"{len(jobs)} jobs: {len(jobs) - len(without)} have a result, {len(without) - len(missing)} are in the "
            f"queue already, {len(missing)} to submit; logs in {queue.folder}",
            flush=True,
        )
        self.submit(missing, queue)
        try:
            reasons = queue.wait(without)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"the jobs stay in SLURM's queue; the same command waits for them again, "
                f"scancel {' '.join(sorted({queue.ids[job.folder.name].split('_')[0] for job in without}))} ends them"
            ) from None
        return cluster.returns(jobs, reasons)

    def submit(self, jobs: "Sequence[Job]", queue: "Queue") -> None:
        """As arrays of equal size, which share the number of jobs that may run at a time."""
        import submitit

        if not jobs:
            return
        count = math.ceil(len(jobs) / max_array_size())
        size = math.ceil(len(jobs) / count)
        executor = submitit.AutoExecutor(queue.folder / "%j", cluster="slurm", slurm_max_num_timeout=self.retries)
        parallelism = max(1, self.parallelism // count)
        executor.update_parameters(
            name=queue.folder.parent.name, slurm_array_parallelism=parallelism,
            **{key: value for key, value in self.options.items() if value is not None},
        )  # fmt: skip
        for start in range(0, len(jobs), size):
            array = jobs[start : start + size]
            with executor.batch():
                handles = [executor.submit(job) for job in array]
            queue.note({job.folder.name: handle.job_id for job, handle in zip(array, handles, strict=True)})


class Queue:
    """SLURM's queue as far as it is one sweep's; `jobs.json` in the folder keeps the ids by the runs' identities."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids: dict[str, str] = {}
        with contextlib.suppress(FileNotFoundError):
            self.ids = json.loads((folder / "jobs.json").read_bytes())

    def note(self, ids: Mapping[str, str]) -> None:
        from fewshot.ops.durable import replace

        self.ids |= ids
        replace(self.folder / "jobs.json", (json.dumps(self.ids, indent=2) + "\n").encode())

    def active(self) -> set[str]:
        """Ids of the user's jobs that run, wait, or end just now."""
        return set(ask("squeue", "--me", "--noheader", "--array", "--format=%i").split())

    def wait(self, jobs: "Sequence[Job]") -> dict[int, str]:
        """Until none is in the queue; for each that has no result, by number, what became of it."""
        open_jobs, missed = list(jobs), dict.fromkeys((job.number for job in jobs), 0)
        reasons: dict[int, str] = {}
        while open_jobs:
            time.sleep(POLL_SECONDS)
            with contextlib.suppress(subprocess.SubprocessError):  # a controller that restarts: look again
                active = self.active()
                for job in list(open_jobs):
                    gone = self.ids[job.folder.name] not in active
                    missed[job.number] = missed[job.number] + 1 if gone else 0
                    if gone and (job.finished or missed[job.number] >= GRACE):
                        open_jobs.remove(job)
                        if not job.finished:
                            reasons[job.number] = self.reason(job)
                        said = reasons.get(job.number, f"finished: {job.folder}")
                        print(f"job {job.number}: {said}", flush=True)
        return reasons

    def reason(self, job: "Job") -> str:
        """Why a job is dead: what submitit has stored of its exception, else what SLURM remembers."""
        from submitit.core.utils import JobPaths, pickle_load

        ident = self.ids[job.folder.name]
        paths = JobPaths(self.folder / "%j", job_id=ident)
        if paths.result_pickle.exists():
            said = str(pickle_load(paths.result_pickle)[1]).strip().splitlines()[-1].split(": ", 1)[-1]
        else:
            shown = ""
            with contextlib.suppress(subprocess.SubprocessError):  # forgotten after MinJobAge
                shown = ask("scontrol", "--oneliner", "show", "job", ident)
            state = re.search(r"JobState=(\S+)", shown)
            said = f"SLURM says {state[1]}" if state else "SLURM has forgotten it"
        return f"{said}; log: {paths.stdout}"


def max_array_size() -> int:
    """How many jobs this SLURM takes in one array."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))
    return int(found[1]) if found else 1001


def ask(*command: str) -> str:
    """One of SLURM's programs; FewshotError where this machine has none."""
    from fewshot.errors import InputError

    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except FileNotFoundError as error:
        raise InputError(
            f"no {command[0]} on this machine: hydra/launcher=slurm runs where SLURM's programs are"
        ) from error
