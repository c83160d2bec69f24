"""Accuracy, its 95 % interval, and the paired comparison of two runs. Layer 0."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot.errors import InputError

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


class Mean(NamedTuple):
    """A mean over episodes with the half width of its 95 % interval."""

    value: float
    ci95: float

    def as_accuracy(self) -> dict[str, float]:
        """As result.json has it."""
        return {"accuracy": self.value, "accuracy_ci95": self.ci95}


def episode_accuracy(logits: Tensor, query_y: Tensor) -> Tensor:
    """Percent right in each episode: [T, N*Q, N], [T, N*Q] -> [T]. What is not finite is not right."""
    right = (logits.argmax(-1) == query_y) & logits.isfinite().all(-1)
    return right.double().mean(-1) * 100


def mean_ci95(values: Tensor) -> Mean:
    """Mean and 1.96 s / sqrt(n) of one value per episode (s with n - 1); nan width for a single episode."""
    values = values.double()
    width = Z95 * values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(values.mean().item(), width)


def paired_difference(a: Tensor, b: Tensor) -> Mean:
    """Mean of a - b over the same episodes, with the interval of the difference (narrower than either's)."""
    if a.shape != b.shape:
        raise InputError(f"{len(a)} and {len(b)} episodes cannot be compared in pairs; evaluate both on as many")
    return mean_ci95(a.double() - b.double())


def class_mean_accuracy(support: Tensor, support_y: Tensor, query: Tensor, query_y: Tensor, ways: int) -> Tensor:
    """The baseline "nearest class mean": [T, N*K, D], [T, N*Q, D] -> percent right per episode [T]."""
    onehot = torch.nn.functional.one_hot(support_y, ways).to(support.dtype)  # [T, N*K, N]
    centre = support.mean(1, keepdim=True)  # what all have in common would cost cdist its digits
    means = (onehot.mT @ (support - centre)) / onehot.sum(1)[..., None]  # [T, N, D]
    return episode_accuracy(-torch.cdist(query - centre, means), query_y)
