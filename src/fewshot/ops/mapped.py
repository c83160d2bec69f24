"""Batch norm and max-pooling with first and second derivatives of their own, also under `vmap`. Layer 0.

For T tasks with weights of their own PyTorch runs a convolution over images [B, T*C, H, W]. The layers between the
convolutions here stay in that layout: each task's channels are channels of their own, nothing is copied. PyTorch's
own rules move the tasks to the front and back, and write out batch norm's second derivative pass by pass.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def batch_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias with the statistics of the batch, per channel.

    x: [B, C] or [B, C, H, W]; weight, bias: [C], None for 1 and 0. Right in every order of differentiation and
    under `vmap`, which PyTorch's is not with weights of each task's own.
    """
    ones = x.new_ones(x.shape[1], dtype=torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype)
    return _BatchNorm.apply(
        x, ones if weight is None else weight, torch.zeros_like(ones) if bias is None else bias, eps
    )[0]


def max_pool(x: Tensor) -> Tensor:
    """The largest of each 2x2 window: [B, C, H, W] -> [B, C, H // 2, W // 2]."""
    return _MaxPool.apply(x)[0]


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
        flat = [_joined(t, d, tasks) for t, d in zip((x, weight, bias), in_dims, strict=False)]
        y, mean, inverse = _BatchNorm.apply(*flat, eps)
        return (_parted(y, tasks), _parted(mean, tasks), _parted(inverse, tasks)), (1, 0, 0)


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

        by g: w P(v) + u x' + s; by w: n <v P(g)>; by x: P(h) - w r x' <v P(g)>, where h = u g - w r (v <g x'> + g <v x'>).
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
            _column(t, x) for t in (a, b, c * inverse, d - c * inverse * mean, u * inverse, s - u * inverse * mean)
        )
        by_x = torch.addcmul(d, g, a).addcmul(v, b).addcmul(x, c)
        return torch.addcmul(by_g + shift, x, slope), by_x, by_weight, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        *tensors, eps = inputs
        tasks = info.batch_size
        flat = [_joined(t, d, tasks) for t, d in zip(tensors, in_dims, strict=False)]
        by_x, by_weight, by_bias = _BatchNormBackward.apply(*flat, eps)
        return (_parted(by_x, tasks), _parted(by_weight, tasks), _parted(by_bias, tasks)), (1, 0, 0)


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    given = (weight, None, None, mean, inverse, True, eps, [True, True, True])
    return torch.ops.aten.native_batch_norm_backward(g, x, *given)


class _MaxPool(Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.aten.max_pool2d_with_indices(x, [2, 2])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.shape = inputs[0].shape[-2:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> Any:
        return _MaxPoolBackward.apply(g, *ctx.saved_tensors, ctx.shape)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
        y, where = _MaxPool.apply(_joined(x, in_dims[0], info.batch_size))
        return (_parted(y, info.batch_size), _parted(where, info.batch_size)), (1, 1)


class _MaxPoolBackward(Function):
    """Puts g where the largest were."""

    @staticmethod
    def forward(g: Tensor, where: Tensor, shape: tuple[int, int]) -> Tensor:
        layout = (
            torch.channels_last if where.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        )
        x = torch.empty((*g.shape[:2], *shape), dtype=g.dtype, device=g.device, memory_format=layout)  # a mere shape
        return torch.ops.aten.max_pool2d_with_indices_backward(g, x, [2, 2], [2, 2], [0, 0], [1, 1], False, where)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        (where,) = ctx.saved_tensors
        return v.flatten(2).gather(2, where.flatten(2)).view_as(where), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor, where: Tensor, shape: tuple[int, int]) -> Any:
        flat = [_joined(t, d, info.batch_size) for t, d in zip((g, where), in_dims, strict=False)]
        return _parted(_MaxPoolBackward.apply(*flat, shape), info.batch_size), 1


def _joined(t: Tensor, axis: int | None, tasks: int) -> Tensor:
    """[B, C, ...] of each task -> [B, T*C, ...], [C] of each -> [T*C]; axis: the tasks', None where they share it."""
    to = 1 if t.ndim - (axis is not None) > 1 else 0
    t = t.unsqueeze(to).expand(*t.shape[:to], tasks, *t.shape[to:]) if axis is None else t.movedim(axis, to)
    return t.flatten(to, to + 1)


def _parted(t: Tensor, tasks: int) -> Tensor:
    """Back again, the tasks in front of the channels."""
    return t.unflatten(1 if t.ndim > 1 else 0, (tasks, -1))


def _column(t: Tensor, like: Tensor) -> Tensor:
    """[C] -> [C, 1, 1], to go with [B, C, H, W]."""
    return t.view(-1, *[1] * (like.ndim - 2))
