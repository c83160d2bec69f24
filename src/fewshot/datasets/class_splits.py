"""Classes shared out among train, val and test. Layer 1."""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from fewshot.errors import InputError
from fewshot.folders import as_label

SPLITS = ("train", "val", "test")
SPELLINGS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def by_fractions(names: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Shares of the classes, rounded to whole classes by largest remainders, in an order drawn by their names.

    fractions: of train, val and test; 0 or more, 1 in sum. seed: of the order.
    """
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(
            f"dataset.fractions={list(fractions)}; expected three numbers from 0 on, of train, val and test, 1 in sum"
        )
    exact = [round(share * len(names), 6) for share in fractions]
    counts = [int(share) for share in exact]
    for i in sorted(range(3), key=lambda i: counts[i] - exact[i])[: len(names) - sum(counts)]:
        counts[i] += 1
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    first = [0, counts[0], counts[0] + counts[1]]
    return {split: order[i : i + n] for split, i, n in zip(SPLITS, first, counts, strict=True)}


def as_listed(lists: Mapping[str, Any], names: Sequence[str]) -> dict[str, list[str]]:
    """Lists of class names; InputError where a split or a class is unknown, or a class is listed twice."""
    owner: dict[str, str] = {}
    for split, listed in lists.items():
        if split not in SPLITS or not isinstance(listed, Sequence) or isinstance(listed, str):
            raise InputError(f"dataset.split: '{split}' is no list of classes for one of {', '.join(SPLITS)}")
        for name in (as_label(str(name)) for name in listed):
            if name not in names:
                near = " or ".join(difflib.get_close_matches(name, names, n=2))
                hint = f"did you mean {near}?" if near else f"there are {len(names)}, such as {names[0]}"
                raise InputError(f"dataset.split.{split} has '{name}', which is no class; {hint}")
            if name in owner:
                raise InputError(f"dataset.split has class '{name}' in {owner[name]} and in {split}; list it once")
            owner[name] = split
    return {split: [name for name in owner if owner[name] == split] for split in SPLITS}
