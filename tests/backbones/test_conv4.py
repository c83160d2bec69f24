"""The four-block network: published sizes, the order within a block, and errors with the fix."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewshot import gradcheck
from fewshot.backbones.conv4 import Conv4
from fewshot.errors import InputError


def conv4(image_shape: tuple[int, ...] = (1, 28, 28), **options: Any) -> Conv4:
    defaults = {
        "filters": 64, "blocks": 4, "downsampling": "pool", "readout": "flatten", "norm": "batch",
        "norm_scale": True, "norm_eps": 1e-5, "activation": nn.ReLU(),
    }  # fmt: skip
    return Conv4(image_shape, **(defaults | options))


@pytest.mark.parametrize(
    ("image_shape", "options", "features"),
    [
        ((1, 28, 28), {}, 64),  # prototypical networks on Omniglot
        ((3, 84, 84), {}, 1600),  # and on miniImageNet: 5x5 positions
        ((1, 28, 28), {"downsampling": "stride", "readout": "mean"}, 64),  # MAML on Omniglot
        ((1, 28, 28), {"downsampling": "stride"}, 256),  # 14, 7, 4, 2
        ((3, 84, 84), {"filters": 32}, 800),  # MAML on miniImageNet
        ((3, 32, 48), {"filters": 8, "blocks": 3}, 8 * 4 * 6),
        ((1, 1, 1), {"downsampling": "stride"}, 64),
        ((3, 32, 32), {}, 256),  # MetaOptNet, CIFAR-FS
        ((3, 84, 84), {"readout": "max"}, 64),  # FEAT: MaxPool2d(5) of a 5x5 map
        ((3, 84, 84), {"downsamplings": 3, "readout": "mean"}, 64),  # RFS
        ((3, 84, 84), {"downsamplings": 2, "unpadded": 2}, 64 * 19 * 19),  # relation networks
        ((3, 28, 28), {"downsamplings": 2, "unpadded": 2}, 64 * 5 * 5),  # and on Omniglot
    ],
)
def test_width_of_the_embedding(image_shape: tuple[int, ...], options: dict[str, Any], features: int) -> None:
    net = conv4(image_shape, **options)
    assert type(net.out_features) is int
    assert net.out_features == features
    assert net.eval()(torch.rand(2, *image_shape)).shape == (2, features)


def test_number_of_parameters() -> None:
    """Kernels, scales and shifts: batch norm would subtract a convolution's bias again."""
    convolutions = 9 * 64 + 3 * 9 * 64 * 64
    assert sum(p.numel() for p in conv4(bias=True).parameters()) == convolutions + 4 * 3 * 64  # the papers' 111 936
    assert sum(p.numel() for p in conv4(norm="group", bias=False).parameters()) == convolutions + 4 * 2 * 64
    assert sum(p.numel() for p in conv4().parameters()) == convolutions + 4 * 2 * 64
    assert sum(p.numel() for p in conv4(norm_scale=False).parameters()) == convolutions + 4 * 64
    assert sum(p.numel() for p in conv4(norm="none").parameters()) == convolutions + 4 * 64


@pytest.mark.parametrize("filters", [5, 18])  # from twice the pixels of a patch on a block is folded
@pytest.mark.parametrize("activation", [nn.Softplus(), nn.SiLU()], ids=["monotone", "not"])
@pytest.mark.parametrize("downsampling", ["pool", "stride"])
def test_a_block_is_convolution_norm_activation_and_then_the_pool(
    downsampling: str, activation: nn.Module, filters: int
) -> None:
    net = conv4(filters=filters, blocks=2, downsampling=downsampling, norm_eps=0.1, activation=activation)
    stride = 2 if downsampling == "stride" else 1
    theirs = nn.Sequential()
    for channels in (1, filters):
        theirs.extend([nn.Conv2d(channels, filters, 3, stride, 1), nn.BatchNorm2d(filters, eps=0.1), activation])
        theirs.append(nn.MaxPool2d(2) if downsampling == "pool" else nn.Identity())
    with torch.no_grad():
        idle = [layer.bias.zero_() for layer in theirs if isinstance(layer, nn.Conv2d)]
        wanted = [p for p in theirs.parameters() if not any(p is bias for bias in idle)]
        for a, b in zip(net.parameters(), wanted, strict=True):
            b.copy_(a.normal_())
    x = torch.rand(6, 1, 12, 12)
    torch.testing.assert_close(net(x), theirs(x).flatten(1))
    torch.testing.assert_close(net.eval()(x), theirs.eval()(x).flatten(1))  # the running statistics, too
    with torch.no_grad():
        for bias in idle:
            bias.normal_()
    torch.testing.assert_close(net.train()(x), theirs.train()(x).flatten(1))  # which is why there is none


