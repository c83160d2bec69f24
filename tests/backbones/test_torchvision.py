"""torchvision's models as embeddings, without downloads. The smallest of them stands for the others."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from fewshot.backbones.torchvision import StochasticDepth, TorchvisionBackbone
from fewshot.errors import InputError
from fewshot.ops import norm

SMALL = "shufflenet_v2_x0_5"


def backbone(
    image_shape: tuple[int, ...] = (1, 28, 28), *, model: str = SMALL, weights: str = "none", size: int | None = None
) -> TorchvisionBackbone:
    return TorchvisionBackbone(image_shape, model=model, weights=weights, size=size)


@pytest.fixture(scope="module")
def net() -> TorchvisionBackbone:
    return backbone()


def test_the_head_is_taken_off_and_norms_are_ours(net: TorchvisionBackbone) -> None:
    assert net.out_features == 1024
    assert not any(isinstance(m, nn.Linear | nn.BatchNorm2d) for m in net.modules())
    assert norm.batch_norms(net)
    assert net.training


def test_weights_from_a_file_give_torchvisions_own_numbers(tmp_path: Path) -> None:
    from torchvision.models import get_model

    theirs = get_model(SMALL, weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    net = backbone((3, 28, 28), weights=str(tmp_path / "net.pth"), size=40).eval()
    x = torch.rand(2, 3, 28, 28)
    grown = nn.functional.interpolate(x, (40, 40), mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # ImageNet
    theirs.fc = nn.Identity()
    expected = theirs((grown - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    torch.testing.assert_close(net(x), expected)


def test_grey_images_are_three_equal_channels(net: TorchvisionBackbone) -> None:
    x = torch.rand(2, 1, 28, 28)
    z = copy.deepcopy(net).eval()(x)
    assert z.shape == (2, 1024)
    torch.testing.assert_close(z, copy.deepcopy(net).eval()(x.repeat(1, 3, 1, 1)))


def test_images_of_the_wanted_size_are_not_resized(net: TorchvisionBackbone) -> None:
    resizing = copy.deepcopy(net).eval()
    resizing.size = 40
    small, x = torch.rand(2, 3, 28, 28), torch.rand(2, 3, 40, 40)
    assert torch.equal(resizing(x), copy.deepcopy(net).eval()(x))
    assert not torch.equal(resizing(small), copy.deepcopy(net).eval()(small))


def test_normalisation_constants_are_not_weights(net: TorchvisionBackbone) -> None:
    assert not {"mean", "std"} & set(net.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet19"}, "backbone.model=resnet19 is not in torchvision; near it: resnet1"),
        ({"model": "zzz"}, "is not in torchvision; near it: resnet18, convnext_tiny"),
        ({"weights": "nowhere.pth"}, "backbone.weights=nowhere.pth is not a file; use none, default or"),
        ({"model": "squeezenet1_1"}, "SqueezeNet has no linear head to take off"),
        ({"model": "alexnet"}, r"alexnet cannot take images of 28x28 \(.*\); set backbone.size, e.g. 224"),
    ],
)
def test_what_cannot_be(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        backbone(**options)


def test_a_file_that_is_no_state_dict_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    for name in ("text.pth", "other.pth"):
        with pytest.raises(InputError, match=f"{name} is not a state dict of {SMALL}") as raised:
            backbone(weights=str(tmp_path / name))
        assert "\n" not in str(raised.value)


def test_stochastic_depth_drops_rows_and_keeps_the_mean() -> None:
    layer, x = StochasticDepth(0.25, "row"), torch.ones(4000, 2, 3)
    y = layer(x)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert ((y == y[:, :1, :1]).flatten(1)).all()
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    assert layer.eval()(x) is x


def test_stochastic_depth_of_a_whole_batch() -> None:
    layer = StochasticDepth(0.5, "batch")
    seen = [layer(torch.ones(5, 2)) for _ in range(40)]
    assert all(len(y.unique()) == 1 for y in seen)
    assert len({y[0, 0].item() for y in seen}) == 2
    assert torch.equal(StochasticDepth(1.0, "row")(torch.ones(5, 2)), torch.zeros(5, 2))


def test_stochastic_depth_draws_for_each_task() -> None:
    drawn = torch.vmap(StochasticDepth(0.5, "row"), randomness="different")(torch.ones(32, 3, 1))[..., 0]
    assert len(drawn.unique(dim=0)) == 8


@pytest.mark.slow
def test_no_layer_that_vmap_refuses_is_left_in_a_convnext() -> None:
    net = backbone((3, 32, 32), model="convnext_tiny")
    layers = [m for m in net.modules() if type(m).__name__ == "StochasticDepth"]
    assert len(layers) == 18
    assert all(isinstance(m, StochasticDepth) for m in layers)
    assert not any(isinstance(m, nn.LayerNorm) for m in net.modules())
    assert layers[-1].p == pytest.approx(0.1)
