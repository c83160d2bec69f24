"""What a logger is. Layer 2."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a logger is told of the run when it starts."""

    folder: Path  # the run folder (design: outputs/train/<name>/<unique id>/)
    name: str  # e.g. "maml_glyphs_5w1s"
    id: str  # unique and fixed over resumes: the folder's own name
    steps: int  # outer updates planned
    first_step: int  # 0, or the step from which a resumed run continues
    config: Mapping[str, Any]  # resolved configuration as plain nested dicts
    group: str  # runs that belong together (a sweep, an experiment)
    job_type: str  # "train" or "evaluate"
    tags: tuple[str, ...] = field(default=())
    label: str = ""  # what tells it from other runs of its name: "algorithm.inner_lr=0.1 seed=2"


class Logger(Protocol):
    """Receives what the trainer reports. It must not fail the run: instead it warns once and stops logging."""

    def start(self, run: RunInfo) -> None:
        """Called once, before the first step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row as in metrics.jsonl: keys such as `train/loss`, `val/accuracy` (percent), `val/accuracy_ci95`.
        Called every `trainer.log_every` steps and after each validation; `step` counts outer updates done."""

    def progress(self, step: int) -> None:
        """Called after every step, cheaply (a live bar); most loggers do nothing."""

    def trained(self, step: int) -> None:
        """Called once the training has ended, after its last step or early; what follows is the test."""

    def finish(self, result: Mapping[str, Any] | None, status: str) -> None:
        """Called once at the end. `result` is result.json's content, or None when the run did not finish;
        status is "finished", "stopped" (by a signal, resumable) or "failed"."""
