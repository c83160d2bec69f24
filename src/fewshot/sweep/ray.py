"""A sweep's jobs as tasks of Ray. Layer 7. See docs/clusters.md."""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewshot.errors import InputError
from fewshot.signals import Stopped, StopSignal
from fewshot.sweep.batch import Batch
from fewshot.sweep.jobs import Job
from fewshot.sweep.remote import Remote

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: nothing is sent anywhere unasked
import ray
from ray.exceptions import RayTaskError, TaskCancelledError

LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/hydra/launcher/ray.yaml."""

    address: str | None
    init: Mapping[str, Any]
    num_cpus: int
    num_gpus: float | None
    max_retries: int
    objective: str


class RayBatch(Batch):
    """The jobs of one launch on Ray. Where a worker dies, Ray starts its job again, which goes on."""

    settings: Settings

    def at_a_time(self) -> int:
        """Starts Ray, or finds it. InputError where no job would ever start: Ray itself would wait for ever."""
        if not ray.is_initialized():
            given = {key: value for key, value in self.settings.init.items() if value is not None}
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            ray.init(self.settings.address, **quiet, **({} if self.settings.address else given))
        have = ray.cluster_resources()
        gpus = self.settings.num_gpus
        self.each = {"CPU": float(self.settings.num_cpus), "GPU": float("GPU" in have) if gpus is None else gpus}
        for key, number in self.each.items():
            if number > have.get(key, 0):
                wish = f"hydra.launcher.num_{key.lower()}s={number:g}"
                raise InputError(f"{wish} for each job, but this Ray has {have.get(key, 0):g}; lower it")
        return int(min(have[key] // number for key, number in self.each.items() if number))

    def work_off(self) -> None:
        """Hand all jobs to Ray and wait. Raises Stopped after a signal, once every job has saved and ended."""
        task = ray.remote(  # max_calls: a process of its own for each job
            num_cpus=self.each["CPU"], num_gpus=self.each["GPU"], max_calls=1, max_retries=self.settings.max_retries
        )(_call)  # fmt: skip
        begun = last = time.time()
        with StopSignal() as stop:
            tasks = {task.remote(self.remote(job, self.settings.num_cpus)): job for job in self.open}
            asked = False
            while tasks:
                ready, _ = ray.wait(list(tasks), timeout=LOOK_SECONDS)
                now = time.time()
                for job in tasks.values():  # its log appears as it starts
                    self.follow(job, running=self._written(job) >= begun, seconds=now - last)
                for ended in ready:
                    self.settle(tasks.pop(ended), _reason(ended), stopping=asked)
                if stop.received is not None and not asked:
                    asked = True
                    for running in tasks:
                        ray.cancel(running)  # as Ctrl-C: it saves and ends
                last = now
                self.view.update()
        if stop.received is not None:
            done = sum(job.status == "done" for job in self.jobs)
            raise Stopped(stop.received, f"stopped with {done} of {len(self.jobs)} jobs done; "
                                         f"the same command goes on in {self.record.folder}")  # fmt: skip

    def _written(self, job: Job) -> float:
        log = self.record.folder / job.log
        return log.stat().st_mtime if log.exists() else 0.0


def _call(job: Remote) -> None:
    job()


def _reason(ended: Any) -> str:
    """What became of a task, where it has no result."""
    try:
        ray.get(ended)
    except RayTaskError as error:
        return str(error.cause)
    except TaskCancelledError:
        return "stopped before its start"
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return "ended without a result"
