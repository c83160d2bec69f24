"""The local launcher: a sweep's jobs, several at a time, each alone with what befalls it. Layer 7; no torch."""

import math
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from fewshot.cli.compose import Task
from fewshot.cli.identity import job_identity, plain
from fewshot.cli.validate import validate
from fewshot.errors import FewshotError, InputError
from fewshot.run_folder import RunFolder
from fewshot.signals import Stopped, StopSignal
from fewshot.sweep.jobs import Job, Record
from fewshot.sweep.process import Child, last_line, warm_up
from fewshot.sweep.slots import Slot, plan
from fewshot.sweep.view import View

LOOK_SECONDS = 0.5  # between two looks at running jobs


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of conf/hydra/launcher/local.yaml."""

    slots: int | None
    timeout: float | None
    grace: float
    retries: int
    objective: str

    def __post_init__(self) -> None:
        for key, least in (("slots", 1), ("timeout", 0), ("grace", 0), ("retries", 0)):
            value = getattr(self, key)
            if value is not None and value < least:
                raise InputError(f"hydra.launcher.{key}={value} is below {least}")


class Sweep:
    """What a sweeper launches, batch after batch, in one folder."""

    def __init__(
        self, settings: Any, task: Any, loader: ConfigLoader, config: DictConfig, batch: type | None = None
    ) -> None:  # fmt: skip
        """settings: a launcher's keys. batch: what runs a launch in its manner; None: `Batch`, on this machine."""
        if not isinstance(task, Task):
            raise InputError("this launcher runs the jobs of fewshot only; choose hydra/launcher=basic")
        self.settings, self.task, self.config, self._batch = settings, task, config, batch or Batch
        self.folder = Path(str(config.hydra.sweep.dir))
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._load = loader.load_sweep_config
        loader.load_sweep_config = self._load_once  # type: ignore[method-assign]  # sweepers compose every job, too
        self._record: Record | None = None
        self._jobs: list[Job] = []  # of all batches, in order
        self._view: View | None = None
        if self._batch is Batch and not (self.folder / "sweep.json").exists():
            self.warm_up()  # a new sweep: there is work, and composing it takes time, too

    def warm_up(self) -> None:
        """Have jobs start without importing torch."""
        warm_up(gpus=any(slot.gpu is not None for slot in self.slots))

    @cached_property
    def slots(self) -> list[Slot]:
        """Of this machine."""
        return plan(self.settings.slots, str(self.config.device), self.config.threads)

    def _load_once(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        key = tuple(sweep_overrides)
        if key not in self._composed:
            self._composed[key] = self._load(master_config, sweep_overrides)
        return self._composed[key]

    def run(self, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
        """Run what has no result yet. Raises Stopped after a signal, once every job has saved and ended."""
        self._record = self._record or Record(self.folder, ["fewshot", self.task.verb, *self.task.argv])
        prepared = [self._prepare(list(words)) for words in job_overrides]
        for job, _ in prepared:
            if not any(job is other for other in self._jobs):
                self._jobs.append(job)
        if self._view is None:
            self._view = View(self._jobs, self.folder)
            self.task.closing.append(self._view.summary)
        self._batch(self, self._record, self._view, {job.number: (job, cfg) for job, cfg in prepared}).run()
        jobs = [job for job, _ in prepared]
        self.task.codes += [0 if job.status == "done" else 1 for job in jobs]
        return [self._returned(job, cfg) for job, cfg in prepared]

    def _prepare(self, words: list[str]) -> tuple[Job, DictConfig | None]:
        """A job and its configuration; None where it cannot be run, which is the job's own failure."""
        assert self._record is not None
        cfg = self._load_once(self.config, words)
        own = cfg.copy()
        with open_dict(own):
            del own["hydra"]
        try:
            validate(own, self.task.config_name, words)
            return self._record.job(job_identity(self.task.verb, plain(own)), words), cfg
        except FewshotError as error:
            job = self._record.job(None, words)
            job.status, job.exit_code, job.reason = "failed", error.exit_code, f"exit code {error.exit_code}: {error}"
            return job, None

    def _returned(self, job: Job, cfg: DictConfig | None) -> JobReturn:
        """For sweepers that ask what a job was worth: read from its run folder, NaN where there is no result."""
        value: Any = math.nan
        if job.status == "done" and job.identity:
            value = RunFolder(self.folder / job.identity).result()
            for key in self.settings.objective.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            value = math.nan if value is None else float(value)
        return JobReturn(overrides=job.overrides, cfg=cfg, status=JobStatus.COMPLETED, _return_value=value)


class Batch:
    """The jobs of one `launch`, from waiting to done, failed or stopped."""

    def __init__(
        self, sweep: Sweep, record: Record, view: View, jobs: dict[int, tuple[Job, DictConfig | None]]
    ) -> None:  # fmt: skip
        self.warm_up = sweep.warm_up
        self.settings, self.work, self.record, self.view = sweep.settings, sweep.task.job, record, view
        self.jobs = [job for job, _ in jobs.values()]
        self.cfgs = {job.number: cfg for job, cfg in jobs.values()}
        self.waiting = deque(job for job in self.jobs if job.status == "waiting")
        self.free = deque(sweep.slots)
        self.running: dict[int, tuple[Job, Child, Slot]] = {}  # by sentinel
        self.tries = {job.number: 0 for job in self.jobs}
        view.slots = len(self.free)
        view.steps |= {number: steps(cfg) for number, cfg in self.cfgs.items()}

    def run(self) -> None:
        if self.waiting:
            self.warm_up()
        with StopAll(self._signal, self._kill) as stop, self.view:
            while self.running or (self.waiting and stop.received is None):
                while self.waiting and self.free and stop.received is None:
                    self._start(self.waiting.popleft(), self.free.popleft())
                for sentinel in wait(list(self.running), timeout=LOOK_SECONDS):
                    self._settle(sentinel, stopping=stop.received is not None)  # type: ignore[arg-type]
                for _, child, _ in self.running.values():
                    self._watch_the_clock(child)
                self.view.update()
        self.record.save()
        if stop.received is not None:
            done = sum(job.status == "done" for job in self.jobs)
            raise Stopped(stop.received, f"stopped with {done} of {len(self.jobs)} jobs done; "
                                         f"the same command goes on in {self.record.folder}")  # fmt: skip

    def _start(self, job: Job, slot: Slot) -> None:
        cfg = self.cfgs[job.number]
        assert cfg is not None
        cfg.threads = slot.threads
        job.status, job.exit_code, job.reason = "running", None, None
        job.attempts += 1
        self.tries[job.number] += 1
        environment = {} if slot.gpu is None else {"CUDA_VISIBLE_DEVICES": slot.gpu}
        child = Child(self.work, cfg, self.record.folder / job.log, environment)
        self.running[child.sentinel] = (job, child, slot)
        self.record.save()
        self.view.changed(job)

    def _settle(self, sentinel: int, *, stopping: bool) -> None:
        """A process has ended: its run folder says whether the job is done, its exit code why it is not."""
        job, child, slot = self.running.pop(sentinel)
        self.free.append(slot)
        job.exit_code = child.exit_code()
        job.seconds += child.seconds
        if job.identity and RunFolder(self.record.folder / job.identity).finished:
            job.status = "done"
        elif stopping:
            job.status = "stopped"
        else:
            job.status, job.reason = "failed", self._reason(child)
            if job.exit_code != InputError.exit_code and self.tries[job.number] <= self.settings.retries:
                self.view.changed(job)
                job.status = "waiting"
                self.waiting.append(job)
        self.record.save()
        self.view.changed(job)

    def _reason(self, child: Child) -> str:
        code = child.exit_code()
        if child.asked is not None:
            return f"not done after {self.settings.timeout:g} s"
        if code is None or code < 0:
            name = signal.Signals(-code).name if code else "an unknown signal"
            return f"killed by {name}" + (" (out of memory, if nobody else did)" if name == "SIGKILL" else "")
        if code == 0:
            return "ended with exit code 0, but without a result"
        said = last_line(child.log) if code in (1, InputError.exit_code) else ""  # others do not come with a message
        return ": ".join(filter(None, [f"exit code {code}", said.removeprefix("error: ")]))

    def _watch_the_clock(self, child: Child) -> None:
        """A job that takes too long is asked to save and end; one that does not is killed."""
        limit = self.settings.timeout
        if limit is None or child.seconds < limit:
            return
        if child.asked is None:
            child.asked = child.seconds
            child.send(signal.SIGTERM)
        elif child.seconds > child.asked + self.settings.grace:
            child.kill()

    def _signal(self, signum: int) -> None:
        for _, child, _ in self.running.values():
            child.send(signum)

    def _kill(self) -> None:
        for _, child, _ in self.running.values():
            child.kill()
        for sentinel in self.running:  # a run folder is free once its process has gone
            wait([sentinel], timeout=5)


class StopAll(StopSignal):
    """One signal is passed to every job, which saves and ends; a second one ends them all, and us, at once."""

    def __init__(self, pass_on: Callable[[int], None], kill: Callable[[], None]) -> None:
        super().__init__()
        self._pass, self._kill = pass_on, kill

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._kill()
            os._exit(128 + signum)
        super()._handle(signum, frame)
        self._pass(signum)


def steps(cfg: DictConfig | None) -> int | None:
    """How many a job trains, if it does."""
    return cfg.trainer.steps if cfg is not None and "trainer" in cfg else None
