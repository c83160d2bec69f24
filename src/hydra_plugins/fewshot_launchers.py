"""`hydra/launcher=local`, `slurm` and `ray`: a sweep's jobs here, in SLURM's queue, or as tasks of Ray.

Hydra imports this file whenever it starts. What the launchers do is in `fewshot.sweep` and is imported by `-m`; their
keys are those of conf/hydra/launcher/*.yaml and of `fewshot.sweep.settings`.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from fewshot.sweep.settings import LocalSettings, RaySettings, SlurmSettings


class FewshotLauncher(Launcher):
    """What the three have in common. batch: the class that runs the jobs of one launch."""

    batch = ""

    def __init__(self, **keys: Any) -> None:
        self._keys = keys

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from fewshot.sweep.launch import Sweep

        self._sweep = Sweep(self.batch, self._keys, task_function, hydra_context.config_loader, config)

    @property
    def slots(self) -> int | None:
        """Jobs at a time, where that is known before the first launch."""
        return self._sweep.at_a_time

    def recall(self) -> None:
        """Show the jobs of earlier calls, too."""
        self._sweep.recall()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return self._sweep.run(job_overrides)


class LocalLauncher(FewshotLauncher):
    """On this machine, several at a time."""

    batch = "fewshot.sweep.local.LocalBatch"


class SlurmLauncher(FewshotLauncher):
    """In the queue of a SLURM cluster."""

    batch = "fewshot.sweep.slurm.SlurmBatch"


class RayLauncher(FewshotLauncher):
    """As tasks of Ray."""

    batch = "fewshot.sweep.ray.RayBatch"


for name, settings in (("local", LocalSettings), ("slurm", SlurmSettings), ("ray", RaySettings)):
    ConfigStore.instance().store(group="hydra/launcher", name=f"{name}_schema", node=settings)
