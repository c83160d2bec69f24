"""Convolution, batch norm and max-pooling for many tasks in one batch. Layer 0.

T tasks with weights of their own are one convolution with T groups over images [B, T*C, H, W]. Under `vmap` all three
stay in that layout, one layer after the other, and nothing is copied; PyTorch's own rules move the tasks to the front
and back. And all three have second derivatives of their own: of a convolution PyTorch makes another one with an image
as its kernel, of batch norm some twenty passes over the images.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import pad

Geometry = tuple[Any, Any, Any, int]  # stride, padding, dilation, groups


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
        x = _mere_shape((*g.shape[:2], *shape), where, g.dtype)
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
    """The inverse: the tasks in an axis before the channels."""
    return t.unflatten(1 if t.ndim > 1 else 0, (tasks, -1))


def _mere_shape(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor that is never read, in the layout of `like`, for functions that need only its shape."""
    last = like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=layout)


def _column(t: Tensor, like: Tensor) -> Tensor:
    """[C] -> [C, 1, 1], to go with [B, C, H, W]."""
    return t.view(-1, *[1] * (like.ndim - 2))


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d, whose derivatives of every order are the library's own three kernels.

    Other padding than a number of zeros is left to PyTorch.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(x)
        y = self.convolve(x, self.weight)
        return y if self.bias is None else y + _column(_autocast(self.bias), y)

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


# A convolution y = Conv(x, w) is linear in both. Its derivatives are two more such products, and theirs are these
# three again: by x, Input(g, w); by w, Weight(x, g). PyTorch makes a convolution of its own for the second ones,
# with an image as its kernel.


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
        y = _Conv.apply(_joined(x, in_dims[0], tasks), w.movedim(in_dims[1], 0).flatten(0, 1), _times(geometry, tasks))
        return _parted(y, tasks), 1


class _ConvInput(Function):
    """g [B, O, h, w], w [O, C, ...] -> like x [B, C, *size]."""

    @staticmethod
    def forward(g: Tensor, w: Tensor, size: Sequence[int], geometry: Geometry) -> Tensor:
        x = _mere_shape((len(g), geometry[3] * w.shape[1], *size), g)
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
        flat = _joined(g, in_dims[0], tasks), w.movedim(in_dims[1], 0).flatten(0, 1)
        return _parted(_ConvInput.apply(*flat, size, _times(geometry, tasks)), tasks), 1


class _ConvWeight(Function):
    """x [B, C, H, W], g [B, O, h, w] -> like w [O, C / groups, *size]."""

    @staticmethod
    def forward(x: Tensor, g: Tensor, size: Sequence[int], geometry: Geometry) -> Tensor:
        w = _mere_shape((g.shape[1], x.shape[1] // geometry[3], *size), x)
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
        flat = [_joined(t, axis, tasks) for t, axis in zip((x, g), in_dims, strict=False)]
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
