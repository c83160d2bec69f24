"""Configurations as version 0.1 stored them, read as this version's. Layer 1."""

from typing import Any


def of_this_version(config: dict[str, Any]) -> dict[str, Any]:
    """The same run in this version's keys; a configuration of this version comes back as it is.

    Version 0.1 had `train_shift` in the place of `augment`, it normalised nothing (its checkpoints' context has no
    statistics), a run could not start from a part of another, and every class of a test had as many queries.
    """
    if "train_shift" not in config:
        return config
    config = dict(config)
    pixels = config.pop("train_shift")
    train = {"shift": {"_target_": "fewshot.transforms.Shift", "pixels": pixels}} if pixels else {}
    augment = {"_target_": "fewshot.transforms.Augment", "train": train, "support": {}, "support_copies": 0}
    evaluation = {"query_balance": "uniform", "concentration": 2, "episodes_file": None, **config.get("evaluation", {})}
    added = {"augment": augment, "normalize": "dataset", "evaluation": evaluation}
    return {"init": None, "init_part": None, **config, **added}
