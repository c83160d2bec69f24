"""One job of a sweep in a form that can be sent to another machine. Layer 7."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fewshot.errors import FewshotError


class JobFailed(FewshotError):
    """The job has ended with another exit code than 0, and said this last."""


class Remote:
    """Runs one job where it is called, with its output in the job's log. Its folders are on a shared file system.

    work: what a verb does with a composed configuration; returns its exit code.
    cfg: that configuration, with Hydra's own part.
    """

    def __init__(self, work: Callable[[Any], int], cfg: DictConfig, log: Path) -> None:
        self.work, self.cfg, self.log, self.cwd = work, cfg, log.absolute(), Path.cwd()

    def __call__(self) -> None:
        """JobFailed for an exit code that is not 0: submitit and Ray see exceptions only."""
        from fewshot.cli.errors import guarded
        from fewshot.sweep.batch import last_line
        from fewshot.sweep.process import run

        os.chdir(self.cwd)
        sys.path.append(str(self.cwd))  # as the console script does: `_target_: my.module.MyNet`
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        code = guarded(lambda: run(self.work, self.cfg.copy()), debug=False)
        if code:
            sys.tracebacklimit = 0  # the log says what is wrong; a trace to this line would only hide it
            raise JobFailed(last_line(self.log).removeprefix("error: ") or f"exit code {code}")

    def checkpoint(self) -> Any:
        """What submitit runs when a preempted job is started again: the same job, which resumes from its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Remote(self.work, self.cfg, self.log))
