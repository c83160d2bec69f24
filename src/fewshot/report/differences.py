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
    keys = dict.fromkeys(key for g in groups for run in g.runs for key in facts(run))
    same: dict[str, str] = {}
    rows: list[list[str]] = []
    for key in keys:
        holders: dict[str, list[str]] = {}
        for g, name in zip(groups, names, strict=True):
            for run in g.runs:
                seed = f" seed {run.result['seed']}" if len({_text(facts(r).get(key)) for r in g.runs}) > 1 else ""
                holders.setdefault(_text(facts(run).get(key)), []).append(f"{name} {g.task}{seed}")
        if len(holders) == 1:
            same[key] = next(iter(holders))
        else:
            rows += [[key, value, _short(who, holders, names, groups)] for value, who in holders.items()]
    return same, Table(["what", "value", "runs"], rows)


def _short(who: Sequence[str], holders: Mapping[str, list[str]], names: Sequence[str], groups: Sequence[Group]) -> str:
    """The runs of one value; an algorithm whose runs all have it by its name alone."""
    others = {holder for held in holders.values() if held is not who for holder in held}
    found = []
    for name, g in zip(names, groups, strict=True):
        mine = [w for w in who if w.startswith(f"{name} {g.task}")]
        whole = not any(other.startswith(tuple(f"{name} {h.task}" for h in groups)) for other in others)
        found += [name] if whole and mine else mine
    return ", ".join(dict.fromkeys(found))


def _text(value: Any) -> str:
    return NONE if value is None else str(value)
