"""The arithmetic that algorithms share, and the training step that those on episodes inherit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm, class_means, cosines, embed, squared_distances
from fewshot.episode import Episode


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


def test_embed_sends_all_images_through_one_forward() -> None:
    seen: list[torch.Size] = []

    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.shape)
            return x.flatten(1).to(torch.bfloat16)

    x = torch.arange(24.0).view(2, 3, 1, 2, 2)
    z = embed(Rows(), x)
    assert seen == [(6, 1, 2, 2)]
    assert z.dtype == torch.float32
    assert torch.equal(z, x.flatten(2))
    assert embed(nn.Flatten(), x.double()).dtype == torch.float64


class Fixed(Algorithm):
    """Predicts class 1 with the logit it was given."""

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        return torch.tensor([0.0, 1.0]) * support_x.mean()

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return state.expand(*query_x.shape[:2], 2)


def test_the_inherited_step_is_the_mean_cross_entropy_of_the_queries() -> None:
    y = torch.tensor([[1, 1, 0]])
    batch = Episode(
        torch.full((1, 2, 1, 1, 1), 3.0), torch.tensor([[0, 1]]), torch.zeros(1, 3, 1, 1, 1), y, torch.tensor([[4, 9]])
    )
    out = Fixed()(batch)
    right = torch.tensor([0.0, 3.0]).softmax(0)
    assert out.loss.item() == pytest.approx(-(2 * right[1].log() + right[0].log()).item() / 3)
    assert out.logits.shape == (1, 3, 2)
    assert Fixed().protocol() == {}
    assert len(list(Fixed().adaptation(batch.support_x, batch.support_y, ways=2))) == 1
