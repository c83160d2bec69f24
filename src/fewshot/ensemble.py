"""Several checkpoints of one training as one algorithm. Layer 2.

    p(y | x) = mean over the members of softmax_y(logits of a member);  logits are log p

Antoniou, Edwards & Storkey 2019 (arXiv:1810.09502), section 5, test the five checkpoints best in validation so.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm, State
from fewshot.checkpoint import load_into


class Ensemble(Algorithm):
    """Copies of `algorithm` with these weights, the best first, each adapted by itself. Not for training.

    logits: [T, N*Q, N]; a state is the list of its members'. FewshotError where weights do not fit.
    """

    def __init__(self, algorithm: Algorithm, weights: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.members = nn.ModuleList([copy.deepcopy(algorithm) for _ in weights])
        for member, own in zip(self.members, weights, strict=True):
            load_into(member, own)
        self.stream, self.transductive = algorithm.stream, algorithm.transductive
        self.auto_precision = algorithm.auto_precision

    @property
    def best(self) -> Algorithm:
        """The first member; pictures and the size of the network are its."""
        return self.members[0]  # type: ignore[return-value]

    @property
    def backbone(self) -> nn.Module | None:
        return getattr(self.best, "backbone", None)

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> list[State]:
        return [member.adapt(support_x, support_y, ways=ways) for member in self.members]  # type: ignore[operator]

    def adaptation(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Iterator[list[State]]:
        steps = [member.adaptation(support_x, support_y, ways=ways) for member in self.members]  # type: ignore[operator]
        yield from map(list, zip(*steps, strict=True))

    def predict(self, state: list[State], query_x: Tensor) -> Tensor:
        each = [member.predict(own, query_x).float() for member, own in zip(self.members, state, strict=True)]  # type: ignore[operator]
        return torch.stack(each).log_softmax(-1).logsumexp(0) - math.log(len(each))

    def features(self, state: list[State], x: Tensor) -> Tensor:
        return self.best.features(state[0], x)

    def check_measured(self) -> None:
        for member in self.members:
            member.check_measured()  # type: ignore[operator]

    def protocol(self) -> dict[str, Any]:
        return self.best.protocol() | {"ensemble": len(self.members)}
