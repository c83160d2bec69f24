"""What Hydra lets through: unknown keys behind `+`, wrong types in groups, impossible relations. Layer 6.

The reference is the same configuration with the same group choices but no values overridden: a key must be
in it, and a value must be of the type it has there (null: any type).
"""

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fewshot.cli.explain import NOT_CHOSEN, unresolved
from fewshot.cli.job import plain
from fewshot.cli.reference import SIZES, is_group, paths, references, unknown_key
from fewshot.cli.values import check
from fewshot.errors import InputError, check_choice
from fewshot.schema import is_a, kind_of
from fewshot.sizes import sizes

LEAST = {
    "evaluation.episodes": 2, "evaluation.val_episodes": 2, "evaluation.tasks": 1, "evaluation.ensemble": 1,
    "threads": 1, "trainer.keep_best": 1,
    "trainer.steps": 0, "trainer.val_every": 0, "trainer.log_every": 1, "trainer.checkpoint_every": 1,
}  # fmt: skip
NEEDED = ("dataset", "backbone", "algorithm", "trainer")
CHOICES = {
    "precision": ("auto", "fp32", "tf32", "bf16"), "trainer.test_checkpoint": ("best", "last"),
    "init_part": ("backbone",),
}  # fmt: skip


def validate(cfg: DictConfig, config_name: str, overrides: list[str] | None = None) -> None:
    """Raise InputError for the first key or value that cannot be meant."""
    if overrides is None:
        from hydra.core.hydra_config import HydraConfig

        task = HydraConfig.get().overrides.task  # as they were typed: some name other keys
        overrides = [str(word) for word in OmegaConf.to_container(task, resolve=False)]  # type: ignore[union-attr]
    for word in overrides:
        if word.startswith(tuple(f"{group}=[" for group in NEEDED)):
            raise InputError(f"{word}: choose one; -m {word.replace('[', '').replace(']', '')} runs each")
    for group in NEEDED:
        if not (node := cfg.get(group)) or OmegaConf.is_missing(node, "_target_") or "_target_" not in node:
            raise InputError(NOT_CHOSEN.format(group))
    reference = plain(next(references(config_name, overrides)))
    try:
        values = plain(cfg)
    except OmegaConfBaseException as error:
        raise InputError(unresolved(error, reference)) from error
    _compare(values, reference, "", list(paths(reference)))
    for path, least in LEAST.items():
        value = OmegaConf.select(cfg, path)
        if value is not None and value < least:
            raise InputError(f"{path}={value} is below {least}")
    for path, among in CHOICES.items():
        if (value := OmegaConf.select(cfg, path)) is not None:
            check_choice(path, value, among)
    for prefix in ("", "train_"):
        sizes(*[values[f"{prefix}{key}"] for key in ("ways", "shots", "queries")], prefix=prefix)
    _compare_signs(values, reference, "", ours=True)
    check(values)
    if values.get("init_part") and not values.get("init"):
        raise InputError(f"init_part={values['init_part']} without init; name the run that it is a part of: init=RUN")


def _compare(values: Mapping[str, Any], reference: Mapping[str, Any], prefix: str, known: list[str]) -> None:
    """InputError for a key that the reference does not have, and for a value of another type than it has there."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key not in reference:
            raise InputError(unknown_key(path, known))
        default = reference[key]
        if path == "normalize" or (value is None and path == "paper"):  # a text or a group; left out of a preset
            continue
        if path in SIZES and (isinstance(value, Mapping) or isinstance(default, Mapping)):  # a number or a draw
            continue
        if isinstance(default, Mapping) and isinstance(value, Mapping):
            _compare(value, default, f"{path}.", known)
        elif isinstance(default, Mapping) and isinstance(value, str) and is_group(group := path.replace(".", "/")):
            raise InputError(f"{path}={value}: '{path}' is a group, whose options are chosen by {group}={value}")
        elif not _same_type(value, default):
            like = "" if isinstance(default, Mapping) else f" like the default {path}={default}"
            shown = "null" if value is None else value
            raise InputError(f"{path}={shown} is {kind_of(value)}, expected {kind_of(default)}{like}")
        elif odd := _other_items(value, default):
            raise InputError(f"{path}={value} has {kind_of(odd[0])} in it, expected what is in the default {default}")


def _compare_signs(value: Any, default: Any, path: str, *, ours: bool) -> None:
    """InputError for a number below 0 whose default is not: no key of ours has such values. A class of the user's own,
    which `ours` does not cover, may."""
    if isinstance(value, Mapping) and isinstance(default, Mapping):
        ours = str(value.get("_target_", "fewshot." if ours else "")).startswith(("fewshot.", "torch."))
        for key in value:
            _compare_signs(value[key], default.get(key), f"{path}.{key}".lstrip("."), ours=ours)
    elif ours and _least(value) < 0 <= _least(default) < math.inf:
        raise InputError(f"{path}={value} is below 0; its default is {default}")


def _least(value: Any) -> float:
    """The smallest number in a value; infinity where there is none."""
    if isinstance(value, list):
        return min(map(_least, value), default=math.inf)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else math.inf


def _same_type(value: Any, default: Any) -> bool:
    if isinstance(default, Mapping) or default is None or value is None:
        return default is None or (value is None and not isinstance(default, Mapping))
    return is_a(value, type(default))


def _other_items(value: Any, default: Any) -> list[Any]:
    """The items of a list that are no numbers, or no whole ones, as all of the default's are."""
    numbers = isinstance(default, list) and all(isinstance(d, int | float) and not isinstance(d, bool) for d in default)
    if not numbers or not default or not isinstance(value, list):
        return []
    like = 0.0 if any(isinstance(d, float) for d in default) else 0
    return [item for item in value if not _same_type(item, like) or item is None]
