"""A sweep's jobs on this machine: several at a time, each a process that fails alone. Layer 7; no torch."""

import os
import signal
from collections import Counter, deque
from collections.abc import Callable
from multiprocessing.connection import wait
from types import FrameType
from typing import Any, NamedTuple

from fewshot.errors import InputError
from fewshot.signals import Stopped, StopSignal
from fewshot.sweep.batch import Batch, last_line
from fewshot.sweep.jobs import Job
from fewshot.sweep.process import Child
from fewshot.sweep.settings import LocalSettings
from fewshot.sweep.slots import Slot

POLL_SECONDS = 0.5  # between two checks of running jobs


class Running(NamedTuple):
    """A job with the process that runs it and the part of the machine that it has."""

    job: Job
    child: Child
    slot: Slot


class LocalBatch(Batch):
    """The jobs of one launch as processes of this machine."""

    settings: LocalSettings
    settings_type, on_this_machine = LocalSettings, True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.running: dict[Any, Running] = {}  # by what `wait` takes
        self.waiting, self.free = deque(self.open), deque(self.sweep.slots)
        self.tries = Counter[int]()  # attempts of this launch, by number
        self.starting = False  # whether a process is just being made

    def at_a_time(self) -> int:
        self.sweep.warm_up()
        return len(self.free)

    def stop_signal(self) -> StopSignal:
        return StopAll(self._signal, self._kill)

    def work_off(self, stop: StopSignal) -> None:
        while self.running or (self.waiting and stop.received is None):
            while self.waiting and self.free and stop.received is None:
                self._start(self.waiting.popleft(), self.free.popleft(), stop)
            for sentinel in wait(list(self.running), timeout=POLL_SECONDS):
                self._settle(self.running.pop(sentinel), stopping=stop.received is not None)
            for _, child, _ in self.running.values():
                self._enforce_timeout(child)
            self.view.update()

    def _start(self, job: Job, slot: Slot, stop: StopSignal) -> None:
        cfg = self.cfgs[job.number]
        assert cfg is not None
        cfg.threads = slot.threads
        environment = {} if slot.gpu is None else {"CUDA_VISIBLE_DEVICES": slot.gpu}
        self.starting = True  # which takes until all that jobs share is imported
        child = Child(self.sweep.task.job, cfg, self.log(job), environment)
        self.starting = False
        self.running[child.sentinel] = Running(job, child, slot)
        if stop.received is not None:  # came meanwhile, when this one could not be told
            child.send(stop.received)
        self.tries[job.number] += 1
        self.started(job)

    def _settle(self, ended: Running, *, stopping: bool) -> None:
        """A process has ended: once more, where attempts are left and the input was not at fault."""
        job, child, slot = ended
        self.free.append(slot)
        job.seconds += child.seconds
        code = child.exit_code()
        self.ended(job, exit_code=code, reason=self._reason(child), stopping=stopping)
        again = code != InputError.exit_code and self.tries[job.number] <= self.settings.retries
        if job.status == "failed" and again:
            self.open.append(job)
            self.waiting.append(job)
            self.queued(job)

    def _reason(self, child: Child) -> str:
        code = child.exit_code()
        if child.asked is not None:
            return f"not done after {self.settings.timeout:g} s"
        if code is None or code < 0:
            name = signal.Signals(-code).name if code else "an unknown signal"
            return f"killed by {name}" + (" (out of memory, if nobody else did)" if name == "SIGKILL" else "")
        if code == 0:
            return "ended with exit code 0, but without a result"
        if code == 1 and not child.log.exists():
            return f"{child.log} cannot be written"
        message = last_line(child.log) if code in (1, InputError.exit_code) else ""  # other codes come without one
        return ": ".join(filter(None, [f"exit code {code}", message.removeprefix("error: ")]))

    def _enforce_timeout(self, child: Child) -> None:
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
        if self.starting and not self.running:  # nothing to wait for; a process without its launcher ends by itself
            raise Stopped(signum, self.stopped_message())
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
        self._pass, self._kill, self._doing = pass_on, kill, "the running jobs save and end"

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self._kill()
            os._exit(128 + signum)
        super()._handle(signum, frame)
        self._pass(signum)
