"""Max-pooling for many tasks in one batch (see `task_layout`), with second derivatives of its own. Layer 0."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fewshot.ops.task_layout import joined, parted, placeholder


def max_pool(x: Tensor) -> Tensor:
    """The largest of each 2x2 window: [B, C, H, W] -> [B, C, H // 2, W // 2]."""
    return _MaxPool.apply(x)[0]


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
        y, where = _MaxPool.apply(joined(x, in_dims[0], info.batch_size))
        return (parted(y, info.batch_size), parted(where, info.batch_size)), (1, 1)


class _MaxPoolBackward(Function):
    """Puts g where the largest were."""

    @staticmethod
    def forward(g: Tensor, where: Tensor, shape: tuple[int, int]) -> Tensor:
        x = placeholder((*g.shape[:2], *shape), where, g.dtype)
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
        flat = [joined(t, d, info.batch_size) for t, d in zip((g, where), in_dims, strict=False)]
        return parted(_MaxPoolBackward.apply(*flat, shape), info.batch_size), 1
