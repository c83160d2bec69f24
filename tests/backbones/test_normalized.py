"""Normalisation as the first layer: the same numbers, names, and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fewshot.backbones.normalized import Normalized, chosen_statistics, normalized, stated
from fewshot.errors import InputError

STATISTICS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]}


class Net(nn.Module):
    out_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2).mean(2)).tanh()


def test_it_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    net, x = Net(), torch.rand(5, 3, 2, 2)
    expected = net((x - torch.tensor(STATISTICS["mean"]).view(3, 1, 1)) / torch.tensor(STATISTICS["std"]).view(3, 1, 1))
    model = normalized(net, STATISTICS)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert model.out_features == 4
    assert stated(model) == STATISTICS
    assert set(model.state_dict()) == {"network.linear.weight", "network.linear.bias"}


def test_nothing_to_normalise_is_no_layer() -> None:
    """Checkpoints of version 0.1 keep their names."""
    net = Net()
    assert normalized(net, None) is net and stated(net) is None
    net.normalizes = True  # type: ignore[assignment]
    assert normalized(net, STATISTICS) is net and stated(net) == "the backbone's own"


def test_under_functional_call_and_vmap() -> None:
    model = Normalized(Net(), **STATISTICS).double()
    tasks = {n: torch.stack([p.detach() + 0.1 * t for t in range(3)]) for n, p in model.named_parameters()}
    x = torch.rand(3, 5, 3, 2, 2, dtype=torch.float64)

    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, params, (x,)).square().sum()

    together = vmap(grad(loss))(tasks, x)
    for t in range(3):
        alone = grad(loss)({n: p[t] for n, p in tasks.items()}, x[t])
        for name, g in alone.items():
            torch.testing.assert_close(together[name][t], g)


@pytest.mark.parametrize(
    ("wanted", "dataset", "expected"),
    [
        ("dataset", STATISTICS, STATISTICS),
        ("dataset", None, None),
        ("none", STATISTICS, None),
        (None, STATISTICS, None),
        ({"mean": [0, 0, 0], "std": [1, 1, 2]}, STATISTICS, {"mean": [0.0] * 3, "std": [1.0, 1.0, 2.0]}),
    ],
)
def test_what_normalize_comes_to(wanted: Any, dataset: Any, expected: Any) -> None:
    assert chosen_statistics(wanted, dataset, 3) == expected


@pytest.mark.parametrize(
    "wanted", ["imagenet", {"mean": [0, 0, 0]}, {"mean": [0], "std": [1]}, {"mean": [0] * 3, "std": [0] * 3}]
)
def test_refused(wanted: Any) -> None:
    with pytest.raises(InputError, match="normalize="):
        chosen_statistics(wanted, STATISTICS, 3)
