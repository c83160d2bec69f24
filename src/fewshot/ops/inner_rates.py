"""Inner learning rates: one number, one per weight (Meta-SGD), or one per layer and step (MAML++). Layer 0.

Each is a module that maps (name of the parameter, inner step) to a rate; learned ones are ordinary
parameters, so the outer optimiser trains them with everything else.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fewshot.errors import check_choice, check_least


class FixedRate(nn.Module):
    """alpha: the same for all parameters and steps, not learned (MAML)."""

    def __init__(self, inner_lr: float) -> None:
        super().__init__()
        self.inner_lr = inner_lr

    def forward(self, name: str, step: int) -> float | Tensor:
        return self.inner_lr


class RatePerParameter(nn.Module):
    """alpha of the shape of theta, learned: direction and size of the update (Meta-SGD, arXiv:1707.09835, eq. 3)."""

    def __init__(self, inner_lr: float, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.rates = nn.ParameterDict({_key(n): torch.full_like(p, inner_lr) for n, p in parameters.items()})

    def forward(self, name: str, step: int) -> Tensor:
        return self.rates[_key(name)]


class RatePerLayerStep(nn.Module):
    """One learned alpha per parameter tensor and inner step (MAML++, arXiv:1810.09502, section 4).

    Steps beyond those of training use the last one's rate.
    """

    def __init__(self, inner_lr: float, names: Iterable[str], steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.rates = nn.ParameterDict({_key(n): torch.full((steps,), inner_lr) for n in names})

    def forward(self, name: str, step: int) -> Tensor:
        return self.rates[_key(name)][min(step, self.steps - 1)]


def inner_rates(kind: str, inner_lr: float, parameters: Mapping[str, Tensor], steps: int) -> nn.Module:
    """The rates by their name in YAML: fixed | per_parameter | per_layer_step."""
    check_choice("algorithm.inner_rate", kind, ("fixed", "per_parameter", "per_layer_step"))
    check_least("algorithm", 0, inner_lr=inner_lr)  # below it the inner loop would climb
    if kind == "fixed":
        return FixedRate(inner_lr)
    if kind == "per_parameter":
        return RatePerParameter(inner_lr, parameters)
    return RatePerLayerStep(inner_lr, parameters, steps)


def _key(name: str) -> str:
    return name.replace(".", "/")  # ParameterDict takes no dots
