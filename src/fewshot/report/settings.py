"""In which settings groups of runs differ: what they are called, and which keys can be an axis. Layer 5."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fewshot.report.groups import Group

TASK = ("ways", "shots")
# Sizes of training episodes, which follow those of the test unless they are set.
FOLLOWING = {"train_ways": "ways", "train_shots": "shots", "algorithm.stream.ways": "ways",
             "algorithm.stream.shots": "shots"}  # fmt: skip
CLASS = "._target_"  # how the key of a part's class ends
FIRST = (f"backbone{CLASS}", "trainer.steps")  # what tells most where much differs
MOST = 3  # differences in a name; of more only the first two


def labels(groups: Sequence[Group], without: Collection[str] = ()) -> list[str]:
    """A name for each group: its algorithm, and the settings in which it differs from that algorithm's other groups on
    the same data.

    Ways and shots are not named, they have columns and axes of their own; nor are the keys in `without`.
    """
    settings = [_named_settings(group) for group in groups]
    found = []
    for group, own in zip(groups, settings, strict=True):
        alike = [i for i, other in enumerate(groups) if _kin(other) == _kin(group)]
        rivals = len({groups[i].cell for i in alike}) < len(alike)
        found_keys = _telling([settings[i] for i in alike]) if rivals else []
        texts = [_text(keys[0], own[keys[0]]) for keys in found_keys if keys[0] in own and not set(keys) & set(without)]
        if len(texts) > MOST:
            texts = [*texts[:2], f"{len(texts) - 2} more"]
        kind = [] if group.runs[0].kind == "train" else ["evaluated"]
        found.append(", ".join([str(group.result["algorithm"]), *texts, *kind]))
    return found


def _telling(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The keys that differ and what tells most first, the one to name first among those that go together.

    Without the parameters of parts that are of another class: the class tells. Keys that only some of them have, as an
    older version lacked them, count where nothing else differs.
    """
    shared = set.intersection(*map(set, settings))
    found = differing([{key: setting[key] for key in shared} for setting in settings]) or differing(settings)
    parts = tuple(key.removesuffix(CLASS) + "." for keys in found for key in keys if key.endswith(CLASS))
    kept = [tuple(k for k in keys if k.endswith(CLASS) or not k.startswith(parts)) for keys in found]
    named = [tuple(sorted(keys, key=_rank)) for keys in kept if keys]
    return sorted(named, key=lambda keys: _rank(keys[0]))


def _rank(key: str) -> int:
    return FIRST.index(key) if key in FIRST else len(FIRST)


def _text(key: str, value: Any) -> str:
    """`inner_lr=0.1`; of a part of another class `optimizer=SGD`."""
    if key.endswith(CLASS):
        key, value = key.removesuffix(CLASS), str(value).rpartition(".")[2]
    return f"{key.rpartition('.')[2]}={value}"


def _kin(group: Group) -> tuple[str, ...]:
    return group.runs[0].kind, str(group.result["algorithm"]), group.tested_on


def _named_settings(group: Group) -> dict[str, Any]:
    """The setting as a name tells it: without ways, shots and the training sizes that follow them; the network by the
    name of its YAML file."""
    setting = group.runs[0].setting
    if network := group.result.get("backbone"):
        setting = setting | {f"backbone{CLASS}": network["name"]}
    follows = {key for key, of_the_test in FOLLOWING.items() if setting.get(key) == setting.get(of_the_test)}
    return {key: value for key, value in setting.items() if key not in TASK and key not in follows}


def differing(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The keys that are not the same in all settings; those with the same values everywhere, such as `trainer.steps`
    and the schedule's, together, the shortest first.
    """
    together: dict[str, list[str]] = {}
    for key in sorted(set().union(*settings)):
        values = [json.dumps(setting.get(key), sort_keys=True, default=str) for setting in settings]
        if len(set(values)) > 1:
            together.setdefault(json.dumps(values), []).append(key)
    return [tuple(sorted(keys, key=len)) for keys in together.values()]


def axes(groups: Sequence[Group]) -> dict[str, tuple[str, ...]]:
    """The keys that were swept over numbers while all else stayed: each with those that follow it."""
    found: dict[str, tuple[str, ...]] = {}
    for axis in TASK:
        if len({g.result[axis] for g in groups if _is_number(g.result[axis])}) > 1:
            found[axis] = (axis,)
    settings = [_named_settings(g) for g in groups]
    for kin in dict.fromkeys(map(_kin, groups)):
        mine = [i for i, g in enumerate(groups) if _kin(g) == kin]
        for keys in differing([settings[i] for i in mine]):
            families: dict[str, set[float]] = {}
            for i in mine:
                value = settings[i].get(keys[0])
                if isinstance(value, int | float) and not isinstance(value, bool):
                    rest = {k: v for k, v in settings[i].items() if k not in keys}
                    family = json.dumps([groups[i].cell, rest], sort_keys=True, default=str)
                    families.setdefault(family, set()).add(value)
            if any(len(values) > 1 for values in families.values()):
                found[keys[0]] = tuple(dict.fromkeys([*found.get(keys[0], ()), *keys]))
    return found


def value_of(group: Group, axis: str) -> float:
    """Where a group stands on an axis."""
    return float(group.result[axis] if axis in TASK else group.runs[0].setting[axis])


def on_axis(groups: Sequence[Group], axis: str, keys: Sequence[str]) -> tuple[list[Group], list[str]]:
    """The groups of lines with two values of the axis or more, and the names of their lines."""
    able = [g for g in groups if _is_number(g.result[axis] if axis in TASK else g.runs[0].setting.get(axis))]
    names = labels(able, without=keys)
    other = {"ways": "shots", "shots": "ways"}.get(axis)
    line = [(name, g.result[other] if other else g.cell) for g, name in zip(able, names, strict=True)]
    values = {key: {value_of(g, axis) for g, k in zip(able, line, strict=True) if k == key} for key in line}
    kept = [i for i, key in enumerate(line) if len(values[key]) > 1]
    return [able[i] for i in kept], [names[i] for i in kept]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
