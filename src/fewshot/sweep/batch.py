"""The jobs of one launch, wherever they run. Layer 7; no torch."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import DictConfig

from fewshot.run_folder import RunFolder
from fewshot.signals import Stopped, StopSignal
from fewshot.sweep.jobs import Job, SweepRecord
from fewshot.sweep.settings import Settings
from fewshot.sweep.view import View

if TYPE_CHECKING:
    from fewshot.sweep.launch import Sweep


class Batch(ABC):
    """The jobs of one launch, from waiting to done, failed or stopped. A subclass for each place where jobs can run:
    it says how many run at a time and works them off; it calls `started` and `ended` for each."""

    settings_type: ClassVar[type[Settings]]
    package: ClassVar[str | None] = None  # what has to be installed
    on_this_machine: ClassVar[bool] = False

    def __init__(
        self, sweep: "Sweep", record: SweepRecord, view: View, jobs: Mapping[int, tuple[Job, DictConfig | None]]
    ) -> None:  # fmt: skip
        """jobs: by number, each with its configuration (None: it cannot be run)."""
        self.sweep, self.record, self.view = sweep, record, view
        self.settings: Any = sweep.settings
        self.jobs = [job for job, _ in jobs.values()]
        self.cfgs = {job.number: cfg for job, cfg in jobs.values()}
        self.open = [job for job in self.jobs if job.status == "waiting"]  # neither done nor failed
        view.steps |= {number: steps(cfg) for number, cfg in self.cfgs.items()}

    @abstractmethod
    def at_a_time(self) -> int:
        """How many jobs may run; asked before any of them is started."""

    @abstractmethod
    def work_off(self, stop: StopSignal) -> None:
        """Start the open jobs and wait for them, until all have ended or a signal was received."""

    def stop_signal(self) -> StopSignal:
        """What catches signals meanwhile."""
        return StopSignal()

    def run(self) -> None:
        """Start the open jobs and wait for all. Raises Stopped after a signal."""
        if self.open:
            self.view.slots = self.at_a_time()
        with self.stop_signal() as stop, self.view:
            try:
                if self.open:
                    self.work_off(stop)
            finally:
                self.record.save()
        if stop.received is not None:
            raise Stopped(stop.received, self.stopped_message())

    def stopped_message(self) -> str:
        done = sum(job.status == "done" for job in self.jobs)
        return f"stopped with {done} of {len(self.jobs)} jobs done; the same command goes on in {self.record.folder}"

    def log(self, job: Job) -> Path:
        return self.record.folder / job.log

    def finished(self, job: Job) -> bool:
        """Whether its run folder has a result."""
        return bool(job.identity) and RunFolder(self.record.folder / str(job.identity)).finished

    def started(self, job: Job) -> None:
        """A job has begun an attempt."""
        job.status, job.exit_code, job.reason = "running", None, None
        job.attempts += 1
        self._changed(job)

    def queued(self, job: Job) -> None:
        """A job waits again, to be started once more."""
        job.status = "waiting"
        self._changed(job)

    def ended(self, job: Job, *, exit_code: int | None, reason: str, stopping: bool = False) -> None:
        """A job is over: its run folder says whether it is done, `reason` why it would not be."""
        self.open.remove(job)
        if self.finished(job):
            job.status, job.exit_code, job.reason = "done", 0, None
        else:
            job.status, job.exit_code, job.reason = "failed", exit_code, reason
            if stopping:
                job.status, job.reason = "stopped", None
        self._changed(job)

    def _changed(self, job: Job) -> None:
        self.record.save()
        self.view.changed(job)


def steps(cfg: DictConfig | None) -> int | None:
    """How many a job trains, if it does."""
    return cfg.trainer.steps if cfg is not None and "trainer" in cfg else None


def last_line(log: Path) -> str:
    """What a job's log ends with."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""
