"""Types of the root configuration and of the trainer. Layer 6.

Groups whose classes users may add (dataset, backbone, algorithm, logger) are typed by the values in their
YAML files instead; see `validate`.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class EvaluationSchema:
    episodes: int = MISSING
    val_episodes: int = MISSING
    val_split: str = MISSING
    test_split: str = MISSING
    tasks: int = MISSING
    query_balance: str = MISSING
    concentration: int = MISSING
    total_queries: int | None = None
    episodes_file: str | None = None
    ensemble: int = 1


@dataclass
class TrainerSchema:
    _target_: str = MISSING
    steps: int = MISSING
    gradient_clip: float | None = None
    gradient_clip_value: float | None = None
    log_every: int = MISSING
    val_every: int = MISSING
    patience: int | None = None
    checkpoint_every: int = MISSING
    test_checkpoint: str = MISSING
    keep_best: int = 1
    cuda_graph: bool = MISSING
    profile: bool = MISSING
    optimizer: Any = None
    schedule: Any = None
    decay_norms: bool = True
    rate_factors: Any = None  # of parts of the model, whatever it has


@dataclass
class PaperSchema:
    accuracy: float = MISSING
    ci95: float | None = None
    source: str = MISSING
    tolerance: float = 0.3


@dataclass
class RunSchema:
    ways: Any = MISSING  # these six are checked by `sizes`
    shots: Any = MISSING
    queries: Any = MISSING
    train_ways: Any = MISSING
    train_shots: Any = MISSING
    train_queries: Any = MISSING
    within_groups: bool = MISSING
    train_split: str = MISSING
    allow_overlap: bool = MISSING
    normalize: Any = "dataset"
    evaluation: EvaluationSchema = field(default_factory=EvaluationSchema)
    seed: int = MISSING
    init: str | None = None
    init_part: str | None = None
    eval_seed: int = MISSING
    device: str = MISSING
    precision: str = MISSING
    threads: int | None = None
    name: str | None = None
    resume: str = MISSING
    data_dir: str = MISSING
    cache_dir: str = MISSING
    output_dir: str = MISSING
    paper: PaperSchema | None = None
    dataset: Any = None
    backbone: Any = None
    algorithm: Any = None
    augment: Any = None
    trainer: TrainerSchema = field(default_factory=TrainerSchema)
    logger: Any = None


def register() -> None:
    """Make the types known to Hydra's defaults lists. Those of launchers and sweepers come with hydra_plugins."""
    ConfigStore.instance().store(name="schema", node=RunSchema)
