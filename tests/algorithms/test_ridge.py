"""Ridge heads against the normal equations, solved again for every image that is left out."""

import pytest
import torch
from torch import Tensor
from toy_data import Identity, clusters

from fewshot.algorithms.ridge import GRID, Ridge, fit_ridge, unit_length
from fewshot.episode import Minibatches
from fewshot.errors import InputError


def ridge(*, scale: float = 10.0, square_root: bool = False) -> Ridge:
    stream = Minibatches(batch_size=8)
    return Ridge(Identity(6), train_classes=5, stream=stream, scale=scale, square_root=square_root).double().eval()


def solved(x: Tensor, y: Tensor, w: Tensor, strength: Tensor) -> Tensor:
    """Weights and bias of equation (1), [D + 1, N], by the normal equations."""
    ones = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    penalty = strength * torch.eye(ones.shape[1], dtype=x.dtype)
    penalty[-1, -1] = 0
    return torch.linalg.solve(ones.T @ (w[:, None] * ones) + penalty, ones.T @ (w[:, None] * y))


@pytest.mark.parametrize(("sizes", "width"), [((3, 5, 2), 20), ((9, 5, 8), 4)])
def test_leaving_out_is_fitting_again(sizes: tuple[int, ...], width: int) -> None:
    """More images than features and fewer, unequal classes; the best strength wins."""
    y = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    x = torch.randn(len(y), width, dtype=torch.float64)
    onehot = torch.nn.functional.one_hot(y, 3).double()
    w = 1 / torch.tensor(sizes)[y].double()
    centred = x - (w[:, None] * x).sum(0) / w.sum()
    unit = (w[:, None] * centred.square()).sum(1).mean()

    def left_out(strength: Tensor) -> Tensor:
        predictions = torch.empty(len(y), 3, dtype=torch.float64)
        for i in range(len(y)):
            stay = torch.arange(len(y)) != i
            beta = solved(x[stay], onehot[stay], w[stay], strength)
            predictions[~stay] = x[~stay] @ beta[:-1] + beta[-1]
        return predictions

    strengths = torch.tensor(GRID, dtype=torch.float64) * unit
    errors = [(w[:, None] * (onehot - left_out(s)).square()).sum() for s in strengths]
    strength = strengths[torch.stack(errors).argmin()]
    fit = fit_ridge(x[None], onehot[None])
    beta = solved(x, onehot, w, strength)
    torch.testing.assert_close(fit.left_out[0], left_out(strength), rtol=0, atol=1e-10)
    torch.testing.assert_close(fit.weight[0], beta[:-1], rtol=0, atol=1e-10)
    torch.testing.assert_close(fit.bias[0, 0], beta[-1], rtol=0, atol=1e-10)


def test_a_class_counts_the_same_with_its_images_twice() -> None:
    x = torch.randn(1, 6, 9, dtype=torch.float64)
    onehot = torch.eye(3, dtype=torch.float64).repeat_interleave(2, 0)[None]
    twice = torch.cat([x, x[:, :2]], 1), torch.cat([onehot, onehot[:, :2]], 1)
    means = [(w := fit_ridge(*one)) and x @ w.weight + w.bias for one in ((x, onehot), twice)]
    torch.testing.assert_close(means[0].argmax(-1), means[1].argmax(-1))
    torch.testing.assert_close(means[0].mean((0, 1)), means[1].mean((0, 1)))  # no class gains


def test_features_without_variance_give_equal_scores() -> None:
    fit = fit_ridge(torch.ones(1, 5, 2, dtype=torch.float64), torch.eye(5, dtype=torch.float64)[None])
    assert fit.weight.abs().max() < 1e-12
    torch.testing.assert_close(fit.bias, torch.full_like(fit.bias, 0.2))


def test_logits_are_scaled_predictions_of_unit_embeddings() -> None:
    support, y, query, query_y = clusters(shots=3, noise=0.1)
    model = ridge(scale=3.0)
    logits = model.predict(model.adapt(support, y, ways=4), query)
    onehot = torch.nn.functional.one_hot(y, 4).double()
    fit = fit_ridge(unit_length(support, square_root=False), onehot)
    torch.testing.assert_close(logits, 3 * (unit_length(query, square_root=False) @ fit.weight + fit.bias))
    assert (logits.argmax(-1) == query_y).double().mean() > 0.9


def test_roots_keep_their_signs() -> None:
    z = torch.tensor([[4.0, -9.0, 0.0]])
    torch.testing.assert_close(unit_length(z, square_root=True), torch.tensor([[2.0, -3.0, 0.0]]) / 13**0.5)
    torch.testing.assert_close(unit_length(z, square_root=False), z / 97**0.5)


def test_scale_is_above_zero() -> None:
    with pytest.raises(InputError, match=r"algorithm.scale=0 is not above 0"):
        ridge(scale=0)