class Papers(nn.Module):
    """A variant as its authors' code has it, with torch.nn's layers: blocks of (pads, pools), then a readout."""

    def __init__(self, blocks: list[tuple[int, bool]], readout: nn.Module) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (padding, pools) in enumerate(blocks):
            layers += [nn.Conv2d(64 if i else 3, 64, 3, padding=padding), nn.BatchNorm2d(64), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if pools else []
        self.net = nn.Sequential(*layers, readout, nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize(
    ("options", "blocks", "readout"),
    [
        ({"readout": "max"}, [(1, True)] * 4, nn.MaxPool2d(5)),  # FEAT
        ({"downsamplings": 3, "readout": "mean"}, [(1, True)] * 3 + [(1, False)], nn.AdaptiveAvgPool2d(1)),  # RFS
        ({"downsamplings": 2, "unpadded": 2}, [(0, True)] * 2 + [(1, False)] * 2, nn.Identity()),  # Relation
    ],
    ids=["feat", "rfs", "relation"],
)
def test_the_papers_variants(options: dict[str, Any], blocks: list[tuple[int, bool]], readout: nn.Module) -> None:
    ours, theirs = conv4((3, 84, 84), bias=True, **options).double(), Papers(blocks, readout).double()
    with torch.no_grad():
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            b.copy_(a.normal_())
    x = torch.randn(2, 3, 84, 84, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-10)
    assert ours.blocks(x).shape[1:] == ours.map_shape


@pytest.mark.parametrize("options", [{"readout": "max"}, {"downsamplings": 1, "unpadded": 1, "bias": True}])
def test_meta_gradient_of_the_variants(options: dict[str, Any]) -> None:
    maml = gradcheck.as_maml(conv4((2, 8, 8), filters=4, blocks=2, **options))
    batch = gradcheck.random_episode(maml, (2, 8, 8), tasks=2)
    assert max(gradcheck.meta_gradient_differences(maml, batch).values()) < gradcheck.TOLERANCE


def test_weights_drawn_by_fan_out() -> None:
    net = conv4(init="he_fan_out", bias=True)
    for name, p in net.named_parameters():
        if p.ndim > 1:
            assert p.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1), name
        elif name.endswith("0.bias"):
            assert not p.any(), name


@pytest.mark.parametrize("filters", [8, 18])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_it_trains_under_autocast(norm: str, filters: int) -> None:
    """The convolutions in bf16, as torch.nn's, and gradients close to those of float32."""
    net = conv4(filters=filters, blocks=2, norm=norm)
    x, taps = torch.rand(12, 1, 12, 12), torch.rand(12, 9 * filters)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        net.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is torch.bfloat16):
            seen: list[torch.dtype] = []
            hook = net.blocks[1][0].register_forward_hook(lambda *a, seen=seen: seen.append(a[2].dtype))
            (net(x) * taps).mean().backward()
            hook.remove()
        assert seen == [dtype]
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())
    assert (gradients[0] - gradients[1]).norm() < 0.1 * gradients[0].norm()


@pytest.mark.parametrize(
    ("channels", "filters", "folds"), [(1, 18, True), (1, 17, False), (3, 54, True), (3, 32, False)]
)
def test_the_first_block_is_folded_where_that_is_less_work(channels: int, filters: int, folds: bool) -> None:
    net = conv4((channels, 8, 8), filters=filters, blocks=2)
    assert [block._folds() for block in net.blocks] == [folds, False]


