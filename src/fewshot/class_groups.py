"""Which classes of a split an episode can have: any of them, or those of one group (an alphabet). Layer 2."""

import logging

import torch
from torch import Tensor

from fewshot.datasets.base import ImageSet
from fewshot.errors import InputError
from fewshot.ops import random

log = logging.getLogger("fewshot")


class ClassGroups:
    """The groups of at least `ways` classes that a split has; `skipped` counts the others.

    within_groups: the data set's groups; false: all classes are one group. InputError where there is no such group.
    """

    def __init__(
        self, images: ImageSet, split: str, *, ways: int, within_groups: bool, device: torch.device
    ) -> None:  # fmt: skip
        classes = list(images.split(split))
        if ways > len(classes):
            raise InputError(
                f"ways={ways} but split '{split}' of '{images.name}' has {len(classes)} classes; "
                + ("lower ways" if len(classes) > 1 else "it needs two at least; choose another split or more data")
                + (f", or {images.few_classes}" if images.few_classes else "")
            )
        members: dict[str, list[int]] = {}
        for position, c in enumerate(classes):
            members.setdefault(images.groups[c] if within_groups else "", []).append(position)
        usable = [m for m in members.values() if len(m) >= ways]
        if not usable:
            largest = max(len(m) for m in members.values())
            raise InputError(
                f"ways={ways} but the largest group in split '{split}' of '{images.name}' has "
                f"{largest} classes; lower ways or set within_groups=false"
            )
        self.skipped = len(members) - len(usable)
        if self.skipped:
            log.warning(
                "split '%s' of '%s': %d of %d groups left out, with fewer than ways=%d classes",
                split, images.name, self.skipped, len(members), ways,
            )  # fmt: skip
        self._order = torch.tensor([p for m in usable for p in m], device=device)
        self.sizes = torch.tensor([len(m) for m in usable], device=device)
        self._first = self.sizes.cumsum(0) - self.sizes

    def draw(self, key: Tensor, ways: int) -> Tensor:
        """Keys [T] of episodes -> places within the split of N = ways classes of one group, drawn uniformly: [T, N]."""
        group = random.below(random.mix(key, key.new_full((), 0)), len(self.sizes))
        member = random.distinct(random.mix(key, key.new_full((), 1)), self.sizes[group], ways)
        return self._order[self._first[group][:, None] + member]
