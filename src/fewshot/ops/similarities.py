"""Means, products, distances and angles of embeddings, in the precision of their operands. Layer 0.

A run may multiply matrices in TF32 or bf16. Rounded like that, a squared distance of 300 is off by 5 and the normal
equations of a closed-form head are useless; here nothing is rounded, forward and backward, also in CUDA graphs.

Shapes: a [..., P, D], b [..., N, D]; z [T, M, D] embeddings, y [T, M] int64 labels in 0..N-1, or -1 for a row that does
not count. float32 or float64.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def class_means(z: Tensor, y: Tensor, ways: int) -> Tensor:
    """Mean embedding of each class, 0 of one without rows: z [T, M, D], y [T, M] -> [T, N, D], by one product."""
    onehot = one_hot(y, ways, z.dtype)  # [T, M, N]
    return product((onehot / onehot.sum(1, keepdim=True).clamp(min=1)).mT, z)


def one_hot(y: Tensor, ways: int, dtype: torch.dtype) -> Tensor:
    """Labels as rows of 0 and one 1, -1 as zeros: y [T, M] -> [T, M, N]. PyTorch's own reads them from the device."""
    return (y[..., None] == torch.arange(ways, device=y.device)).to(dtype)


def with_ones(z: Tensor) -> Tensor:
    """[T, M, D] -> [T, M, D + 1]: a last column that multiplies the bias."""
    return torch.cat([z, torch.ones_like(z[..., :1])], -1)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|^2 = |a|^2 - 2 ab + |b|^2, never below 0: [..., P, D], [..., N, D] -> [..., P, N].

    Both are moved by the mean of b first: what all embeddings have in common would cancel, digits with it.
    """
    centre = b.mean(-2, keepdim=True).detach()  # distances do not depend on it, nor do their gradients
    a, b = a - centre, b - centre
    found = (a * a).sum(-1)[..., :, None] - 2 * product(a, b.mT) + (b * b).sum(-1)[..., None, :]
    return found - found.clamp(max=0).detach()  # below 0 by rounding; gradients stay


def distances(a: Tensor, b: Tensor) -> Tensor:
    """|a - b| from the differences themselves, with gradient 0 at 0: [..., P, D], [..., N, D] -> [..., P, N]."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarities, 0 for a vector of zeros: [..., P, D], [..., N, D] -> [..., P, N]."""
    normal = torch.nn.functional.normalize
    return product(normal(a, dim=-1), normal(b, dim=-1).mT)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b: [..., P, D], [..., D, N] -> [..., P, N], at any order of differentiation and under `vmap`."""
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return _Product.apply(a.expand(*batch, *a.shape[-2:]), b.expand(*batch, *b.shape[-2:]))


class _Product(Function):
    """The flags are read when a product is computed, and the backward pass computes two more."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        with full_precision():
            return torch.matmul(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (g,), (a, b) = grad_outputs, ctx.saved_tensors
        by_a, by_b = ctx.needs_input_grad
        return product(g, b.mT) if by_a else None, product(a.mT, g) if by_b else None


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Inside, matrix products are computed in the precision of their operands: no autocast, no TF32, no bf16."""
    gpu, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    rounding = gpu.fp32_precision, cpu.fp32_precision
    with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        if not {"tf32", "bf16"} & set(rounding):
            yield
            return
        try:  # PyTorch has an old and a new way to set this, and its profiler raises where they disagree
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
        except RuntimeError:
            before = None
        gpu.fp32_precision = cpu.fp32_precision = "ieee"
        try:
            yield
        finally:
            if before:
                torch.set_float32_matmul_precision(before)
            gpu.fp32_precision, cpu.fp32_precision = rounding
