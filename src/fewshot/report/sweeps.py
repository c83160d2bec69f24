"""The jobs of sweeps that have no result: they failed, or have not run. Layer 5."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewshot import records, schema
from fewshot.errors import InputError
from fewshot.printable import printable
from fewshot.run_folder import RunFolder

LAST_LINES = 12  # of a log
TAIL = 16384  # bytes from its end that are looked at


@dataclass(frozen=True)
class MissingJob:
    """A job of a sweep that has no result."""

    sweep: Path  # the sweep's folder
    number: int
    overrides: tuple[str, ...]  # those that not all jobs of the sweep have
    status: str  # waiting | running | failed | stopped | missing (it was done, and its folder is gone)
    reason: str | None
    attempts: int
    folder: Path | None  # of its run, once it has one; a job that cannot be configured never has
    log: Path | None  # where there is one
    last_lines: tuple[str, ...]  # of the log

    @property
    def failed(self) -> bool:
        return self.status == "failed"


@dataclass(frozen=True)
class SweepFolder:
    """A sweep's folder, with what its sweep.json says."""

    path: Path
    command: tuple[str, ...]
    jobs: int
    missing: tuple[MissingJob, ...]


def find_sweeps(paths: Iterable[Path]) -> tuple[list[SweepFolder], list[str]]:
    """Every sweep at or below the paths, and what is wrong with those whose sweep.json is damaged: their runs are found
    still."""
    files = {file.resolve(): file for path in paths for file in sorted(path.rglob("sweep.json"))}
    found, faults = [], []
    for file in files.values():
        try:
            found.append(_read(file))
        except InputError as error:
            faults.append(str(error))
    return found, faults


def _read(file: Path) -> SweepFolder:
    stored = records.read_json(file, schema.SWEEP)
    shared = set.intersection(*[set(job["overrides"]) for job in stored["jobs"]] or [set()])
    jobs = [_job(file.parent, job, shared if len(stored["jobs"]) > 1 else set()) for job in stored["jobs"]]
    return SweepFolder(file.parent, tuple(stored.get("command") or ()), len(jobs), tuple(j for j in jobs if j))


def _job(sweep: Path, job: dict[str, Any], shared: set[str]) -> MissingJob | None:
    """The truth about a run is its folder: a job that has a result there is no longer of interest.

    shared: overrides of all jobs, which do not tell this one from the others.
    """
    folder = records.inside(sweep, job["identity"]) if job.get("identity") else None
    if folder and RunFolder(folder).finished:
        return None
    log = records.inside(sweep, job["log"]) if job.get("log") else None
    log = log if log is not None and log.is_file() else None
    own = tuple(word for word in job["overrides"] if word not in shared)
    return MissingJob(
        sweep=sweep, number=int(job["number"]), overrides=own,
        status="missing" if job["status"] == "done" else job["status"], reason=job.get("reason"),
        attempts=job.get("attempts") or 0, folder=folder if folder and folder.is_dir() else None, log=log,
        last_lines=_last_lines(log),
    )  # fmt: skip


def _last_lines(log: Path | None) -> tuple[str, ...]:
    if log is None:
        return ()
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        text = file.read().decode(errors="replace")
    lines = [printable(line.split("\r")[-1].rstrip()) for line in text.replace("\r\n", "\n").split("\n")]
    return tuple([line for line in lines if line][-LAST_LINES:])
