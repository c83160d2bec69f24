"""Groups of parameters: who decays, at which rate, for every optimiser of the configuration."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewshot.errors import InputError
from fewshot.ops import norm
from fewshot.optimizer import make_optimizer

DECAY, RATE = 0.5, 0.1
SGD = partial(torch.optim.SGD, lr=RATE, momentum=0.9, nesterov=True, weight_decay=DECAY, fused=True)
ADAMW = partial(torch.optim.AdamW, lr=RATE, weight_decay=DECAY, fused=True)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 3, 3), norm.BatchNorm(3), norm.LayerNorm((3, 2, 2)), nn.Flatten())
        self.attention = nn.Linear(12, 12)
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.fixed = nn.Parameter(torch.ones(2, 2), requires_grad=False)
        for p in self.parameters():
            nn.init.ones_(p)


def moved(make: Any, *, by: Tensor | None = None, **options: Any) -> dict[str, float]:
    """What is left of parameters of 1 after one step, for a gradient of 0 (or one that is `by` everywhere)."""
    net = Net()
    optimizer = make_optimizer(make, net, **({"decay_norms": True, "rate_factors": None} | options))
    for p in net.parameters():
        p.grad = torch.zeros_like(p) + (0 if by is None else by)
    optimizer.step()
    for name, p in net.named_parameters():
        assert len(p.unique()) == 1, name
    return {name: round(p.mean().item(), 6) for name, p in net.named_parameters()}


@pytest.mark.parametrize(("make", "kept"), [(SGD, 1 - RATE * DECAY * 1.9), (ADAMW, 1 - RATE * DECAY)])
def test_norms_and_biases_decay_or_not(make: Any, kept: float) -> None:
    """Nesterov's first step is 1 + momentum times the gradient, of which SGD's decay is a part."""
    everywhere = moved(make)
    assert {name for name, value in everywhere.items() if value == pytest.approx(kept)} == {*everywhere} - {"fixed"}
    spared = moved(make, decay_norms=False)
    assert {name for name, value in spared.items() if value != 1} == {"body.0.weight", "attention.weight"}
    assert spared["body.0.weight"] == pytest.approx(kept)


def test_a_part_moves_at_a_rate_of_its_own() -> None:
    plain = partial(torch.optim.SGD, lr=RATE)
    factors = {"attention": 10, "attention.bias": 0.0, "temperature": 2.0}
    found = moved(plain, by=torch.tensor(1.0), rate_factors=factors)
    own = {"attention.weight": 0.0, "attention.bias": 1.0, "temperature": 0.8, "fixed": 1.0}
    assert found == pytest.approx({name: own.get(name, 0.9) for name in found})


def test_both_at_once_make_four_groups_and_the_optimisers_own_rate_comes_first() -> None:
    optimizer = make_optimizer(SGD, Net(), decay_norms=False, rate_factors={"attention": 10})
    found = {(group["lr"], group["weight_decay"]): len(group["params"]) for group in optimizer.param_groups}
    assert found == {(RATE, DECAY): 1, (RATE, 0.0): 6, (10 * RATE, DECAY): 1, (10 * RATE, 0.0): 1}
    assert next(iter(found)) == (RATE, DECAY)
    assert all(group["nesterov"] and group["fused"] for group in optimizer.param_groups)


def test_without_either_there_is_one_group_in_the_order_of_the_parameters() -> None:
    net = Net()
    (group,) = make_optimizer(SGD, net, decay_norms=True, rate_factors=None).param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in net.parameters() if p.requires_grad]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"atention": 10}, "'atention' is no trainable part of the model; it has attention, body, temperature"),
        ({"fixed": 2}, "'fixed' is no trainable part"),
        ({"att": 2}, "'att' is no trainable part"),
        ({"body": "fast"}, "trainer.rate_factors.body=fast is no number from 0 on"),
        ({"body": -1.0}, "trainer.rate_factors.body=-1.0 is no number from 0 on"),
    ],
)
def test_parts_that_are_not_there(factors: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_optimizer(SGD, Net(), decay_norms=True, rate_factors=factors)


def test_a_model_without_anything_to_train_is_refused() -> None:
    frozen = Net().requires_grad_(False)
    with pytest.raises(InputError, match="Net has no parameter with requires_grad=True"):
        make_optimizer(SGD, frozen, decay_norms=True, rate_factors=None)
