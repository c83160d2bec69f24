"""A sweep's jobs as tasks of Ray. Layer 7. See docs/clusters.md."""

import logging
import os
import time
from typing import Any

from fewshot.errors import InputError, first_line
from fewshot.signals import StopSignal
from fewshot.sweep.cluster import ClusterBatch
from fewshot.sweep.jobs import Job
from fewshot.sweep.remote import Remote
from fewshot.sweep.settings import RaySettings

POLL_SECONDS = 1.0


class RayBatch(ClusterBatch):
    """The jobs of one launch on Ray. Where a worker dies, Ray starts its job again, which goes on."""

    settings: RaySettings
    settings_type, package = RaySettings, "ray"

    def at_a_time(self) -> int:
        """Starts Ray, or finds it. InputError where no job would ever start: Ray itself would wait for ever."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: nothing is sent anywhere unasked
        import ray

        if not ray.is_initialized():
            given = {key: value for key, value in self.settings.init.items() if value is not None}
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            ray.init(self.settings.address, **quiet, **({} if self.settings.address else given))
        have = ray.cluster_resources()
        gpus = self.settings.num_gpus
        self.each = {"CPU": float(self.settings.num_cpus), "GPU": float("GPU" in have) if gpus is None else gpus}
        for key, number in self.each.items():
            if number > have.get(key, 0):
                asked = f"hydra.launcher.num_{key.lower()}s={number:g}"
                raise InputError(f"{asked} for each job, but this Ray has {have.get(key, 0):g}; lower it")
        return int(min(have[key] // number for key, number in self.each.items() if number))

    def work_off(self, stop: StopSignal) -> None:
        """Hand all jobs to Ray and wait; after a signal until each has saved and ended."""
        import ray

        task = ray.remote(  # max_calls: a process of its own for each job
            num_cpus=self.each["CPU"], num_gpus=self.each["GPU"], max_calls=1, max_retries=self.settings.max_retries
        )(_call)  # fmt: skip
        begun = last = time.time()
        tasks = {task.remote(self.remote(job, self.settings.num_cpus)): job for job in self.open}
        cancelled = False
        while tasks:
            ready, _ = ray.wait(list(tasks), timeout=POLL_SECONDS)
            now = time.time()
            for job in tasks.values():  # its log is written to once it has started
                self.follow(job, running=self._written(job) >= begun, seconds=now - last)
            for ended in ready:
                self.settle(tasks.pop(ended), _reason(ended), stopping=cancelled)
            if stop.received is not None and not cancelled:
                cancelled = True
                for running in tasks:
                    ray.cancel(running)  # as Ctrl-C: it saves and ends
            last = now
            self.view.update()

    def _written(self, job: Job) -> float:
        log = self.record.folder / job.log
        return log.stat().st_mtime if log.exists() else 0.0


def _call(job: Remote) -> None:
    job()


def _reason(ended: Any) -> str:
    """Why a task has no result, where it has none."""
    import ray
    from ray.exceptions import RayError, RayTaskError, TaskCancelledError

    try:
        ray.get(ended)
    except RayTaskError as error:
        return str(error.cause)
    except TaskCancelledError:
        return "stopped before its start"
    except RayError as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return "ended without a result"
