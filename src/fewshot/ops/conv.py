"""Convolution for many tasks in one batch (see `task_layout`), with derivatives of every order of its own. Layer 0.

A convolution y = Conv(x, w) is linear in both. Its derivatives are two more such products, and theirs are these three
again: by x, Input(g, w); by w, Weight(x, g). PyTorch makes a convolution of its own for the second ones, with an image
as its kernel.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import pad

from fewshot.ops.task_layout import column, joined, parted, placeholder

Geometry = tuple[Any, Any, Any, int]  # stride, padding, dilation, groups


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d, whose derivatives of every order are the library's own three kernels.

    Other padding than a number of zeros is left to PyTorch.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(x)
        y = self.convolve(x, self.weight)
        return y if self.bias is None else y + column(_autocast(self.bias), y)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution of x with another kernel of this shape, zeros around x, without bias."""
        return _Conv.apply(_autocast(x), _autocast(weight), (self.stride, self.padding, self.dilation, self.groups))

    def patches(self, x: Tensor) -> Tensor:
        """What a kernel is multiplied with, zeros around x: [B, C, H, W] -> [B, C * kernel area, positions].

        Without dilation and groups.
        """
        (high, wide), (down, right) = [int(n) for n in self.padding], self.stride
        around = pad(x, (wide, wide, high, high))
        windows = around.unfold(2, self.kernel_size[0], down).unfold(3, self.kernel_size[1], right)
        return windows.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)


class _Conv(Function):
    @staticmethod
    def forward(x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        stride, padding, dilation, groups = geometry
        return torch.conv2d(x, w, None, stride, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, w, ctx.geometry = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x, w), wanted = ctx.saved_tensors, ctx.needs_input_grad
        if not torch.is_grad_enabled():  # the last derivative: both at once, as PyTorch has it
            return *_convolution_backward(g, x, w, ctx.geometry, wanted[:2]), None
        return (
            _ConvInput.apply(g, w, x.shape[-2:], ctx.geometry) if wanted[0] else None,
            _ConvWeight.apply(x, g, w.shape[-2:], ctx.geometry) if wanted[1] else None,
            None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, w: Tensor, geometry: Geometry) -> Any:
        tasks = info.batch_size
        if in_dims[1] is None:
            return _stacked(lambda x: _Conv.apply(x, w, geometry), x, in_dims[0])
        y = _Conv.apply(joined(x, in_dims[0], tasks), w.movedim(in_dims[1], 0).flatten(0, 1), _times(geometry, tasks))
        return parted(y, tasks), 1


class _ConvInput(Function):
    """g [B, O, h, w], w [O, C, ...] -> like x [B, C, *size]."""

    @staticmethod
    def forward(g: Tensor, w: Tensor, size: Sequence[int], geometry: Geometry) -> Tensor:
        x = placeholder((len(g), geometry[3] * w.shape[1], *size), g)
        return _convolution_backward(g, x, w, geometry, (True, False))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        g, w, _, ctx.geometry = inputs
        ctx.save_for_backward(g, w)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        (g, w), wanted = ctx.saved_tensors, ctx.needs_input_grad
        return (
            _Conv.apply(v, w, ctx.geometry) if wanted[0] else None,
            _ConvWeight.apply(v, g, w.shape[-2:], ctx.geometry) if wanted[1] else None,
            None, None,
        )  # fmt: skip

    @staticmethod
    def vmap(info: Any, in_dims: Any, g: Tensor, w: Tensor, size: Sequence[int], geometry: Geometry) -> Any:
        tasks = info.batch_size
        if in_dims[1] is None:
            return _stacked(lambda g: _ConvInput.apply(g, w, size, geometry), g, in_dims[0])
        flat = joined(g, in_dims[0], tasks), w.movedim(in_dims[1], 0).flatten(0, 1)
        return parted(_ConvInput.apply(*flat, size, _times(geometry, tasks)), tasks), 1


class _ConvWeight(Function):
    """x [B, C, H, W], g [B, O, h, w] -> like w [O, C / groups, *size]."""

    @staticmethod
    def forward(x: Tensor, g: Tensor, size: Sequence[int], geometry: Geometry) -> Tensor:
        w = placeholder((g.shape[1], x.shape[1] // geometry[3], *size), x)
        return _convolution_backward(g, x, w, geometry, (False, True))[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, g, _, ctx.geometry = inputs
        ctx.save_for_backward(x, g)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        (x, g), wanted = ctx.saved_tensors, ctx.needs_input_grad
        return (
            _ConvInput.apply(g, v, x.shape[-2:], ctx.geometry) if wanted[0] else None,
            _Conv.apply(x, v, ctx.geometry) if wanted[1] else None,
            None, None,
        )  # fmt: skip

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, g: Tensor, size: Sequence[int], geometry: Geometry) -> Any:
        tasks = info.batch_size
        flat = [joined(t, axis, tasks) for t, axis in zip((x, g), in_dims, strict=False)]
        return _ConvWeight.apply(*flat, size, _times(geometry, tasks)).unflatten(0, (tasks, -1)), 0


def _autocast(t: Tensor) -> Tensor:
    """As torch.autocast has it for a convolution; it does not look into functions with derivatives of their own."""
    kind = t.device.type
    active = torch.is_autocast_enabled(kind) and t.dtype is not torch.float64
    return t.to(torch.get_autocast_dtype(kind)) if active else t


def _convolution_backward(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, wanted: Sequence[bool]) -> list[Tensor]:
    """The derivatives by x and by w, as far as they are wanted."""
    stride, padding, dilation, groups = geometry
    rest = (None, stride, padding, dilation, False, [0, 0], groups, [*wanted, False])
    return torch.ops.aten.convolution_backward(g, x, w, *rest)[:2]


def _times(geometry: Geometry, tasks: int) -> Geometry:
    return *geometry[:3], geometry[3] * tasks


def _stacked(function: Callable[[Tensor], Tensor], t: Tensor, axis: int) -> Any:
    """What all tasks share is computed for [B*T, ...] at once; in the result the tasks are before the channels."""
    t = t.movedim(axis, 1)
    return function(t.flatten(0, 1)).unflatten(0, t.shape[:2]), 1
