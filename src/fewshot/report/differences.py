"""Where the protocols, trainings and machines of runs agree, and where they differ. Layer 5."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fewshot.report.groups import Group
from fewshot.report.runs import RunRecord
from fewshot.report.table import NONE, Table


def same_and_differing(
    groups: Sequence[Group], names: Sequence[str], facts: Callable[[RunRecord], Mapping[str, Any]]
) -> tuple[dict[str, str], Table]:
    """Of facts such as the protocol: those that all runs share, and for the others which runs have which value."""
    facts_of = [[facts(run) for run in g.runs] for g in groups]
    same: dict[str, str] = {}
    rows: list[list[str]] = []
    for key in dict.fromkeys(key for of_runs in facts_of for stated in of_runs for key in stated):
        values = [[_text(stated.get(key)) for stated in of_runs] for of_runs in facts_of]
        distinct = list(dict.fromkeys(value for own in values for value in own))
        if len(distinct) == 1:
            same[key] = distinct[0]
        else:
            rows += [[key, value, _who(value, values, groups, names)] for value in distinct]
    return same, Table(["what", "value", "runs"], rows)


def _who(value: str, values: Sequence[Sequence[str]], groups: Sequence[Group], names: Sequence[str]) -> str:
    """The runs of one value; an algorithm whose runs all have it by its name alone. values: of each group's runs."""
    others = {name for name, own in zip(names, values, strict=True) if set(own) != {value}}
    found = []
    for g, name, own in zip(groups, names, values, strict=True):
        if name not in others:
            found.append(name)
        elif set(own) == {value}:
            found.append(f"{name} {g.task}")
        else:
            seeds = [run.result["seed"] for run, held in zip(g.runs, own, strict=True) if held == value]
            found += [f"{name} {g.task} seed {seed}" for seed in seeds]
    return ", ".join(dict.fromkeys(found))


def _text(value: Any) -> str:
    return NONE if value is None else str(value)
