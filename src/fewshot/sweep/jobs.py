"""The jobs of a sweep, and sweep.json: what their run folders do not tell. Layer 7; no torch.

Whether a job is done, its run folder says. sweep.json adds what failed, why, and where its log is.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fewshot import records, schema
from fewshot.engine import lock
from fewshot.engine.durable import replace
from fewshot.errors import FewshotError, InputError
from fewshot.run_folder import RunFolder

SCHEMA = 1
log = logging.getLogger("fewshot")


@dataclass
class Job:
    """One job, as it stands in sweep.json."""

    number: int
    identity: str | None  # None: its configuration cannot be run
    overrides: list[str]
    status: str = "waiting"  # waiting | running | done | failed | stopped
    exit_code: int | None = None  # of its last attempt; negative: the signal that killed it
    reason: str | None = None  # why it failed
    attempts: int = 0
    seconds: float = 0.0  # of all attempts
    log: str = ""  # relative to the sweep's folder


class SweepRecord:
    """`<sweep>/sweep.json`, locked by one process at a time. A job always keeps its number and its log."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self.folder, self.command = folder, list(command)
        self._jobs: dict[str, Job] = {}
        self._warned = False
        try:
            (folder / "logs").mkdir(parents=True, exist_ok=True)
            self._lock = lock.take(folder / "lock")
        except BlockingIOError as error:
            raise InputError(f"the sweep {folder} is running already; wait for it, or stop it") from error
        except OSError as error:
            raise InputError(f"cannot write in {folder}: {error.strerror}; choose another output_dir") from error
        with suppress(FileNotFoundError, InputError, TypeError):  # there is none, or it is damaged: see the run folders
            stored = records.read_json(folder / "sweep.json", schema.SWEEP)["jobs"]
            self._remember([Job(**{**row, "log": f"logs/{row['number']}.log"}) for row in stored])

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()

    def job(self, identity: str | None, overrides: Sequence[str]) -> Job:
        """The job of this identity, done if its run folder has a result; a new one gets the next number."""
        key = identity or " ".join(overrides)
        if key not in self._jobs:
            number = 1 + max((job.number for job in self._jobs.values()), default=-1)
            self._jobs[key] = Job(number, identity, list(overrides), log=f"logs/{number}.log")
        job = self._jobs[key]
        job.overrides = list(overrides)
        job.status, job.reason = _found(RunFolder(self.folder / identity)) if identity else ("waiting", None)
        return job

    @property
    def jobs(self) -> list[Job]:
        """All of them, by number."""
        return sorted(self._jobs.values(), key=lambda job: job.number)

    def save(self) -> None:
        """Write sweep.json, whole or not at all. Where it cannot be written, the jobs go on: their folders tell."""
        jobs = [asdict(job) for job in self.jobs]
        text = json.dumps({"schema": SCHEMA, "command": self.command, "jobs": jobs}, indent=1)
        try:
            replace(self.folder / "sweep.json", text.encode())
        except OSError as error:
            if not self._warned:
                log.warning("cannot write %s/sweep.json (%s); the jobs go on without it", self.folder, error.strerror)
            self._warned = True

    def _remember(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if job.status not in ("done", "failed"):  # the launcher that wrote this was killed
                job.status = "stopped"
            self._jobs[job.identity or " ".join(job.overrides)] = job


def _found(run: RunFolder) -> tuple[str, str | None]:
    """Status of a job by its run's folder, and why it failed: a result that is damaged costs its own job only."""
    try:
        return ("done" if run.finished and run.result() else "waiting"), None
    except FewshotError as error:
        return "failed", str(error)
