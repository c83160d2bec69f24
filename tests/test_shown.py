"""The episodes that a run keeps for pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fewshot import shown
from fewshot.algorithms.maml import MAML
from fewshot.algorithms.protonet import ProtoNet
from fewshot.algorithms.transfer import Transfer
from fewshot.backbones.mlp import MLP
from fewshot.datasets.base import ImageSet
from fewshot.episode import Episodes, Minibatches
from fewshot.evaluation import evaluate
from fewshot.sampler import EpisodeSampler

EPISODES = Episodes(tasks=2, ways=3, shots=2, queries=7)
MAKE = {
    "protonet": lambda net: ProtoNet(net, stream=EPISODES, distance="squared_euclidean", temperature=1.0),
    "maml": lambda net: MAML(
        net, ways=3, stream=EPISODES, inner_lr=0.5, inner_rate="fixed", inner_steps=1, eval_inner_steps=2,
        first_order=False, adapt="all", adapt_norm=True, loss_reduction="mean", norm_statistics="batch",
        head_init="default", task_chunk=None, checkpoint_inner=False),
    **{f"transfer {adapt}": lambda net, adapt=adapt: Transfer(
        net, train_classes=4, stream=Minibatches(batch_size=4), head="linear", scale=1.0, adapt=adapt, adapt_steps=3,
        adapt_lr=0.5, weight_decay=0.0) for adapt in ("head", "all")},
}  # fmt: skip


@pytest.fixture
def sampler(make_blobs: Callable[..., ImageSet]) -> tuple[ImageSet, EpisodeSampler]:
    images = make_blobs(noise=90.0)
    return images, EpisodeSampler(images, "test", ways=3, shots=2, queries=7, seed=0)


@pytest.mark.parametrize("name", MAKE)
def test_what_is_kept_is_what_was_tested(sampler: tuple[ImageSet, EpisodeSampler], name: str, tmp_path: Path) -> None:
    images, draws = sampler
    algorithm = MAKE[name](MLP([1, 4, 4], widths=[8, 6], norm="batch"))
    done = evaluate(algorithm, draws, episodes=12, tasks=4)
    kept = shown.first_and_hardest(done.accuracy)
    assert kept == sorted({0, done.accuracy.tolist().index(done.accuracy.min())})
    shown.save(
        tmp_path / "shown.npz", [shown.adapt_and_show(algorithm, draws, images.class_names, episode=k) for k in kept]
    )
    assert algorithm.training
    for k, found in zip(kept, shown.load(tmp_path / "shown.npz"), strict=True):
        batch = draws.sample(k, 1)
        assert (found.episode, found.accuracy) == (k, pytest.approx(done.accuracy[k].item()))
        assert found.names.tolist() == [images.class_names[c] for c in batch.classes[0].tolist()]
        assert np.array_equal(found.support_x, (batch.support_x[0] * 255).round().byte().numpy())
        queries = batch.query_x[0].unflatten(0, (3, 7))[:, :5].flatten(0, 1)  # five of each class's seven
        assert np.array_equal(found.query_x, (queries * 255).round().byte().numpy())
        assert (found.predicted.shape, found.query_z.shape, found.support_z.shape) == ((15,), (15, 6), (6, 6))
        assert found.means == pytest.approx(found.support_z.reshape(3, 2, 6).mean(1), abs=1e-5)
        assert found.query_y.tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_embeddings_explain_a_prototypical_network(sampler: tuple[ImageSet, EpisodeSampler]) -> None:
    """The class whose mean is nearest to a query's embedding is the one that was predicted."""
    images, draws = sampler
    algorithm = MAKE["protonet"](MLP([1, 4, 4], widths=[8, 6], norm="batch"))
    found = shown.adapt_and_show(algorithm, draws, images.class_names, episode=3)
    distances = ((found.query_z[:, None] - found.means[None]) ** 2).sum(-1)
    assert distances.argmin(1).tolist() == found.predicted.tolist()


def test_adapted_features_explain_maml(sampler: tuple[ImageSet, EpisodeSampler]) -> None:
    """The adapted head on the features is the prediction."""
    _, draws = sampler
    algorithm = MAKE["maml"](MLP([1, 4, 4], widths=[8, 6], norm="batch")).eval()
    batch = draws.sample(0, 2)
    with torch.no_grad():
        state = algorithm.adapt(batch.support_x, batch.support_y, ways=3)
        z = algorithm.features(state, batch.query_x)
        logits = z @ state["head.weight"].mT + state["head.bias"][:, None]
        assert torch.allclose(logits, algorithm.predict(state, batch.query_x), atol=1e-5)


def test_large_pictures_are_averaged_down() -> None:
    x = np.zeros((2, 3, 200, 100), np.float32)
    x[:, :, :, ::2] = 1.0
    small = shown._pictures(x)
    assert small.shape == (2, 3, 84, 42)
    assert abs(int(small.mean()) - 127) < 2
