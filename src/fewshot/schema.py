"""What the records of a run folder hold. Layer 0.

A schema names keys and what their values are: a type, a Number, a schema of its own, a list of one that every item
fits, or a tuple of these, of which one will do (None: null). A key that ends with "?" may be missing; keys that are
not named are left as they are.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", dict: "a group of keys",
         list: "a list", type(None): "null"}  # fmt: skip


class Number(NamedTuple):
    """A number from `least` to `most`; `whole`: without a fraction. One that is not a number (NaN) is none of these."""

    least: float = -math.inf
    most: float = math.inf
    whole: bool = False

    def holds(self, value: float) -> bool:
        return math.isfinite(value) and self.least <= value <= self.most

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        limits = f" of {self.least:g} or more" if math.isinf(self.most) else f" from {self.least:g} to {self.most:g}"
        return kind if math.isinf(self.least) and math.isinf(self.most) else kind + limits


COUNT, PERCENT = Number(1, whole=True), Number(0, 100)
SIZE = (COUNT, {"low": COUNT, "high": COUNT, "per?": str}, {"rest_of": COUNT})  # see `sizes`
SAID = (COUNT, str)  # a size in words
MEAN = {"accuracy": PERCENT, "accuracy_ci95": Number(0)}
RUN = {"identity": str, "created": str, "names?": dict, "fewshot?": str, "code?": str, "signature?": (str, None)}
CLASSES = {"train": [str], "val?": [str], "split_hash?": str}
TIMES = ("train_seconds", "seconds_per_step", "data_seconds_per_step", "test_episodes_per_second", "peak_memory_mb")
RESULT: Mapping[str, Any] = {
    **dict.fromkeys(("name", "algorithm", "dataset", "split"), str),
    **dict.fromkeys(("ways", "shots", "queries"), SAID),
    "seed": int, "steps": Number(0, whole=True), "test": {**MEAN, "episodes": COUNT}, "protocol": dict,
    "environment?": dict, "timing?": {f"{key}?": Number(0) for key in TIMES}, "train?": (dict, None),
    "baselines?": ({"raw_pixels?": MEAN, "untrained?": MEAN}, None), "val?": (MEAN, None), "files?": dict,
    "paper?": ({"accuracy": Number(), "verdict": str, "ci95?": (Number(), None), "tolerance?": (Number(), None)}, None),
    "backbone?": ({"name": str, "parameters": Number(0, whole=True), "image_size": [COUNT]}, None), "run?": str,
}  # fmt: skip
_GROUP = ({"_target_?": str}, None)
CONFIG: Mapping[str, Any] = {
    **{f"{key}?": SIZE for key in ("ways", "shots", "queries", "train_ways", "train_shots", "train_queries")},
    **{f"{key}?": int for key in ("seed", "eval_seed")}, "threads?": (COUNT, None), "within_groups?": bool,
    **{f"{key}?": str for key in ("train_split", "device", "precision", "data_dir", "cache_dir", "output_dir")},
    **{f"{key}?": (str, None) for key in ("name", "init", "init_part", "split")},
    **{f"{key}?": _GROUP for key in ("dataset", "backbone", "algorithm", "augment", "trainer", "paper")},
    "evaluation?": {
        **{f"{key}?": Number(2, whole=True) for key in ("episodes", "val_episodes")}, "tasks?": COUNT,
        **{f"{key}?": str for key in ("val_split", "test_split", "query_balance")}, "episodes_file?": (str, None),
    },
}  # fmt: skip
# What a training's has, whatever its version; the two keys are Hydra's own and would be obeyed.
TRAINING = {"ways": SIZE, "shots": SIZE, "queries": SIZE, "seed": int,
            **{group: {"_target_": str} for group in ("dataset", "backbone", "algorithm")}}  # fmt: skip
NEVER = ("hydra", "defaults")
JOB = {"number": Number(0, whole=True), "overrides": [str], "status": str, "identity?": (str, None),
       "log?": (str, None), "reason?": (str, None), "attempts?": (Number(0, whole=True), None),
       "exit_code?": (Number(whole=True), None), "seconds?": Number(0)}  # fmt: skip
SWEEP = {"jobs": [JOB], "command?": ([str], None)}
ARRAY = {"shape": [Number(0, whole=True)], "sha256": str, "offsets": [int], "class_names": [str], "groups": [str],
         "notes?": [str], "mtime_ns?": int}  # fmt: skip
ROW = {"step": Number(0, whole=True)}


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    return NAMES.get(type(value), f"a {type(value).__name__}")


def is_a(value: Any, kind: type) -> bool:
    """Whether a value is of this type: true and false are no numbers, a whole number is one."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else kind)


def fault(value: Any, wanted: Any, where: str) -> str | None:
    """What is wrong with a value, in words; None where it is as wanted."""
    if isinstance(wanted, tuple) and not isinstance(wanted, Number):
        if value is None and None in wanted:
            return None
        faults = [fault(value, choice, where) for choice in wanted if choice is not None]
        return None if None in faults else faults[0]
    kind = kind_of(value)
    if isinstance(wanted, Number):
        allowed = int if wanted.whole else int | float
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and isinstance(value, allowed) and wanted.holds(value)):
            return f"{where} is {value if number else kind}, expected {wanted}"
    elif isinstance(wanted, list) and isinstance(value, list):
        return next(filter(None, (fault(item, wanted[0], f"{where}.{i}") for i, item in enumerate(value))), None)
    elif isinstance(wanted, Mapping):
        if not isinstance(value, dict):
            return f"{where} is {kind}, expected a group of keys" if where else f"it is {kind}, not a group of keys"
        for key, of_key in wanted.items():
            name, place = key.removesuffix("?"), f"{where}.{key}".strip(".?")
            if name in value:
                if found := fault(value[name], of_key, place):
                    return found
            elif not key.endswith("?"):
                return f"{place} is missing"
    else:
        wanted = list if isinstance(wanted, list) else wanted
        fits = isinstance(value, int | float if wanted is float else wanted)
        if not fits or (isinstance(value, bool) and wanted is not bool):
            return f"{where} is {kind}, expected {NAMES[wanted]}"
    return None
