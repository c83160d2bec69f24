"""What algorithms inherit: one forward for all images, the training step on episodes, features for images."""

import pytest
import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm, embed
from fewshot.episode import Episode
from fewshot.ops.similarities import class_means, squared_distances


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


class Nearest(Algorithm):
    """Class means of the backbone's embeddings, times a learned factor."""

    fixed_features = True

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.factor = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), nn.Parameter(torch.tensor(2.0))

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        return class_means(embed(self.backbone, support_x), support_y, ways)

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return -squared_distances(embed(self.backbone, query_x), state) * self.factor


def test_on_features_it_predicts_what_it_does_on_images() -> None:
    algorithm, y = Nearest().double().eval(), torch.tensor([[0, 1, 2]] * 2)
    support, query = torch.rand(2, 3, 1, 2, 2, dtype=torch.float64), torch.rand(2, 5, 1, 2, 2, dtype=torch.float64)
    on_images = algorithm.predict(algorithm.adapt(support, y, ways=3), query)
    other = algorithm.on_features()
    z, q = (embed(algorithm.backbone, x) for x in (support, query))
    torch.testing.assert_close(other.predict(other.adapt(z, y, ways=3), q), on_images, rtol=1e-12, atol=0)
    assert other.factor is algorithm.factor
    assert isinstance(algorithm.backbone, nn.Sequential) and not other.training
