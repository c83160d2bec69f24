"""Batch norm for many tasks in one batch (see `task_layout`), with second derivatives of its own. Layer 0.

PyTorch makes some twenty passes over the images of the second derivative; here it takes six.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fewshot.ops.task_layout import column, joined, parted


def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias with the statistics of the batch, per channel.

    x: [B, C] or [B, C, H, W]; weight, bias: [C], None for 1 and 0. Right in every order of differentiation and
    under `vmap`, which PyTorch's is not with weights of each task's own.
    """
    ones = x.new_ones(x.shape[1], dtype=torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype)
    return _BatchNorm.apply(
        x, ones if weight is None else weight, torch.zeros_like(ones) if bias is None else bias, eps
    )[0]


class _BatchNorm(Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)  # and mean, 1 / deviation [C]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, weight, _, ctx.eps = inputs
        _, mean, inverse = output
        ctx.mark_non_differentiable(mean, inverse)  # their part is in the derivatives by x
        ctx.save_for_backward(x, weight, mean, inverse)

    @staticmethod
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> Any:
        return *_BatchNormBackward.apply(g, *ctx.saved_tensors, ctx.eps), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        tasks = info.batch_size
        flat = [joined(t, d, tasks) for t, d in zip((x, weight, bias), in_dims, strict=False)]
        y, mean, inverse = _BatchNorm.apply(*flat, eps)
        return (parted(y, tasks), parted(mean, tasks), parted(inverse, tasks)), (1, 0, 0)


class _BatchNormBackward(Function):
    """x' = (x - mean) r; by x: w r (g - <g> - x' <g x'>), by w: n <g x'>, by b: n <g>, where <.> is a mean over n."""

    @staticmethod
    def forward(
        g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _backward(g, x, weight, mean, inverse, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, v: Tensor, u: Tensor, s: Tensor) -> Any:
        """v, u, s come in for (by x, by w, by b). With P(v) = r (v - <v> - x' <v x'>), which is its own adjoint:

        by g: w P(v) + u x' + s; by w: n <v P(g)>; by x: P(h) - w r x' <v P(g)>
        where h = u g - w r (v <g x'> + g <v x'>).
        """
        g, x, weight, mean, inverse, gx, g1 = ctx.saved_tensors  # gx = n <g x'>, g1 = n <g>
        n, axes = x.numel() // x.shape[1], [0, *range(2, x.ndim)]
        by_g, vx, v1 = _backward(v, x, weight, mean, inverse, ctx.eps)
        by_weight = inverse * ((v * g).sum(axes) - (v1 * g1 + vx * gx) / n)
        scaled = weight * inverse
        a, b = inverse * (u - scaled * vx / n), -inverse * scaled * gx / n  # P(h) is of a g + b v
        c = -(a * gx + b * vx + scaled * by_weight) / n  # of x'
        d = -(a * g1 + b * v1) / n
        a, b, c, d, slope, shift = (
            column(t, x) for t in (a, b, c * inverse, d - c * inverse * mean, u * inverse, s - u * inverse * mean)
        )
        by_x = torch.addcmul(d, g, a).addcmul(v, b).addcmul(x, c)
        return torch.addcmul(by_g + shift, x, slope), by_x, by_weight, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        *tensors, eps = inputs
        tasks = info.batch_size
        flat = [joined(t, d, tasks) for t, d in zip(tensors, in_dims, strict=False)]
        by_x, by_weight, by_bias = _BatchNormBackward.apply(*flat, eps)
        return (parted(by_x, tasks), parted(by_weight, tasks), parted(by_bias, tasks)), (1, 0, 0)


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    given = (weight, None, None, mean, inverse, True, eps, [True, True, True])
    return torch.ops.aten.native_batch_norm_backward(g, x, *given)
