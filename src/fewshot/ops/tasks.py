"""Many tasks as one tensor program. Layer 0."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

Params = dict[str, Tensor]


def map_tasks(function: Callable[..., Any], params: Params, shapes: Mapping[str, torch.Size], *each: Tensor) -> Any:
    """`function(params, *one_tasks_tensors)` for all T tasks at once.

    params: by name, of its own shape in `shapes` where all tasks share it, or [T, *shape] where each has its
    own; shared ones stay shared, so that a first inner step folds the tasks into one convolution.
    each: [T, ...] tensors. Results are stacked along a new first axis.
    """
    axes = {name: 0 if p.ndim > len(shapes[name]) else None for name, p in params.items()}
    return vmap(function, in_dims=(axes, *[0] * len(each)), randomness="different")(params, *each)


def model_features(backbone: nn.Module, params: Params, x: Tensor) -> Tensor:
    """One task's embeddings, x [M, C, H, W] -> [M, D].

    params: `backbone.*` (parameters, and buffers where they are to replace the module's own) among others.
    """
    own = {n.removeprefix("backbone."): p for n, p in params.items() if n.startswith("backbone.")}
    return functional_call(backbone, own, (x,))


def model_logits(backbone: nn.Module, params: Params, x: Tensor) -> Tensor:
    """One task's linear classifier on a backbone, x [M, C, H, W] -> [M, N].

    params: as for `model_features`, `head.weight` [N, D] and `head.bias` [N].
    """
    z = model_features(backbone, params, x)  # [M, D]
    return nn.functional.linear(z, params["head.weight"], params["head.bias"])


class _Accumulated(torch.autograd.Function):
    """A loss whose gradients are known already; backward hands them out."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        return None, None, *[None if g is None else g * grad_outputs[0] for g in ctx.gradients]


def accumulated(losses: Sequence[Callable[[], Tensor]], parameters: Sequence[Tensor]) -> Tensor:
    """The sum of `losses`, each differentiated and freed before the next is computed.

    Memory is that of one chunk of tasks; `.backward()` works as it does on an ordinary loss.
    """
    total = parameters[0].new_zeros(())
    sums: list[Tensor | None] = [None] * len(parameters)
    for make in losses:
        loss = make()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        sums = [s if g is None else g if s is None else s + g for s, g in zip(sums, gradients, strict=True)]
        total = total + loss.detach()
    return _Accumulated.apply(total, sums, *parameters)
