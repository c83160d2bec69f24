"""Convolution, batch norm and pooling with derivatives of their own are those of the formulas, also under vmap."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import conv2d, max_pool2d

from fewshot.ops.batch_norm import batch_norm
from fewshot.ops.conv import Conv2d
from fewshot.ops.pool import max_pool

TASKS, IMAGES, CHANNELS = 5, 4, 3


def normalised(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-3) -> Tensor:
    return batch_norm(x, weight, bias, eps)


def by_definition(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    axes, column = [0, *range(2, x.ndim)], (-1,) + (1,) * (x.ndim - 2)
    deviation = (x.var(axes, keepdim=True, correction=0) + 1e-3).sqrt()
    y = (x - x.mean(axes, keepdim=True)) / deviation
    y = y if weight is None else y * weight.view(column)
    return y if bias is None else y + bias.view(column)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("shape", [(7, CHANNELS), (IMAGES, CHANNELS, 4, 2)])
def test_batch_norm_and_two_derivatives(shape: tuple[int, ...]) -> None:
    x, weight, bias = drawn(*shape), drawn(CHANNELS), drawn(CHANNELS)
    for given in ((weight, bias), (weight, None), (None, bias), (None, None)):
        torch.testing.assert_close(normalised(x, *given), by_definition(x, *given))
    weight.data[0] = 0  # where nothing may be divided by it
    assert torch.autograd.gradcheck(normalised, (x, weight, bias))
    assert torch.autograd.gradgradcheck(normalised, (x, weight, bias))


def test_max_pool_and_two_derivatives() -> None:
    x = torch.randperm(2 * CHANNELS * 5 * 6).double().view(2, CHANNELS, 5, 6).requires_grad_()
    assert torch.equal(max_pool(x), max_pool2d(x, 2))
    assert torch.autograd.gradcheck(lambda x: max_pool(x / 9), x)
    assert torch.autograd.gradgradcheck(lambda x: max_pool(x / 9) ** 2, x)
    lying = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    for one in (x, lying):
        one.grad = None
        (max_pool(one) ** 2).sum().backward()
    assert torch.equal(x.grad, lying.grad)


def test_of_equal_ones_the_first_counts() -> None:
    """As PyTorch's; paper without ink is all ties."""
    x, same = (torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    max_pool(x).sum().backward()
    max_pool2d(same, 2).sum().backward()
    assert torch.equal(x.grad, same.grad)


GEOMETRIES = [  # channels in and out, then as torch.nn.Conv2d has them
    (3, 4, {"stride": 1, "padding": 1}),
    (3, 4, {"stride": 2, "padding": 1}),
    (4, 6, {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2), "groups": 2}),
]


@pytest.mark.parametrize(("channels", "out", "options"), GEOMETRIES)
def test_convolution_and_two_derivatives(channels: int, out: int, options: dict[str, Any]) -> None:
    ours, theirs = (kind(channels, out, 3, **options).double() for kind in (Conv2d, nn.Conv2d))
    theirs.load_state_dict(ours.state_dict())
    x = drawn(2, channels, 6, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    assert torch.autograd.gradcheck(lambda *_: ours(x), (x, *ours.parameters()))
    assert torch.autograd.gradgradcheck(lambda *_: ours(x), (x, *ours.parameters()))


@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}])
def test_other_paddings_are_those_of_pytorch(options: dict[str, Any]) -> None:
    ours, theirs = Conv2d(2, 3, 3, **options), nn.Conv2d(2, 3, 3, **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize(("channels", "out", "options"), GEOMETRIES)
@pytest.mark.parametrize("shared", ["none", "weight", "x"])
def test_tasks_at_once_convolve_as_each_alone(channels: int, out: int, options: dict[str, Any], shared: str) -> None:
    layer = Conv2d(channels, out, 3, bias=False, **options).double()
    given = {"weight": drawn(TASKS, *layer.weight.shape), "x": drawn(TASKS, 2, channels, 6, 5)}
    axes = tuple(None if name == shared else 0 for name in given)
    args = tuple(t[0] if axis is None else t for t, axis in zip(given.values(), axes, strict=True))
    results = []
    for convolve in (lambda w, x: functional_call(layer, {"weight": w}, x), lambda w, x: conv2d(x, w, **options)):
        inner = grad(lambda w, x, convolve=convolve: (convolve(w, x).tanh() ** 2).sum(), argnums=(0, 1))
        gs = vmap(inner, in_dims=axes)(*args)
        outer = torch.autograd.grad(sum((g**3).sum() for g in gs), tuple(given.values()))
        results.append([*gs, *outer])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shared", ["none", "weight", "bias", "x"])
def test_tasks_at_once_have_the_derivatives_of_each_alone(shared: str) -> None:
    """Gradients of a loss within each task, and the outer gradient through them (MAML's)."""
    given = {
        "weight": drawn(TASKS, CHANNELS),
        "bias": drawn(TASKS, CHANNELS),
        "x": drawn(TASKS, IMAGES, CHANNELS, 4, 4),
    }
    taps = torch.randn(IMAGES, CHANNELS, 2, 2, dtype=torch.float64)
    axes = tuple(None if name == shared else 0 for name in given)
    args = tuple(t[0] if axis is None else t for t, axis in zip(given.values(), axes, strict=True))

    def inner(norm: Callable[..., Tensor], pool: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        return grad(lambda weight, bias, x: (pool(norm(x, weight, bias)).tanh() * taps).sum(), argnums=(0, 1, 2))

    ours = vmap(inner(normalised, max_pool), in_dims=axes)(*args)
    one_by_one = inner(by_definition, lambda x: max_pool2d(x, 2))
    tasks = [
        one_by_one(*[a if axis is None else a[t] for a, axis in zip(args, axes, strict=True)]) for t in range(TASKS)
    ]
    theirs = [torch.stack(each) for each in zip(*tasks, strict=True)]
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second)
    outer = [torch.autograd.grad(sum((g**3).sum() for g in gs), tuple(given.values())) for gs in (ours, theirs)]
    for first, second in zip(*outer, strict=True):
        torch.testing.assert_close(first, second)
