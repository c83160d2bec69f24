"""The outer optimiser of an algorithm's parameters: which of them decay, and which move faster. Layer 1."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from fewshot.errors import InputError
from fewshot.ops import norm

Make = Callable[..., torch.optim.Optimizer]  # of parameters or of groups of them


def make_optimizer(
    make: Make, module: nn.Module, *, decay_norms: bool, rate_factors: Mapping[str, float] | None
) -> torch.optim.Optimizer:
    """`make` of the trainable parameters of `module`, in groups where they are not all treated alike.

    decay_norms: false leaves the parameters of norm layers, and all others of one number or one row (biases,
    scales, temperatures), without weight decay (Goyal et al. 2017, arXiv:1706.02677, section 5.3).
    rate_factors: part of the module -> factor on the rate of its parameters (FEAT: `attention: 10`); of several parts
    that hold a parameter the longest name counts.
    """
    factors, norms = rate_factors or {}, set(norm.norm_parameters(module))
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not named:
        raise InputError(f"{type(module).__name__} has no parameter with requires_grad=True: there is nothing to train")
    if not isinstance(factors, Mapping):
        raise InputError(f"trainer.rate_factors={factors}; give {{PART: FACTOR}}, parts of the model and their factors")
    for part, factor in factors.items():
        if not any(_within(name, part) for name in named):
            parts = ", ".join(sorted({name.split(".")[0] for name in named}))
            raise InputError(f"trainer.rate_factors: '{part}' is no trainable part of the model; it has {parts}")
        if not isinstance(factor, int | float) or not factor >= 0:
            raise InputError(f"trainer.rate_factors.{part}={factor} is no number from 0 on")
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): []}  # the optimiser's own rate comes first
    for name, parameter in named.items():
        held_by = max((part for part in factors if _within(name, part)), key=len, default=None)
        decays = decay_norms or (parameter.ndim > 1 and name not in norms)
        groups.setdefault((1.0 if held_by is None else factors[held_by], decays), []).append(parameter)
    groups = {treated: own for treated, own in groups.items() if own}
    if list(groups) == [(1.0, True)]:
        return make([*named.values()])
    spared = {"weight_decay": 0.0}
    optimizer = make([{"params": own} | ({} if decays else spared) for (_, decays), own in groups.items()])
    for group, (factor, _) in zip(optimizer.param_groups, groups, strict=True):
        group["lr"] *= factor
    return optimizer


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
