"""Does an algorithm keep its contract? Layer 3.

    for finding in check_algorithm(MyAlgorithm(backbone, ...), image_shape=(1, 28, 28)):
        assert finding.ok, finding

Copies of the algorithm are checked, property by property (see `properties`), in float64 where it runs in it: two
ways to the same number then differ by 1e-10, or there is a fault.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from fewshot.algorithms.base import Algorithm
from fewshot.episode import Episodes
from fewshot.errors import first_line
from fewshot.sizes import largest
from fewshot.testing.properties import PROPERTIES
from fewshot.testing.subject import Fault, Subject


class Finding(NamedTuple):
    """One property of one algorithm."""

    property: str
    ok: bool
    note: str  # what is at fault, or what there is to say besides

    def __str__(self) -> str:
        return f"{'ok' if self.ok else 'FAILED':<6} {self.property}{': ' if self.note else ''}{self.note}"


def check_algorithm(
    algorithm: Algorithm | Callable[[], Algorithm], *, image_shape: Sequence[int] = (1, 28, 28),
    ways: int | None = None, shots: int = 2, queries: int = 3, tasks: int = 3, train_classes: int = 2,
) -> list[Finding]:  # fmt: skip
    """Check an algorithm, or the one that a function without parameters makes; where it does not run, that alone.

    image_shape: C, H, W of the images that it is fed with. ways: None for those that it trains on. train_classes:
    labels in its mini-batches. The algorithm and the random generators stay as they are.
    """
    made = algorithm if isinstance(algorithm, Algorithm) else algorithm()
    if ways is None:
        ways = largest(made.stream.ways) if isinstance(made.stream, Episodes) else 3
    devices = {p.device for p in made.parameters() if p.is_cuda}
    findings: list[Finding] = []
    with torch.random.fork_rng(devices):
        subject = Subject(made, tuple(image_shape), ways, shots, queries, tasks, train_classes)
        for holds in PROPERTIES:
            name = holds.__name__.replace("_", " ")
            try:
                findings.append(Finding(name, True, holds(subject) or ""))
            except Fault as fault:
                findings.append(Finding(name, False, str(fault)))
            except Exception as error:
                note = f"{type(error).__name__}: {first_line(error)}{subject.last_layer()}"
                findings.append(Finding(name, False, note))
            if not findings[0].ok:
                break
    return findings
