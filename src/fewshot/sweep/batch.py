"""What the engines share: a sweep's jobs as they are seen from outside. Layer 7; no torch."""

from omegaconf import DictConfig

from fewshot.run_folder import RunFolder
from fewshot.sweep.jobs import Job, Record
from fewshot.sweep.launch import Sweep, steps
from fewshot.sweep.process import last_line
from fewshot.sweep.remote import Remote
from fewshot.sweep.view import View


class Batch:
    """The jobs of one launch, from waiting to done or failed; `sweep.launch.Batch` is the same on this machine."""

    def __init__(
        self, sweep: Sweep, record: Record, view: View, jobs: dict[int, tuple[Job, DictConfig | None]]
    ) -> None:  # fmt: skip
        self.settings, self.work, self.record, self.view = sweep.settings, sweep.task.job, record, view
        self.jobs = [job for job, _ in jobs.values()]
        self.cfgs = {job.number: cfg for job, cfg in jobs.values()}
        self.open = [job for job in self.jobs if job.status == "waiting"]  # neither done nor failed
        view.steps |= {number: steps(cfg) for number, cfg in self.cfgs.items()}

    def run(self) -> None:
        """Start the open jobs and wait for all."""
        try:
            if self.open:
                self.view.slots = self.at_a_time()
            with self.view:
                if self.open:
                    self.work_off()
        finally:
            self.record.save()

    def at_a_time(self) -> int:
        """How many jobs may run; before any of them is started."""
        raise NotImplementedError

    def work_off(self) -> None:
        """Start the open jobs, and `settle` each."""
        raise NotImplementedError

    def remote(self, job: Job, threads: int) -> Remote:
        """A job to be sent away, with `threads` CPU threads unless the command says otherwise."""
        cfg = self.cfgs[job.number]
        assert cfg is not None
        cfg = cfg.copy()
        cfg.threads = cfg.threads or threads
        for key in ("data_dir", "cache_dir"):  # as they are here: its machine may know another environment
            cfg[key] = str(cfg[key])
        return Remote(self.work, cfg, self.record.folder / job.log)

    def follow(self, job: Job, *, running: bool, seconds: float) -> None:
        """What the queue says of an open job, `seconds` after the last time."""
        if job.status == "running":
            job.seconds += seconds
        if running != (job.status == "running"):
            job.status = "running" if running else "waiting"
            job.attempts += running
            self.record.save()
            self.view.changed(job)

    def settle(self, job: Job, reason: str, *, stopping: bool = False) -> None:
        """A job is over: its run folder says whether it is done, `reason` why it would not be."""
        self.open.remove(job)
        if self.finished(job):
            job.status, job.exit_code, job.reason = "done", 0, None
        else:
            code = reason.removeprefix("exit code ")
            job.exit_code = int(code) if code.isdigit() else None
            said = f"{reason}: {last_line(self.record.folder / job.log)}" if code.isdigit() else reason
            job.status, job.reason = ("stopped", None) if stopping else ("failed", said)
        self.record.save()
        self.view.changed(job)

    def finished(self, job: Job) -> bool:
        return RunFolder(self.record.folder / str(job.identity)).finished
