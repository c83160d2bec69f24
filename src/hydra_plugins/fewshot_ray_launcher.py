"""`hydra/launcher=ray`: a sweep's jobs as tasks of Ray. Hydra imports this file whenever it starts, ray only then."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RayLauncher(Launcher):
    """The keys are those of conf/hydra/launcher/ray.yaml, which says what they mean."""

    def __init__(
        self, *, address: str | None, init: Mapping[str, Any], num_cpus: int, num_gpus: float | None,
        max_retries: int, objective: str,
    ) -> None:  # fmt: skip
        self._keys = {"address": address, "init": dict(init), "num_cpus": num_cpus, "num_gpus": num_gpus,
                      "max_retries": max_retries, "objective": objective}  # fmt: skip

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from fewshot.sweep import needs
        from fewshot.sweep.launch import Sweep

        needs("ray", extra="ray")
        from fewshot.sweep.ray import RayBatch, Settings

        settings = Settings(**self._keys)  # type: ignore[arg-type]
        self._sweep = Sweep(settings, task_function, hydra_context.config_loader, config, RayBatch)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return self._sweep.run(job_overrides)
