"""Outer learning-rate schedules as pure functions of the step. Layer 0.

A schedule maps the number of updates done to a factor on the optimiser's rate; it has no state, so a resumed
run needs none.
"""

import math
from collections.abc import Callable, Sequence

from fewshot.errors import InputError, check_least

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """The same rate throughout."""
    return lambda step: 1.0


def cosine(*, steps: int, warmup: int, final: float) -> Schedule:
    """Linear from 0 over `warmup` steps, then half a cosine from 1 to `final` at `steps`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2

    return factor


def linear(*, steps: int, final: float) -> Schedule:
    """In a straight line from 1 to `final` at `steps` (Reptile)."""
    return lambda step: 1 + (final - 1) * min(1.0, step / max(1, steps))


def decay(*, every: int, gamma: float) -> Schedule:
    """Multiplied by `gamma` every `every` steps (ProtoNet: halved every 2000)."""
    check_least("trainer.schedule", 1, every=every)
    return lambda step: gamma ** (step // every)


def milestones(*, at: Sequence[float], unit: float, factors: Sequence[float]) -> Schedule:
    """1, and from step at[i] * unit on factors[i]. unit: the steps of a run, of an epoch, or 1."""
    if len(at) != len(factors):
        raise InputError(f"schedule.at has {len(at)} milestones and schedule.factors {len(factors)}; one for each")
    if unit < 0 or any(later <= earlier for earlier, later in zip([0, *at], at, strict=False)):
        raise InputError(f"schedule.at={list(at)}, unit={unit}; milestones rise from above 0")
    stairs = [(0, 1.0), *zip([round(place * unit) for place in at], factors, strict=True)]
    return lambda step: [factor for first, factor in stairs if step >= first][-1]
