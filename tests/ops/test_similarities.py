"""Means, products, distances and angles: closed forms, derivatives, and the precision of their operands."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from fewshot.ops import similarities
from fewshot.ops.similarities import class_means, cosines, distances, product, squared_distances

FUNCTIONS: list[Callable[[Tensor, Tensor], Tensor]] = [squared_distances, distances, cosines]


def pair(*, points: int = 5, width: int = 7) -> tuple[Tensor, Tensor]:
    return torch.randn(2, points, width, dtype=torch.float64), torch.randn(2, 3, width, dtype=torch.float64)


def test_class_means_for_any_order_and_number_of_labels() -> None:
    z = torch.randn(2, 7, 3, dtype=torch.float64)
    y = torch.tensor([[2, 0, 1, 0, 2, 2, 0], [1, 1, 1, 0, 1, 2, 2]])
    found = class_means(z, y, 3)
    for t in range(2):
        for c in range(3):
            torch.testing.assert_close(found[t, c], z[t][y[t] == c].mean(0), rtol=1e-12, atol=1e-12)


def test_class_means_carry_gradients_to_their_own_class() -> None:
    z = torch.zeros(1, 3, 2, requires_grad=True)
    class_means(z, torch.tensor([[0, 1, 0]]), 2)[0, 0].sum().backward()
    assert z.grad[0].tolist() == [[0.5, 0.5], [0, 0], [0.5, 0.5]]


def test_squared_distance_is_cdist_squared() -> None:
    a, b = torch.randn(2, 5, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    torch.testing.assert_close(squared_distances(a, b), torch.cdist(a, b) ** 2, rtol=1e-10, atol=1e-10)


def test_cosines_ignore_length() -> None:
    a, b = torch.randn(2, 5, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    expected = nn.functional.cosine_similarity(a[:, :, None], b[:, None], dim=-1)
    torch.testing.assert_close(cosines(3 * a, 0.1 * b), expected)
    assert torch.equal(cosines(torch.zeros(1, 7), torch.ones(2, 7)), torch.zeros(1, 2))  # no NaN


@pytest.mark.parametrize("function", [squared_distances, cosines])
def test_distances_keep_their_precision_under_autocast(function: Callable[..., Tensor]) -> None:
    a, b = torch.randn(1, 50, 64) + 3, torch.randn(1, 5, 64) + 3
    expected = function(a.double(), b.double()).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(function(a, b), expected, rtol=1e-4, atol=1e-6)


def test_means_keep_their_precision_under_autocast() -> None:
    z, y = torch.randn(1, 6, 4), torch.tensor([[0, 0, 0, 1, 1, 1]])
    expected = class_means(z.double(), y, 2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(class_means(z, y, 2), expected)


def test_rows_of_label_minus_one_do_not_count() -> None:
    z, y = torch.rand(1, 5, 3, dtype=torch.float64), torch.tensor([[0, -1, 0, 1, -1]])
    expected = torch.stack([(z[0, 0] + z[0, 2]) / 2, z[0, 3], torch.zeros(3, dtype=torch.float64)])
    torch.testing.assert_close(class_means(z, y, 3)[0], expected, rtol=1e-14, atol=0)


# ---- a common offset --------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [squared_distances, distances])
@pytest.mark.parametrize("offset", [0.0, 1000.0, -3e4])
def test_a_common_offset_costs_no_digits(function: Callable[[Tensor, Tensor], Tensor], offset: float) -> None:
    """float32 at x + 1000 has steps of 6e-5: what is left of the operands is all that is lost."""
    a, b = (t.float() + offset for t in pair(points=60, width=64))
    exact = torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
    exact = exact**2 if function is squared_distances else exact
    torch.testing.assert_close(function(a, b).double(), exact, rtol=1e-5, atol=1e-5)


def test_squared_distances_are_never_negative_and_keep_their_gradients() -> None:
    a = torch.randn(1, 40, 64) + 1000
    a.requires_grad_()
    found = squared_distances(a, a.detach())
    assert found.min() >= 0
    (g,) = torch.autograd.grad(found.sum(), a)
    expected = 2 * (a.detach()[:, :, None] - a.detach()[:, None]).sum(2)
    torch.testing.assert_close(g, expected, rtol=1e-3, atol=1e-3)


def test_the_distance_to_itself_has_no_gradient() -> None:
    a = torch.ones(1, 2, 3, dtype=torch.float64, requires_grad=True)
    distances(a, a.detach()).sum().backward()
    assert torch.equal(a.grad, torch.zeros_like(a))


# ---- derivatives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [lambda a, b: product(a, b.mT), squared_distances, cosines])
def test_derivatives_of_both_orders(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    a, b = (t.requires_grad_() for t in pair(points=2, width=3))
    assert torch.autograd.gradcheck(function, (a, b))
    assert torch.autograd.gradgradcheck(function, (a, b))
    assert torch.autograd.gradcheck(function, (a, b[0].detach().requires_grad_()))  # one set of b for all tasks


def test_distances_have_derivatives() -> None:
    a, b = (t.requires_grad_() for t in pair(points=2, width=3))
    assert torch.autograd.gradcheck(distances, (a, b))


@pytest.mark.parametrize("function", [lambda a, b: product(a, b.mT), squared_distances, cosines])
def test_mapped_second_derivatives_are_those_one_by_one(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    def second(a: Tensor, b: Tensor) -> Tensor:
        return grad(lambda a: grad(lambda a: function(a, b).sin().sum())(a).square().sum())(a)

    a, b = pair()
    expected = torch.stack([second(x, y) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(vmap(second)(a, b), expected, rtol=1e-10, atol=1e-12)


# ---- precision --------------------------------------------------------------------------------------------


@pytest.fixture(params=["high", "medium", "old flag", "new flag"])
def rounding(request: pytest.FixtureRequest) -> Iterator[None]:
    """A machine set to multiply float32 in fewer bits, by each of PyTorch's ways."""
    try:
        if request.param == "old flag":
            torch.backends.cuda.matmul.allow_tf32 = True
        elif request.param == "new flag":
            torch.backends.cuda.matmul.fp32_precision = "tf32"
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        else:
            torch.set_float32_matmul_precision(request.param)
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def settings() -> tuple[str, ...]:
    gpu, cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    try:
        old = torch.get_float32_matmul_precision()
    except RuntimeError:
        old = "old and new settings disagree"
    return gpu.fp32_precision, cpu.fp32_precision, old


