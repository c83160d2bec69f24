"""What the cluster launchers share: a sweep's jobs as commands, and a job in a process far away. Layer 5.

No torch here: a launcher only asks which jobs have a result already.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from fewshot.cli.identity import job_identity, plain
from fewshot.errors import FewshotError
from fewshot.run_folder import RunFolder

VERBS = {"config": "train"}  # a primary configuration that does not have its verb's name


class JobFailed(FewshotError):
    """A job ended with an exit code that is not 0; its log says why."""


class Job(NamedTuple):
    """One run of a sweep: `fewshot WORDS`, which goes on with its folder, or ends at once where that is finished."""

    number: int
    words: list[str]
    folder: Path

    @property
    def finished(self) -> bool:
        return RunFolder(self.folder).finished

    def __call__(self) -> None:
        """Run it in this process. JobFailed where it ends with another code than 0, so that the cluster sees it."""
        from fewshot.cli import main

        try:
            main(self.words)
        except SystemExit as ended:
            if ended.code == -1:  # submitit has put the job back into the queue: neither success nor failure
                raise
            if ended.code:
                sys.tracebacklimit = 0  # the job has said what is wrong; a trace to this line would hide it
                raise JobFailed(f"fewshot ended with exit code {ended.code}") from None

    def checkpoint(self) -> Any:
        """What submitit runs after a preemption: the same words, which go on from the run's own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def jobs(
    config: DictConfig, context: HydraContext, overrides: Sequence[Sequence[str]], first: int, threads: int | None
) -> list[Job]:
    """The jobs of a sweep; each gets `threads` CPU threads unless the command says otherwise."""
    name = config.hydra.job.config_name
    sweep = Path(config.hydra.sweep.dir)
    sweep.mkdir(parents=True, exist_ok=True)
    place = [f"hydra.sweep.dir='{sweep}'", "hydra/launcher=basic", "hydra/sweeper=basic"]
    flags = ["-m", *_config_dir(config)]
    found = []
    for number, words in enumerate(overrides, start=first):
        cfg = context.config_loader.load_sweep_config(config, list(words))
        with open_dict(cfg):
            del cfg["hydra"]
        more = [f"threads={threads}"] if threads and cfg.threads is None else []
        verb = VERBS.get(name, name)
        folder = sweep / job_identity(verb, plain(cfg))
        found.append(Job(number, [verb, *flags, *words, *more, *place], folder))
    return found


def returns(all_jobs: Sequence[Job], reasons: dict[int, str]) -> list[JobReturn]:
    """What Hydra's sweepers want to see. FewshotError where jobs failed, after the others have come to their end."""
    if reasons:
        lines = "; ".join(f"job {number}: {reason}" for number, reason in sorted(reasons.items()))
        raise FewshotError(f"{len(reasons)} of {len(all_jobs)} jobs failed; the same command runs them again: {lines}")
    return [JobReturn(status=JobStatus.COMPLETED, overrides=job.words) for job in all_jobs]


def _config_dir(config: DictConfig) -> list[str]:
    """The user's --config-dir, as Hydra has found it."""
    paths = [source.path for source in config.hydra.runtime.config_sources if source.provider == "command-line"]
    return ["--config-dir", paths[0]] if paths else []
