"""The check of a model's meta-gradient: it finds planted faults, names the layers, and passes what is right."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fewshot import gradcheck
from fewshot.algorithms.maml import MAML
from fewshot.ops import norm

IMAGE = (2, 6, 6)


class Net(nn.Module):
    """Two convolutions, each followed by a norm; smooth, so that nothing but the norm can differ."""

    def __init__(self, make_norm: Callable[[int], nn.Module], dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(2, 3, 3, padding=1), make_norm(3)
        self.second, self.norm2 = nn.Conv2d(3, 4, 3, padding=1), make_norm(4)
        self.drop = nn.Dropout(dropout)
        self.out_features = 4 * 6 * 6

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.first(x)).tanh()
        return self.drop(self.norm2(self.second(x)).tanh().flatten(1))


def layer_norm_2d(channels: int) -> nn.Module:
    from torchvision.models.convnext import LayerNorm2d

    return LayerNorm2d(channels)


FUSED: dict[str, Callable[[int], nn.Module]] = {
    "batch": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
    "layer": lambda channels: nn.LayerNorm([channels, 6, 6]),
    "layer, no shift": lambda channels: nn.LayerNorm([channels, 6, 6], bias=False),
    "layer 2d of torchvision": layer_norm_2d,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}


def checked(net: nn.Module, *, first_order: bool = False) -> tuple[float, list[gradcheck.FaultyLayer]]:
    maml = gradcheck.as_maml(net, first_order=first_order)
    batch = gradcheck.random_episode(maml, IMAGE, tasks=3)
    differences = gradcheck.meta_gradient_differences(maml, batch)
    return max(differences.values()), gradcheck.faulty_layers(maml.backbone, batch.support_x[0])


@pytest.mark.parametrize("kind", FUSED)
def test_a_fused_norm_is_found_and_named(kind: str) -> None:
    difference, faults = checked(Net(FUSED[kind]))
    assert difference > 1e-6
    assert [fault.layer for fault in faults] == ["norm1", "norm2"]
    assert all(fault.difference > 1e-6 for fault in faults)
    made = FUSED[kind](3)
    assert {fault.kind for fault in faults} == {f"{type(made).__module__}.{type(made).__name__}"}


@pytest.mark.parametrize("kind", FUSED)
def test_conversion_cures_it(kind: str) -> None:
    difference, faults = checked(norm.convert(Net(FUSED[kind])))
    assert difference < gradcheck.TOLERANCE
    assert faults == []


@pytest.mark.parametrize("kind", norm.NORMS)
def test_the_norms_here_pass(kind: str) -> None:
    difference, faults = checked(Net(norm.NORMS[kind]))
    assert difference < gradcheck.TOLERANCE
    assert faults == []


def test_one_fused_layer_among_right_ones_is_named_alone() -> None:
    net = Net(norm.NORMS["batch"])
    net.norm2 = nn.BatchNorm2d(4, track_running_stats=False)
    difference, faults = checked(net)
    assert difference > 1e-6
    assert [fault.layer for fault in faults] == ["norm2"]


def test_in_first_order_the_fused_norms_are_right() -> None:
    difference, _ = checked(Net(FUSED["batch"]), first_order=True)
    assert difference < gradcheck.TOLERANCE


def test_dropout_is_no_fault() -> None:
    difference, _ = checked(Net(norm.NORMS["batch"], dropout=0.5))
    assert difference < gradcheck.TOLERANCE


def test_the_check_works_on_a_copy_and_takes_any_mode() -> None:
    net = Net(norm.NORMS["batch"]).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    difference, _ = checked(net)
    assert difference < gradcheck.TOLERANCE
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert next(net.parameters()).dtype == torch.float32


def test_differences_are_relative_to_the_tensor_but_not_for_a_vanishing_one() -> None:
    theirs = {"large": torch.tensor([3.0, 4.0]), "zero": torch.tensor([0.0]), "none": None}
    ours = {"large": torch.tensor([3.0, 4.5]), "zero": torch.tensor([1e-9]), "none": None}
    found = gradcheck.differences(ours, theirs)
    assert found["large"] == pytest.approx(0.1)
    assert found["zero"] == pytest.approx(1e-9 / (1e-3 * 5))
    assert found["none"] == 0
    missing = gradcheck.differences({"a": None}, {"a": torch.tensor([2.0])})
    assert missing == {"a": pytest.approx(1)}


def test_heads_of_every_kind_and_learned_rates_are_checked() -> None:
    maml = gradcheck.as_maml(Net(norm.NORMS["batch"]), ways=4)
    for options in (
        {"head_init": "zero"},
        {"head_init": "zero", "inner_rate": "per_parameter"},
        {"inner_rate": "per_layer_step"},
    ):
        made = MAML(
            maml.backbone, ways=4, stream=maml.stream, inner_lr=0.1, inner_steps=2, eval_inner_steps=2,
            first_order=False, adapt="all", adapt_norm=True, loss_reduction="sum_over_shot",
            norm_statistics="batch", task_chunk=2, checkpoint_inner=True,
            **({"inner_rate": "fixed", "head_init": "default"} | options),
        ).double()  # fmt: skip
        batch = gradcheck.random_episode(made, IMAGE, tasks=3)
        assert max(gradcheck.meta_gradient_differences(made, batch).values()) < gradcheck.TOLERANCE


def test_a_random_episode_fits_the_model() -> None:
    maml = gradcheck.as_maml(Net(norm.NORMS["none"]), ways=4)
    batch = gradcheck.random_episode(maml, IMAGE, tasks=2, shots=3, queries=1)
    assert batch.support_x.shape == (2, 12, *IMAGE)
    assert batch.support_x.dtype == torch.float64
    assert batch.support_y[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert batch.query_y[1].tolist() == [0, 1, 2, 3]
    assert batch.ways == 4
