"""Configurations as older versions stored them, read as this version's. Layer 1."""

from typing import Any

AUGMENT = {"_target_": "fewshot.transforms.Augment", "train": {}, "support": {}, "support_copies": 0}
# Keys that runs of older versions may not have: what these versions did.
NEWER = {
    "within_groups": False, "train_split": "train", "normalize": "dataset", "augment": AUGMENT, "init": None,
    "init_part": None, "allow_overlap": False, "eval_seed": 0, "precision": "auto", "paper": None, "name": None,
}  # fmt: skip
NEWER_IN_EVALUATION = {
    "episodes": 600, "val_episodes": 100, "val_split": "val", "test_split": "test", "tasks": 20,
    "query_balance": "uniform", "concentration": 2, "total_queries": None, "episodes_file": None, "ensemble": 1,
}  # fmt: skip


def of_this_version(config: dict[str, Any]) -> dict[str, Any]:
    """The same run in this version's keys; a configuration of this version comes back as it is.

    Version 0.1 had `train_shift` in the place of `augment`, and it normalised nothing: its checkpoints' context has no
    statistics.
    """
    if "algorithm" not in config:
        return config
    config = dict(config)
    if pixels := config.pop("train_shift", 0):
        shift = {"_target_": "fewshot.transforms.Shift", "pixels": pixels}
        config["augment"] = {**AUGMENT, "train": {"shift": shift}}
    sizes = {f"train_{key}": config[key] for key in ("ways", "shots", "queries") if key in config}
    evaluation = {**NEWER_IN_EVALUATION, **(config.get("evaluation") or {})}
    return {**NEWER, **sizes, **config, "evaluation": evaluation}
