"""`hydra/launcher=slurm`: a sweep's jobs as SLURM's. Hydra imports this file whenever it starts, submitit only then."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmLauncher(Launcher):
    """The keys are those of conf/hydra/launcher/slurm.yaml, which says what they mean."""

    def __init__(
        self, *, partition: str | None, timeout_min: int, signal_delay_s: int, max_num_timeout: int,
        cpus_per_task: int, gpus_per_node: int | None, mem_gb: float | None, array_parallelism: int,
        setup: Sequence[str], additional_parameters: Mapping[str, Any], objective: str,
    ) -> None:  # fmt: skip
        self._keys = {
            "partition": partition, "timeout_min": timeout_min, "signal_delay_s": signal_delay_s,
            "max_num_timeout": max_num_timeout, "cpus_per_task": cpus_per_task, "gpus_per_node": gpus_per_node,
            "mem_gb": mem_gb, "array_parallelism": array_parallelism, "setup": list(setup),
            "additional_parameters": dict(additional_parameters), "objective": objective,
        }  # fmt: skip

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from fewshot.sweep import needs
        from fewshot.sweep.launch import Sweep
        from fewshot.sweep.slurm import Settings, SlurmBatch

        needs("submitit", extra="slurm")
        settings = Settings(**self._keys)  # type: ignore[arg-type]
        self._sweep = Sweep(settings, task_function, hydra_context.config_loader, config, SlurmBatch)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return self._sweep.run(job_overrides)
