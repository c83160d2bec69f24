"""The Triton kernels do what the form in PyTorch does, in both orders of derivative and for tasks at once.

Without a GPU they are run by Triton's interpreter, which has to be chosen before Triton is imported: in a process of
its own, by the last test here.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.functional import leaky_relu

from fewshot.backbones.conv4 import Conv4, ConvBlock
from fewshot.ops.batch_norm import batch_norm
from fewshot.ops.norm import statistics_from
from fewshot.ops.pool import max_pool

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
RULES = list(product((0.0, 0.25), (1, 2)))  # slope, side
Form = Callable[[Tensor, Tensor, Tensor], Tensor]
pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def forms(slope: float, side: int) -> tuple[Form, Form]:
    """The kernels', and PyTorch's."""
    from fewshot.ops.fused_norm import norm_pool

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = batch_norm(x, weight, bias, 1e-3)
        return leaky_relu(max_pool(y) if side == 2 else y, slope)

    return lambda x, w, b: norm_pool(x, w, b, eps=1e-3, slope=slope, side=side), plain


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype).to(DEVICE).requires_grad_()


def agree(ours: Any, theirs: Any, rtol: float = 1e-6) -> None:  # eps is a float32 in a kernel
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


@pytest.mark.gpu
@pytest.mark.parametrize(("slope", "side"), RULES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_two_derivatives(slope: float, side: int, layout: torch.memory_format) -> None:
    """On sides that are no multiples of the window, with a weight below 0 and one of 0."""
    x, weight, bias = drawn(3, 4, 5, 7), drawn(4), drawn(4)
    x.data = x.data.to(memory_format=layout)
    weight.data[:2] = torch.tensor([-0.7, 0.0])
    cotangents = [drawn(*s.shape) for s in (x, weight, bias)]
    found = []
    for form in forms(slope, side):
        y = form(x, weight, bias)
        assert y.shape == (3, 4, 5 // side, 7 // side)
        first = torch.autograd.grad((y**2).sum(), (x, weight, bias), create_graph=True)
        along = sum((c * g).sum() for c, g in zip(cotangents, first, strict=True))
        found.append([y, *first, *torch.autograd.grad(along, (x, weight, bias))])  # type: ignore[arg-type]
    agree(*found)


@pytest.mark.gpu
@pytest.mark.parametrize(("slope", "side"), RULES)
def test_a_meta_gradient_through_tasks_with_weights_of_their_own(slope: float, side: int) -> None:
    """One inner step for three tasks at once, from shared weights; the outer loss after it, differentiated."""
    x, query, weight, bias = drawn(3, 2, 4, 4, 4), drawn(3, 2, 4, 4, 4), drawn(4), drawn(4)
    found = []
    for form in forms(slope, side):

        def inner(own: tuple[Tensor, Tensor], x: Tensor, form: Form = form) -> Tensor:
            return (form(x.sin(), *own) ** 3).mean()

        def task(own: tuple[Tensor, Tensor], x: Tensor, q: Tensor, inner: Any = inner, form: Form = form) -> Tensor:
            moved = tuple(p - 0.5 * g for p, g in zip(own, grad(inner)(own, x), strict=True))
            return (form(q, *moved) ** 2).mean()

        outer = vmap(task, in_dims=((None, None), 0, 0))((weight, bias), x, query)
        found.append([outer, *torch.autograd.grad(outer.sum(), (weight, bias, x, query))])
    agree(*found)


@pytest.mark.gpu
def test_of_equal_ones_the_first_counts_and_a_constant_stays_finite() -> None:
    x, weight, bias = torch.zeros(2, 3, 4, 4, device=DEVICE), drawn(3), drawn(3)
    found = []
    for form in forms(0.25, 2):
        own = x.double().requires_grad_()
        y = form(own, weight, bias)
        found.append([y, *torch.autograd.grad((y * torch.arange(y.numel(), device=DEVICE).view_as(y)).sum(), own)])
    agree(*found)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_sums_are_taken_in_float32_at_least(dtype: torch.dtype, rtol: float) -> None:
    """Of values far from 0, where a sum of squares would lose all digits."""
    x, weight, bias = (1000 + drawn(4, 2, 4, 4)).to(dtype), drawn(2), drawn(2)
    ours, exact = forms(0.0, 2)
    y = ours(x, weight.float(), bias.float())
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), exact(x.double(), weight, bias), rtol=rtol, atol=rtol)


@pytest.mark.gpu
@pytest.mark.parametrize("downsampling", ["pool", "stride"])
def test_a_block_of_conv4_is_the_same_by_the_kernel(downsampling: str) -> None:
    net = Conv4([1, 8, 8], filters=4, blocks=2, downsampling=downsampling, readout="flatten", norm="batch",
                norm_scale=True, norm_eps=1e-3, activation=nn.ReLU()).double().to(DEVICE)  # fmt: skip
    x = drawn(3, 1, 8, 8)
    for block in net.blocks:
        assert isinstance(block, ConvBlock)
        assert not block._fuses()  # running statistics are no business of the kernel
        with statistics_from(net, "batch"):
            assert block._fuses()
            agree([block.fused(x)], [nn.Sequential.forward(block, x)])
            x = block(x)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
@pytest.mark.parametrize("name", ["forward", "backward", "twice"])
def test_the_kernels_compile_for_a_gpu_that_is_not_here(name: str) -> None:
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget

    from fewshot.ops import fused_norm_kernels

    kernel = getattr(fused_norm_kernels, name)
    numbers = {"B", "H", "W", *(n for n in kernel.arg_names if len(n) == 2 and n[1] in "bcp" and n[0] in "xyvgho")}
    kinds = dict.fromkeys(kernel.arg_names, "*fp32") | dict.fromkeys(numbers, "i32")
    kinds |= dict.fromkeys({"eps", "slope"} & set(kernel.arg_names), "fp32")
    constants = {"ACC": tl.float32, "SIDE": 2, "BLOCK": 256}
    source = triton.compiler.ASTSource(kernel, kinds | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    options = {"enable_fp_fusion": True}
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["cubin"]


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is it")
def test_the_kernels_by_tritons_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", __file__]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
