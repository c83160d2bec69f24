"""Batch norm, (leaky) ReLU and 2x2 max-pooling of many small groups in one Triton kernel each way. Layer 0.

For a GPU, where the parts are short kernels that read and write the same images: one program per channel, which under
`vmap` is one per task and channel, computes its statistics, normalises, takes the largest of each window and activates
it. The derivative is a second kernel and the derivative's own derivative, which second-order MAML takes, a third; there
is no fourth. What is chosen in a window is found again in each of them rather than stored.

The form in PyTorch is `batch_norm`, `max_pool` and the activation; the tests compare the two. The kernels
have been run by Triton's interpreter only, so that they are off unless the environment says FEWSHOT_FUSED_NORM=1
(scripts/bench/gpu.sh measures both). Few channels of many values, as ProtoNet's, keep most of a GPU idle here.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

from fewshot.ops import fused_norm_kernels as kernels
from fewshot.ops.task_layout import joined, parted, placeholder

LARGEST = 256  # windows at a time


def norm_pool(x: Tensor, weight: Tensor | None, bias: Tensor | None, *, eps: float, slope: float, side: int) -> Tensor:
    """max_pool(leaky_relu(batch_norm(x))) with windows of side x side: [B, C, H, W] -> [B, C, H // side, W // side].

    weight, bias: [C], None for 1 and 0. slope: of the activation below 0; 0 is ReLU. side: 1 (no pooling) or 2.
    Differentiable twice, also under `vmap` with weights of each task's own.
    """
    ones = x.new_ones(x.shape[1], dtype=torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype)
    given = ones if weight is None else weight, torch.zeros_like(ones) if bias is None else bias
    return _NormPool.apply(x, *given, (eps, slope, side))[0]


def _run(kernel: Any, x: Tensor, side: int, *given: Any) -> None:
    """One program for each channel of x."""
    images, channels, height, width = x.shape
    windows = images * -(-height // side) * -(-width // side)
    kind = tl.float64 if x.dtype == torch.float64 else tl.float32
    block = min(LARGEST, triton.next_power_of_2(windows))
    kernel[(channels,)](*given, ACC=kind, SIDE=side, BLOCK=block, enable_fp_fusion=True)


def _planes(t: Tensor) -> Tensor:
    """t, with a single stride from one value of a plane to the next."""
    return t if t.stride(2) == t.shape[3] * t.stride(3) else t.contiguous()


def _strides(*tensors: Tensor) -> list[int]:
    """Of images, channels and places within a plane."""
    return [s for t in tensors for s in (t.stride(0), t.stride(1), t.stride(3))]


def _channels(x: Tensor, count: int) -> list[Tensor]:
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    return [torch.empty(x.shape[1], dtype=kind, device=x.device) for _ in range(count)]


Rule = tuple[float, float, int]  # eps, slope, side


class _NormPool(Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
        (eps, slope, side), x = rule, _planes(x)
        y = placeholder((*x.shape[:2], x.shape[2] // side, x.shape[3] // side), x)
        mean, inverse = _channels(x, 2)
        shape = x.shape[0], *x.shape[2:]
        _run(kernels.forward, x, side, x, weight, bias, y, mean, inverse, *shape, *_strides(x, y), eps, slope)
        return y, mean, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.rule = inputs
        ctx.mark_non_differentiable(*output[1:])  # their part is in the derivatives by x
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, gy: Tensor, *_: Tensor) -> Any:
        return *_NormPoolBackward.apply(gy, *ctx.saved_tensors, ctx.rule), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _mapped(_NormPool, info.batch_size, in_dims, inputs, (1, 0, 0))


class _NormPoolBackward(Function):
    @staticmethod
    def forward(
        gy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, rule: Rule
    ) -> tuple[Tensor, Tensor, Tensor]:
        (_, slope, side), gy, x = rule, _planes(gy), _planes(x)
        by_x, (by_weight, by_bias) = torch.empty_like(x), _channels(x, 2)
        given = (gy, x, weight, bias, mean, inverse, by_x, by_weight, by_bias, x.shape[0], *x.shape[2:])
        _run(kernels.backward, x, side, *given, *_strides(gy, x, by_x), slope)
        return by_x, by_weight, by_bias

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.rule = inputs
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, v: Tensor, u: Tensor, s: Tensor) -> Any:
        by_gy, by_x, by_weight = _NormPoolTwice.apply(v, u, s, *ctx.saved_tensors, ctx.rule)
        return by_gy, by_x, by_weight, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _mapped(_NormPoolBackward, info.batch_size, in_dims, inputs, (1, 0, 0))


class _NormPoolTwice(Function):
    @staticmethod
    def forward(v: Tensor, u: Tensor, s: Tensor, gy: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        *channels, (_, slope, side) = rest  # weight, bias, mean, inverse, <g x'> n, <g> n
        v, gy, x = (_planes(t) for t in (v, gy, x))
        by_gy, by_x, (by_weight,) = placeholder(tuple(gy.shape), x), torch.empty_like(x), _channels(x, 1)
        given = (v, u, s, gy, x, *channels, by_gy, by_x, by_weight, x.shape[0], *x.shape[2:])
        _run(kernels.twice, x, side, *given, *_strides(v, gy, x, by_gy, by_x), slope)
        return by_gy, by_x, by_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError("norm_pool has no third derivative; unset FEWSHOT_FUSED_NORM")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _mapped(_NormPoolTwice, info.batch_size, in_dims, inputs, (1, 1, 0))


def _mapped(function: Any, tasks: int, in_dims: Any, inputs: Any, out_dims: Any) -> Any:
    """All tasks as channels of one call."""
    *tensors, rule = inputs
    flat = [joined(t, axis, tasks) for t, axis in zip(tensors, in_dims, strict=False)]
    return tuple(parted(t, tasks) for t in function.apply(*flat, rule)), out_dims
