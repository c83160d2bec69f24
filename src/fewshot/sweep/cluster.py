"""What SLURM and Ray have in common: jobs that are sent to other machines, and followed from here. Layer 7."""

from fewshot.sweep.batch import Batch, last_line
from fewshot.sweep.jobs import Job
from fewshot.sweep.remote import JobFailed, Remote


class ClusterBatch(Batch):
    """The jobs of one launch in the queue of a cluster."""

    def remote(self, job: Job, threads: int) -> Remote:
        """A job to be sent away, with `threads` CPU threads unless the command sets them."""
        cfg = self.cfgs[job.number]
        assert cfg is not None
        cfg = cfg.copy()
        cfg.threads = cfg.threads or threads
        for key in ("data_dir", "cache_dir"):  # as they are here: its machine may have another environment
            cfg[key] = str(cfg[key])
        return Remote(self.sweep.task.job, cfg, self.log(job))

    def follow(self, job: Job, *, running: bool, seconds: float) -> None:
        """Whether an open job runs, as its queue has it `seconds` after the last time."""
        if job.status == "running":
            job.seconds += seconds
        if running and job.status != "running":
            self.started(job)
        elif not running and job.status == "running":
            self.queued(job)

    def settle(self, job: Job, reason: str, *, stopping: bool = False) -> None:
        """A job has left the queue. reason: `exit code 1`, to which its log's last line is added, or a sentence."""
        code = reason.removeprefix("exit code ")
        if code.isdigit():
            said = last_line(self.log(job)).removeprefix(f"{JobFailed.__module__}.{JobFailed.__name__}: ")
            self.ended(job, exit_code=int(code), reason=f"{reason}: {said}", stopping=stopping)
        else:
            self.ended(job, exit_code=None, reason=reason, stopping=stopping)