@pytest.mark.parametrize("function", [lambda a, b: product(a, b.mT), squared_distances, cosines])
def test_no_product_is_rounded_and_the_settings_stay(
    rounding: None, function: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and both backward passes; on the CPU by the flags that a GPU would read inside the call."""
    seen: list[tuple[str, ...]] = []
    matmul = torch.matmul

    def noting(a: Tensor, b: Tensor) -> Tensor:
        seen.append((*settings()[:2], str(torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"))))
        return matmul(a, b)

    monkeypatch.setattr(similarities.torch, "matmul", noting)
    before = settings()
    a, b = (t.requires_grad_() for t in pair())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = torch.autograd.grad(function(a, b).sin().sum(), a, create_graph=True)[0]
        first.square().sum().backward()
    assert len(seen) > 4
    assert {(gpu, cpu) for gpu, cpu, _ in seen} <= {("ieee", "ieee"), ("ieee", "none")}
    assert {autocast for *_, autocast in seen} == {"False"}
    assert settings() == before


@pytest.mark.gpu
@pytest.mark.parametrize("captured", [False, True], ids=["plain", "in a CUDA graph"])
def test_a_gpu_multiplies_in_full(rounding: None, captured: bool) -> None:
    a, b = (t.float().cuda().requires_grad_() for t in pair(points=256, width=512))
    exact = pair_gradients(a.double(), b.double())
    if captured:
        from fewshot.engine.capture import Captured

        out = [torch.zeros_like(t) for t in exact]
        step = Captured(lambda: [o.copy_(g) for o, g in zip(out, pair_gradients(a, b), strict=True)], name="it")
        for _ in range(6):
            step()
        assert not step.plain
    else:
        out = pair_gradients(a, b)
    for found, wanted in zip(out, exact, strict=True):
        error = (found.double() - wanted).norm() / wanted.norm()
        assert error < 1e-6, error  # TF32 keeps 10 bits: 1e-3


def pair_gradients(a: Tensor, b: Tensor) -> list[Tensor]:
    found = squared_distances(a, b)
    return [found.detach(), *torch.autograd.grad((found / 1000).sin().sum(), (a, b))]
