"""The keys of the launchers and of the search, with their types and ranges. Layer 7; no torch.

What each key means and its default stand in conf/hydra/launcher/*.yaml and conf/hydra/sweeper/optuna.yaml, and
nowhere else. Hydra checks names and types against these classes; the ranges are checked here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from omegaconf import MISSING, OmegaConf

from fewshot.errors import InputError, check_choice
from fewshot.schema import TIMES

# Of result.json, what a search can go by: the numbers that every run may have.
OBJECTIVES = (*(f"{part}.{key}" for part in ("val", "test") for key in ("accuracy", "loss")),
              *(f"timing.{key}" for key in TIMES))  # fmt: skip


def at_least(value: float) -> Any:
    """A key that must not be below `value`."""
    return field(metadata={"at_least": value})


@dataclass(kw_only=True)
class Settings:
    """What all of them have. InputError for a number that is out of its range."""

    group: ClassVar[str] = "launcher"
    _target_: str = MISSING  # for Hydra: the class of the launcher

    def __post_init__(self) -> None:
        for key in fields(self):
            value, least = getattr(self, key.name), key.metadata.get("at_least")
            if None not in (value, least) and value < least:
                raise InputError(f"hydra.{self.group}.{key.name}={value} is below {least}")
            if key.name == "objective":
                check_choice("hydra.launcher.objective", value, OBJECTIVES)


@dataclass(kw_only=True)
class LocalSettings(Settings):
    slots: int | None = at_least(1)
    timeout: float | None = at_least(0)
    grace: float = at_least(0)
    retries: int = at_least(0)
    objective: str


@dataclass(kw_only=True)
class SlurmSettings(Settings):
    """Named as submitit names them."""

    partition: str | None
    timeout_min: int = at_least(1)
    signal_delay_s: int = at_least(0)
    max_num_timeout: int = at_least(0)
    cpus_per_task: int = at_least(1)
    gpus_per_node: int | None = at_least(0)
    mem_gb: float | None = at_least(0)
    array_parallelism: int = at_least(1)
    setup: list[str]
    additional_parameters: dict[str, Any]
    objective: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise InputError(
                f"hydra.launcher.signal_delay_s={self.signal_delay_s} is not below the time limit of "
                f"timeout_min={self.timeout_min}: the job would be told to stop as it starts"
            )


@dataclass(kw_only=True)
class RaySettings(Settings):
    address: str | None
    init: dict[str, Any]
    num_cpus: int = at_least(1)
    num_gpus: float | None = at_least(0)
    max_retries: int = at_least(0)
    objective: str


@dataclass(kw_only=True)
class SearchSettings(Settings):
    group: ClassVar[str] = "sweeper"

    trials: int = at_least(1)
    batch: int | None = at_least(1)
    direction: str
    seed: int
    params: dict[str, str]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("hydra.sweeper.direction", self.direction, ("maximize", "minimize"))


def plain(keys: Mapping[str, Any]) -> dict[str, Any]:
    """What Hydra hands to a plugin, without OmegaConf's types."""
    return {key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for key, value in keys.items()}
