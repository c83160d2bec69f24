"""The norm layers compute what PyTorch's do, and their statistics come from where they are told."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewshot.errors import InputError
from fewshot.ops import norm
from fewshot.ops.conv import Conv2d

IMAGES, ROWS = (6, 4, 3, 3), (6, 4)
SAME = {  # ours, PyTorch's, shape of the input
    "batch 2d": (lambda: norm.BatchNorm(4), lambda: nn.BatchNorm2d(4), IMAGES),
    "batch 1d": (lambda: norm.BatchNorm(4), lambda: nn.BatchNorm1d(4), ROWS),
    "batch eps": (lambda: norm.BatchNorm(4, eps=0.1), lambda: nn.BatchNorm2d(4, eps=0.1), IMAGES),
    "batch momentum": (lambda: norm.BatchNorm(4, momentum=0.3), lambda: nn.BatchNorm2d(4, momentum=0.3), IMAGES),
    "batch, nothing learned": (
        lambda: norm.BatchNorm(4, scale=False, shift=False), lambda: nn.BatchNorm2d(4, affine=False), IMAGES,
    ),
    "layer": (lambda: norm.LayerNorm((4,)), lambda: nn.LayerNorm(4), ROWS),
    "layer of images": (lambda: norm.LayerNorm((4, 3, 3)), lambda: nn.LayerNorm([4, 3, 3]), IMAGES),
    "layer eps": (lambda: norm.LayerNorm((4,), eps=0.1), lambda: nn.LayerNorm(4, eps=0.1), ROWS),
    "layer, no shift": (lambda: norm.LayerNorm((4,), shift=False), lambda: nn.LayerNorm(4, bias=False), ROWS),
    "instance": (lambda: norm.InstanceNorm(4), lambda: nn.InstanceNorm2d(4, affine=True), IMAGES),
    "instance eps": (lambda: norm.InstanceNorm(4, eps=0.1), lambda: nn.InstanceNorm2d(4, affine=True, eps=0.1), IMAGES),
}  # fmt: skip
Pair = tuple[nn.Module, nn.Module, Tensor]


@pytest.fixture(params=SAME)
def pair(request: pytest.FixtureRequest) -> Pair:
    make_ours, make_theirs, shape = SAME[request.param]
    ours, theirs = make_ours().double(), make_theirs().double()
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.copy_(torch.randn_like(a))
            b.copy_(a)
    return ours, theirs, 3 * torch.randn(shape, dtype=torch.float64) + 1


def test_same_numbers_in_training_and_in_evaluation(pair: Pair) -> None:
    ours, theirs, x = pair
    for step in range(3):
        torch.testing.assert_close(ours(x + step), theirs(x + step), rtol=1e-12, atol=1e-12)
    expected = dict(theirs.named_buffers())
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, expected[name], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-12, atol=1e-12)


def test_same_first_and_second_order_gradients(pair: Pair) -> None:
    ours, theirs, x = pair
    weights = torch.randn_like(x)

    def gradients(layer: nn.Module) -> list[Tensor]:
        inputs = [x.clone().requires_grad_(), *layer.parameters()]
        first = torch.autograd.grad((layer(inputs[0]) * weights).sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        return [*first, *second]

    for a, b in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kind", "groups"), [("layer", 1), ("group", 8), ("instance", 16)])
def test_each_kind_normalises_over_its_own_axes(kind: str, groups: int) -> None:
    layer = norm.NORMS[kind](16, eps=0.0).double()
    y = layer(5 * torch.randn(3, 16, 4, 4, dtype=torch.float64) + 2).unflatten(1, (groups, -1))
    torch.testing.assert_close(y.mean((2, 3, 4)), torch.zeros(3, groups, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.var((2, 3, 4), correction=0), torch.ones(3, groups, dtype=torch.float64))
    assert [p.shape for p in layer.parameters()] == [(16,), (16,)]


def test_few_channels_are_a_group_each() -> None:
    assert norm.NORMS["group"](4).num_groups == 4


def test_no_norm_is_the_identity() -> None:
    x = torch.randn(2, 3)
    assert norm.NORMS["none"](3)(x) is x


def test_a_shift_without_a_scale() -> None:
    layer = norm.BatchNorm(4, scale=False)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    nn.init.constant_(layer.bias, 2.0)
    assert layer(torch.randn(IMAGES)).mean().item() == pytest.approx(2.0, abs=1e-5)


def normalised(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return (x - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + 1e-5).sqrt()


@pytest.mark.parametrize("training", [True, False])
def test_statistics_from_the_batch_or_the_buffers_in_either_mode(training: bool) -> None:
    net = nn.Sequential(norm.BatchNorm(4)).double().train(training)
    net[0].running_mean.copy_(torch.arange(4.0))
    net[0].running_var.copy_(torch.arange(4.0) + 1)
    before = [b.clone() for b in net.buffers()]
    x = torch.randn(IMAGES, dtype=torch.float64)
    with norm.statistics_from(net, "batch"):
        torch.testing.assert_close(net(x), normalised(x, x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)))
    with norm.statistics_from(net, "stored"):
        torch.testing.assert_close(net(x), normalised(x, before[0], before[1]))
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), before, strict=True))


def one_after_the_other(conv: Conv2d, layer: norm.BatchNorm, x: Tensor) -> Tensor:
    return layer(conv(x))


def folded(conv: Conv2d, layer: norm.BatchNorm, x: Tensor) -> Tensor:
    weight, shift = layer.folded(conv, x)
    return conv.convolve(x, weight) + shift.view(-1, 1, 1)


class Folded(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return folded(*self, x)  # type: ignore[arg-type]


def convolution_and_norm(scale: bool = True, **options: Any) -> tuple[Conv2d, norm.BatchNorm]:
    conv = Conv2d(2, 4, 3, **({"padding": 1} | options), bias=False)
    net = nn.Sequential(conv, norm.BatchNorm(4, eps=1e-3, momentum=0.3, scale=scale)).double()
    for tensor in (*net.parameters(), net[1].running_mean):
        nn.init.normal_(tensor)
    return net[0], net[1]


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"stride": (2, 3)}, {"padding": (0, 1)}])
@pytest.mark.parametrize("statistics", [None, "batch", "stored"])
@pytest.mark.parametrize("training", [True, False])
def test_folded_into_the_convolution_it_is_the_same_layer(
    options: dict[str, Any], statistics: str | None, training: bool
) -> None:
    """Values, gradients of two orders by everything there is, and what is stored and recorded."""
    conv, layer = convolution_and_norm(**options)
    layer.train(training)
    layer.statistics = statistics
    x = (torch.randn(5, 2, 7, 6, dtype=torch.float64) + 1).requires_grad_()
    taps = torch.randn(conv(x).shape, dtype=torch.float64)
    inputs, before = [x, conv.weight, *layer.parameters()], [b.clone() for b in layer.buffers()]
    found = []
    for function in (one_after_the_other, folded):
        with torch.no_grad():
            for buffer, start in zip(layer.buffers(), before, strict=True):
                buffer.copy_(start)
        with norm.recording(layer) as seen:
            y = function(conv, layer, x)
        first = torch.autograd.grad((y * taps).sin().sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        found.append([y, *first, *second, *seen.values(), *[b.clone() for b in layer.buffers()]])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (10, 0.01)])
def test_folded_statistics_are_those_of_float32(mean: float, deviation: float) -> None:
    """Over 150 000 positions, where one long sum of squares would lose three digits."""
    conv, layer = convolution_and_norm()
    layer.statistics = "batch"
    x = mean + deviation * (torch.rand(200, 2, 28, 28, dtype=torch.float64) < 0.1)
    seen = []
    for dtype in (torch.float64, torch.float32):
        with norm.recording(layer.to(dtype)) as found:
            layer.folded(conv.to(dtype), x.to(dtype))
        seen.append(found[".running_var"].double())
    limit = 1e-5 if deviation == 1 else 1e-3  # the pixels themselves are rounded to 5e-7 of 0.01
    torch.testing.assert_close(seen[1], seen[0], rtol=limit, atol=0)


def test_folded_over_one_value_is_refused_as_pytorch_does() -> None:
    conv, layer = convolution_and_norm()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer.folded(conv, torch.zeros(1, 2, 1, 1, dtype=torch.float64))


def test_a_variance_that_rounding_makes_negative_is_zero() -> None:
    """Smooth and large images under a kernel of second differences."""
    conv = Conv2d(1, 18, 3, padding=0, bias=False)
    ramp = 255 * torch.linspace(0, 1, 28).expand(50, 1, 28, 28)
    nn.init.constant_(conv.weight, 0)
    conv.weight.data[..., 1, :] = 40 * torch.randn(18, 1, 1) * torch.tensor([1.0, -2.0, 1.0])
    layer = norm.BatchNorm(18)
    with norm.recording(layer) as seen:
        weight, shift = layer.folded(conv, ramp)
    assert seen[".running_var"].min() >= 0
    assert weight.isfinite().all()
    assert shift.isfinite().all()


@pytest.mark.parametrize("shared", [True, False])
def test_folded_for_many_tasks_at_once(shared: bool) -> None:
    """The first inner step, where all tasks have the same kernel, and the later ones."""
    conv, layer = convolution_and_norm()
    layer.statistics = "batch"
    net = Folded(conv, layer)
    x = torch.randn(3, 5, 2, 7, 6, dtype=torch.float64)
    kernels = conv.weight.detach() + (0 if shared else torch.randn(3, *conv.weight.shape, dtype=torch.float64))
    taps = torch.randn(3, 5, 4, 7, 6, dtype=torch.float64)

    def objective(kernel: Tensor, x: Tensor, taps: Tensor) -> Tensor:
        g = torch.func.grad(lambda w: (run(w, x) * taps).sin().sum())(kernel)
        return (run(kernel - 0.1 * g, x) * taps).sum()

    def run(kernel: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(net, {"0.weight": kernel}, (x,))

    kernels.requires_grad_()
    at_once = torch.func.vmap(objective, in_dims=(None if shared else 0, 0, 0))(kernels, x, taps)
    one_by_one = torch.stack([objective(kernels if shared else kernels[t], x[t], taps[t]) for t in range(3)])
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-10, atol=1e-10)
    gradients = [torch.autograd.grad(values.sum(), kernels)[0] for values in (at_once, one_by_one)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_statistics_are_put_back_also_when_blocks_nest_or_fail() -> None:
    net = nn.Sequential(norm.BatchNorm(2), nn.Sequential(norm.BatchNorm(2)))
    net[0].statistics = "batch"

    def sources() -> list[str | None]:
        return [m.statistics for m in norm.batch_norms(net).values()]

    with norm.statistics_from(net, "stored"):
        with norm.statistics_from(net, "batch"):
            assert sources() == ["batch", "batch"]
        assert sources() == ["stored", "stored"]
    with pytest.raises(KeyError), norm.statistics_from(net, "stored"):
        raise KeyError
    assert sources() == ["batch", None]


def test_what_was_recorded_reproduces_the_batch() -> None:
    net = nn.Sequential(norm.BatchNorm(3), nn.ReLU(), nn.Sequential(norm.BatchNorm(3))).double()
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    with norm.statistics_from(net, "batch"):
        with norm.recording(net) as seen:
            expected = net(x)
        net(x + 1)  # not recorded
    assert list(seen) == ["0.running_mean", "0.running_var", "2.0.running_mean", "2.0.running_var"]
    torch.testing.assert_close(seen["0.running_mean"], x.mean((0, 2, 3)))
    torch.testing.assert_close(seen["0.running_var"], x.var((0, 2, 3), correction=0))
    with norm.statistics_from(net, "stored"):
        again = torch.func.functional_call(net, seen, (x,))
        torch.testing.assert_close(again, expected, rtol=1e-12, atol=1e-12)
        alone = torch.func.functional_call(net, seen, (x[:1],))
    torch.testing.assert_close(alone, expected[:1], rtol=1e-12, atol=1e-12)
    assert all(m.recorded is None for m in norm.batch_norms(net).values())


def test_running_statistics_move_once_towards_the_mean_over_all_tasks() -> None:
    net = nn.Sequential(norm.BatchNorm(2, momentum=0.25))
    means, variances = torch.randn(5, 2), torch.rand(5, 2)
    seen = {"backbone.0.running_mean": means, "backbone.0.running_var": variances}
    chunks = [{name: value[rows] for name, value in seen.items()} for rows in (slice(0, 3), slice(3, 5))]
    norm.update_running(net, chunks)
    torch.testing.assert_close(net[0].running_mean, 0.25 * means.mean(0))
    torch.testing.assert_close(net[0].running_var, 0.75 + 0.25 * variances.mean(0))
    norm.update_running(net, [])
    torch.testing.assert_close(net[0].running_mean, 0.25 * means.mean(0))


class Doubled(nn.LayerNorm):
    """A user's own forward, which a plain layer norm would not have."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


