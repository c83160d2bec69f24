"""How a run departs from the preset that it names by `experiment=`, whose published value is of the preset alone.
Layer 6; no torch."""

from collections.abc import Mapping
from typing import Any

from fewshot.cli.compose import compose, config_dir_of_job
from fewshot.identity import differing_keys

# What may be otherwise in a run of a recipe: its random numbers, where files are, and what costs time or memory alone.
FREE = (
    "seed", "eval_seed", "dataset.root", "dataset.download", "precision", "evaluation.tasks",
    "trainer.log_every", "trainer.checkpoint_every",
    "algorithm.task_chunk", "algorithm.checkpoint_inner",
)  # fmt: skip


def departures(config: Mapping[str, Any], choices: Mapping[str, str | None]) -> list[str]:
    """`trainer.steps: 12000 -> 4` for each key that is not as in the preset; nothing where no preset is named."""
    name = choices.get("experiment")
    if name in (None, "null") or not config["paper"]:
        return []
    recipe = compose("config", [f"experiment={name}"], config_dir_of_job()).config
    differing = [(text.split(":")[0], text) for text in differing_keys(config, recipe)]
    return [text for key, text in differing if key not in FREE and not key.startswith("paper.")]
