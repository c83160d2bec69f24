"""`hydra/launcher=local`: a sweep's jobs as processes of their own, N at a time.

Hydra imports this file whenever it starts; what the launcher does is in `fewshot.sweep` and imported by `-m`.
"""

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """slots: jobs at a time; null: one per GPU, without GPUs one per core (or `threads` cores).
    timeout: seconds of one attempt; null for any. grace: seconds that a job which has timed out has to save.
    retries: further attempts after one that failed, each from the last checkpoint.
    objective: what a sweeper is told of a job, a path in result.json."""

    def __init__(
        self, *, slots: int | None, timeout: float | None, grace: float, retries: int, objective: str
    ) -> None:  # fmt: skip
        from fewshot.sweep.launch import Settings

        self._settings = Settings(slots=slots, timeout=timeout, grace=grace, retries=retries, objective=objective)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from fewshot.sweep.launch import Sweep

        self._sweep = Sweep(self._settings, task_function, hydra_context.config_loader, config)

    @property
    def slots(self) -> int:
        """Jobs at a time."""
        return len(self._sweep.slots)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return self._sweep.run(job_overrides)