CONVERTED: dict[str, tuple[Callable[[], nn.Module], type[nn.Module]]] = {
    "batch 2d": (lambda: nn.BatchNorm2d(4, eps=0.1, momentum=0.3), norm.BatchNorm),
    "batch 1d": (lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36)), norm.BatchNorm),
    "batch, untracked": (lambda: nn.BatchNorm2d(4, track_running_stats=False), norm.BatchNorm),
    "batch, nothing learned": (lambda: nn.BatchNorm2d(4, affine=False), norm.BatchNorm),
    "layer": (lambda: nn.LayerNorm([4, 3, 3], eps=0.1), norm.LayerNorm),
    "layer, no shift": (lambda: nn.LayerNorm([4, 3, 3], bias=False), norm.LayerNorm),
    "instance": (lambda: nn.InstanceNorm2d(4, affine=True, eps=0.1), norm.InstanceNorm),
    "instance, nothing learned": (lambda: nn.InstanceNorm2d(4), nn.InstanceNorm2d),
    "group": (lambda: nn.GroupNorm(2, 4), nn.GroupNorm),
    "a subclass of their own": (lambda: Doubled([4, 3, 3]), Doubled),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_converted_nets_compute_the_same(kind: str) -> None:
    make, expected_type = CONVERTED[kind]
    net = nn.Sequential(nn.Conv2d(2, 4, 1), make()).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p))
    net(torch.randn(5, 2, 3, 3, dtype=torch.float64))  # moves running statistics off 0 and 1
    x = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    for training in (False, True):  # training last: it moves the statistics
        theirs = net.train(training)
        ours = norm.convert(nn.Sequential(*net))
        assert any(type(m) is expected_type for m in ours.modules())
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_conversion_keeps_the_parameters_themselves() -> None:
    net = nn.Sequential(nn.BatchNorm2d(4), nn.LayerNorm(3)).double().eval()
    net[0].weight.requires_grad_(False)
    before = dict(net.named_parameters())
    converted = norm.convert(net)
    assert converted is net
    assert {name: id(p) for name, p in net.named_parameters()} == {name: id(p) for name, p in before.items()}
    assert {t.dtype for t in net.state_dict().values()} == {torch.float64}
    assert not any(m.training for m in net.modules())


def test_channels_first_layer_norm_of_torchvision_is_converted() -> None:
    from torchvision.models.convnext import LayerNorm2d

    net = nn.Sequential(LayerNorm2d(4, eps=1e-3)).double()
    nn.init.normal_(net[0].weight)
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    expected = net(x)
    assert isinstance(norm.convert(net)[0], norm.LayerNorm)
    torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


def test_names_of_norm_parameters() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 1), norm.BatchNorm(4, scale=False), nn.Sequential(nn.GroupNorm(1, 4)), nn.LayerNorm(3)
    )
    assert norm.norm_parameters(net) == ["1.bias", "2.0.weight", "2.0.bias", "3.weight", "3.bias"]


def test_layers_that_track_statistics_in_place_are_refused_by_name() -> None:
    net = nn.Sequential(nn.Sequential(nn.Identity(), nn.BatchNorm2d(3)))
    message = r"layer '0\.1' is torch\.nn\.BatchNorm2d.*norm\.convert\(net\)"
    with pytest.raises(InputError, match=message):
        norm.refuse_tracking(net)
    norm.refuse_tracking(norm.convert(net))
    norm.refuse_tracking(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3, affine=True)))
