"""The linear classifier on top of a backbone, before the inner loop changes it. Layer 2.

A head gives `start(ways, like)`: weight [N, D] and bias [N] of type and device of `like`, for N = ways classes.
"""

import torch
from torch import Tensor, nn

from fewshot.errors import InputError, check_choice

Start = dict[str, Tensor]  # "weight" and "bias"


class LearnedHead(nn.Linear):
    """Weight and bias are meta-learned: usable only with the number of ways for which they were learned."""

    def start(self, ways: int, like: Tensor) -> Start:
        if ways != self.out_features:
            raise InputError(
                f"ways={ways}, but this head was learned for ways={self.out_features}; evaluate with "
                f"ways={self.out_features}, or train with algorithm.head_init=zero, which serves any number"
            )
        return {"weight": self.weight, "bias": self.bias}


class ZeroHead(nn.Module):
    """Zeros, nothing learned. Serves any number of ways; or `only`, where each weight has a learned inner rate."""

    def __init__(self, in_features: int, only: int | None = None) -> None:
        super().__init__()
        self.in_features, self.only = in_features, only

    def start(self, ways: int, like: Tensor) -> Start:
        if self.only not in (None, ways):
            raise InputError(
                f"ways={ways}, but inner_rate=per_parameter learned the rates of a head for ways={self.only}; "
                f"evaluate with ways={self.only}, or train with inner_rate=per_layer_step or fixed"
            )
        return {"weight": like.new_zeros(ways, self.in_features), "bias": like.new_zeros(ways)}


def make_head(init: str, in_features: int, ways: int, *, rate_per_weight: bool) -> LearnedHead | ZeroHead:
    """init: default (PyTorch's) | normal (N(0, 1) and no bias, as the MAML authors' Omniglot network) | zero."""
    check_choice("algorithm.head_init", init, ("default", "normal", "zero"))
    if init == "zero":
        return ZeroHead(in_features, ways if rate_per_weight else None)
    head = LearnedHead(in_features, ways)
    if init == "normal":
        with torch.no_grad():
            nn.init.normal_(head.weight)
            nn.init.zeros_(head.bias)
    return head
