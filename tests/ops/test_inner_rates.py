"""Inner rates: one number, one per weight, one per layer and step."""

import pytest
import torch

from fewshot.errors import InputError
from fewshot.ops.inner_rates import inner_rates

PARAMETERS = {"backbone.0.weight": torch.zeros(3, 2), "head.bias": torch.zeros(5)}


def test_a_fixed_rate_is_not_learned() -> None:
    rates = inner_rates("fixed", 0.4, PARAMETERS, steps=2)
    assert [rates(name, step) for name in PARAMETERS for step in (0, 7)] == [0.4] * 4
    assert not list(rates.parameters())


def test_a_rate_per_weight_starts_at_the_given_value() -> None:
    rates = inner_rates("per_parameter", 0.4, PARAMETERS, steps=2)
    for name, p in PARAMETERS.items():
        assert torch.equal(rates(name, 0), torch.full_like(p, 0.4))
        assert rates(name, 0) is rates(name, 3)
        assert rates(name, 0).requires_grad
    assert sum(p.numel() for p in rates.parameters()) == 3 * 2 + 5


def test_a_rate_per_layer_and_step_goes_on_with_the_last_step() -> None:
    rates = inner_rates("per_layer_step", 0.4, PARAMETERS, steps=3)
    assert [p.shape for p in rates.parameters()] == [(3,), (3,)]
    with torch.no_grad():
        for p in rates.parameters():
            p.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert [rates("head.bias", step).item() for step in (0, 1, 2, 3, 9)] == [1, 2, 3, 3, 3]
    assert rates("head.bias", 1).ndim == 0


def test_learned_rates_are_saved_and_loaded() -> None:
    rates, other = (inner_rates("per_parameter", lr, PARAMETERS, steps=1) for lr in (0.4, 0.1))
    other.load_state_dict(rates.state_dict())
    assert torch.equal(other("backbone.0.weight", 0), rates("backbone.0.weight", 0))


@pytest.mark.parametrize("kind", ["fixed", "per_parameter", "per_layer_step"])
def test_a_rate_below_zero_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match=r"inner_lr=-0\.4 is below 0"):
        inner_rates(kind, -0.4, PARAMETERS, steps=1)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(
        InputError, match="inner_rate=adaptive is unknown; choose fixed, per_parameter or per_layer_step"
    ):
        inner_rates("adaptive", 0.4, PARAMETERS, steps=1)