def hooked(block: nn.Sequential) -> None:
    block[1].register_forward_hook(lambda module, args, out: out + 1)


def biased(block: nn.Sequential) -> None:
    block[0].bias = nn.Parameter(torch.rand(18))


def mirrored(block: nn.Sequential) -> None:
    block[0].padding_mode = "reflect"
    block[0]._reversed_padding_repeated_twice = [1, 1, 1, 1]


def dilated(block: nn.Sequential) -> None:
    block[0].dilation, block[0].padding = (2, 2), (2, 2)


def parametrized(block: nn.Sequential) -> None:
    nn.utils.parametrizations.weight_norm(block[0])


@pytest.mark.parametrize("change", [hooked, biased, mirrored, dilated, parametrized])
def test_what_a_user_changes_of_the_first_block_counts(change: Callable[[nn.Sequential], None]) -> None:
    net, x = conv4(filters=18, blocks=2), torch.rand(6, 1, 8, 8)
    block = net.blocks[0].eval()
    change(block)
    torch.testing.assert_close(block(x), nn.Sequential(*block)(x))
    assert block[:2](x).shape == (6, 18, 8, 8)


def test_readout_mean_is_over_positions() -> None:
    flat = conv4(filters=5, blocks=2, readout="flatten", norm="none")
    mean = conv4(filters=5, blocks=2, readout="mean", norm="none")
    mean.load_state_dict(flat.state_dict())
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(mean(x), flat(x).view(3, 5, 49).mean(-1))


def test_construction_leaves_no_trace_in_the_running_statistics() -> None:
    net = conv4()
    assert net.training
    assert all(m.training for m in net.modules())
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, torch.full_like(buffer, 1.0 if name.endswith("var") else 0.0))


def test_each_block_has_its_own_activation() -> None:
    net = conv4(activation=nn.PReLU())
    slopes = [name for name, _ in net.named_parameters() if name.endswith("2.weight")]
    assert len(slopes) == 4


def test_images_that_vanish() -> None:
    with pytest.raises(InputError, match=r"4 poolings leave nothing of a 8x28 image; lower backbone\.blocks"):
        conv4((1, 8, 28))
    with pytest.raises(InputError, match="2 poolings leave nothing of a 8x28 image"):
        conv4((1, 8, 28), downsamplings=2, unpadded=2)
    assert conv4((1, 8, 28), blocks=3, filters=4).out_features == 4 * 1 * 3


@pytest.mark.parametrize("options", [{"filters": 0}, {"blocks": 0}])
def test_a_net_of_nothing(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"backbone\.(filters|blocks)=0 is below 1"):
        conv4(**options)


@pytest.mark.parametrize(
    ("key", "among"),
    [
        ("downsampling", "pool or stride"),
        ("readout", "flatten, mean or max"),
        ("norm", "batch, instance, layer, group or none"),
        ("init", "default or he_fan_out"),
    ],
)
def test_unknown_choices(key: str, among: str) -> None:
    with pytest.raises(InputError, match=f"backbone.{key}=spectral is unknown; choose {among}"):
        conv4(**{key: "spectral"})


@pytest.mark.parametrize("options", [{"downsamplings": 5}, {"unpadded": -1}])
def test_more_blocks_than_there_are(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"of 4 blocks; choose 0 to 4"):
        conv4(**options)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(), nn.SiLU()])
def test_the_order_of_pooling_and_activation_changes_nothing(activation: nn.Module) -> None:
    """The papers' order is convolution, norm, activation, pooling; where the activation never falls it may wait."""
    net = conv4(downsampling="pool", activation=activation).double()
    x = torch.rand(6, 1, 28, 28, dtype=torch.float64)

    def papers_order(x: Tensor) -> Tensor:
        for convolution, norm, *_ in net.blocks:
            x = nn.functional.max_pool2d(activation(norm(convolution(x))), 2)
        return x.flatten(1)

    for ours, theirs in zip(*[outcome(net, f(x)) for f in (net, papers_order)], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def outcome(net: nn.Module, z: Tensor) -> list[Tensor]:
    return [z, *torch.autograd.grad(z.square().sum(), list(net.parameters()))]
