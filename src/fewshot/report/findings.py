"""What a report finds, in words: who leads, by how much, and what cannot be told apart. Layer 5."""

from collections.abc import Collection, Sequence

from fewshot.report.comparison import Comparison, Pair
from fewshot.report.groups import Group
from fewshot.report.table import accuracy, points
from fewshot.report.tables import BEST, TIED, best_first, by_cell

NAMED = 3  # settings that cannot be told apart, and tasks


def headline(groups: Sequence[Group], names: Sequence[str], comparison: Comparison) -> str:
    """The finding in one sentence."""
    cells = by_cell(groups)
    if not cells:
        return "No run is finished"
    if len(cells) == 1:
        return details(groups, names, comparison)[0]
    rivals = {cell: members for cell, members in cells.items() if len(members) > 1}
    if not rivals:
        best = max(range(len(groups)), key=lambda i: groups[i].accuracy)
        return f"{len(groups)} settings, each of a task of its own: {_reaches(groups[best], names[best])}"
    if len(rivals) == 1:
        return details(groups, names, comparison)[list(cells).index(next(iter(rivals)))]
    led: dict[str, list[Pair]] = {}
    undecided: list[int] = []
    for members in rivals.values():
        first, tied, _ = leader(members, groups, comparison)
        second = comparison.between(first, best_first(members, groups)[1])
        if not tied and second:
            led.setdefault(names[first], []).append(second)
        else:
            undecided.append(first)
    of = "both tasks" if len(rivals) == 2 else f"all {len(rivals)} tasks"
    if not led:
        return f"In {of} the best setting cannot be told from the next"
    if [len(pairs) for pairs in led.values()] == [len(rivals)]:
        ((name, pairs),) = led.items()
        others = {names[pair.b] for pair in pairs}
        whom = f" {next(iter(others))}" if all(len(m) == 2 for m in rivals.values()) and len(others) == 1 else ""
        low, high = (choose(pairs, key=lambda pair: pair.difference.value) for choose in (min, max))
        return f"{name} leads{whom} in {of}, by {points(low.difference)} to {points(high.difference)} points"
    order = sorted(led.items(), key=lambda item: -len(item[1]))
    parts = [f"{name} leads {_where([pair.a for pair in pairs], groups, rivals)}" for name, pairs in order]
    if undecided:
        parts.append(f"{_where(undecided, groups, rivals)} no leader can be told")
    return "; ".join(parts)


def _where(leaders: Sequence[int], groups: Sequence[Group], rivals: Collection[object]) -> str:
    """`at 5-way 1-shot`; of many tasks only their number, `in 5 of 8 tasks`."""
    tasks = [groups[i].task for i in leaders]
    few = len(rivals) <= NAMED and len({groups[i].tested_on for i in leaders}) == 1
    return f"at {' and '.join(tasks)}" if few else f"in {len(tasks)} of {len(rivals)} tasks"


def details(groups: Sequence[Group], names: Sequence[str], comparison: Comparison) -> list[str]:
    """A sentence for each task."""
    cells = by_cell(groups)
    several_data = len({g.tested_on for g in groups}) > 1
    found = []
    for members in cells.values():
        group = groups[members[0]]
        where = f"at {group.task}" + (f" on {group.tested_on}" if several_data else "")
        first, tied, unlike = leader(members, groups, comparison)
        rest = [i for i in best_first(members, groups) if i not in (first, *tied, *unlike)]
        if tied:
            said = _tied([first, *tied], rest, names, comparison) + f" {where}"
        elif rest:
            pair = comparison.between(first, rest[0])
            others = f", the next of {1 + len(rest)}," if len(rest) > 1 else ""
            by = f" by {points(pair.difference)} points" if pair else ""
            said = f"{names[first]} leads {names[rest[0]]}{others}{by} {where}"
        else:
            said = _reaches(groups[first], names[first])
        if unlike:
            said += f"; {_listed([names[i] for i in unlike])} had other test episodes and cannot be compared with it"
        found.append(said)
    return found


def below_pixels(groups: Sequence[Group], names: Sequence[str]) -> str:
    """Settings that are worse than a baseline that learns nothing; empty where there are none."""
    found: dict[str, list[str]] = {}
    for group, name in zip(groups, names, strict=True):
        pixels = group.mean("baselines", "raw_pixels", "accuracy")
        if pixels is not None and group.accuracy + (group.ci95 or 0.0) < pixels:
            found.setdefault(name, []).append(group.task)
    said = "; ".join(f"{name} at {', '.join(tasks)}" for name, tasks in found.items())
    return f"Below the nearest class mean of raw pixels: {said}" if said else ""


def leader(members: Sequence[int], groups: Sequence[Group], comparison: Comparison) -> tuple[int, list[int], list[int]]:
    """Of groups of one task the best, those that cannot be told from it, and those of other test episodes."""
    first, *others = best_first(members, groups)
    pairs = {i: comparison.between(first, i) for i in others}
    tied = [i for i, pair in pairs.items() if pair is not None and not pair.apart]
    return first, tied, [i for i, pair in pairs.items() if pair is None]


def marks(groups: Sequence[Group], comparison: Comparison) -> list[str]:
    """Of each group whether it is the best of its task, cannot be told from that one, or neither."""
    found = [""] * len(groups)
    for members in by_cell(groups).values():
        first, tied, _ = leader(members, groups, comparison)
        found[first] = BEST
        for i in tied:
            found[i] = TIED
    return found


def _reaches(group: Group, name: str) -> str:
    """One setting alone: against the pixels."""
    said = f"{name} reaches {accuracy(group.accuracy, group.ci95, 1)} % at {group.task} on {group.tested_on}"
    pixels = group.mean("baselines", "raw_pixels", "accuracy")
    return said if pixels is None else f"{said}; the nearest class mean of raw pixels {accuracy(pixels, None, 1)} %"


def _tied(best: Sequence[int], rest: Sequence[int], names: Sequence[str], comparison: Comparison) -> str:
    """`a and b cannot be told apart (0.30 ± 0.70 points)`, `a, b, c and 2 others cannot be told apart`."""
    said = f"{_listed([names[i] for i in best])} cannot be told apart"
    pair = comparison.between(best[0], best[1]) if len(best) == 2 else None
    if pair:
        said += f" ({points(pair.difference)} points)"
    if rest and (behind := comparison.between(best[0], rest[0])):
        said += f", {names[rest[0]]} is {points(behind.difference)} points behind {names[best[0]]}"
    return said


def _listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b, c and 2 others`."""
    shown = list(names[:NAMED])
    if (more := len(names) - NAMED) > 0:
        shown.append(f"{more} other{'s' * (more > 1)}")
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def method(comparison: Comparison, groups: Sequence[Group]) -> str:
    """How it was compared, for below the findings."""
    if not comparison.pairs:
        return ""
    count = len(comparison.pairs)
    corrected = f" after Holm's correction for {count} comparisons" if count > 1 else ""
    seeds = {len(g.runs) for g in groups}
    training = (
        "One seed each: what training anew changes is not known."
        if seeds == {1}
        else "What training anew changes is apart from this: the column “sd of seeds”."
    )
    return (
        f"Differences are paired: over the same test episodes, seeds averaged, with their 95 % interval. "
        f"Told apart means at 5 %{corrected}. {training}"
    )
