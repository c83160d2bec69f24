"""What heads on a trained embedding share, and what every transductive one of them must do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from toy_data import Identity, clusters

from fewshot.algorithms.bd_cspn import BDCSPN
from fewshot.algorithms.embedding_head import EmbeddingHead, prototypes
from fewshot.algorithms.laplacianshot import LaplacianShot
from fewshot.algorithms.pt_map import PTMAP
from fewshot.algorithms.tim import TIM
from fewshot.episode import Minibatch, Minibatches
from fewshot.errors import InputError
from fewshot.metrics import episode_accuracy

TRAINED: dict[str, Any] = {"train_classes": 7, "stream": Minibatches(batch_size=8)}
TIM_WEIGHTS: dict[str, float] = {"temperature": 15.0, "cross_entropy": 0.1, "marginal": 1.0, "conditional": 0.1}
LAPLACIAN: dict[str, Any] = {"scale": 10.0, "laplacian": 0.7, "neighbours": 2, "steps": 20}
MAP: dict[str, Any] = {"power": 0.5, "sinkhorn": 10.0, "scalings": 50, "rate": 0.2, "steps": 5}
METHODS: dict[str, Callable[[], EmbeddingHead]] = {
    "tim": lambda: TIM(Identity(6), **TRAINED, **TIM_WEIGHTS, solver="alternating", steps=30, lr=1e-4, alpha=1.0),
    "tim_gradient": lambda: TIM(Identity(6), **TRAINED, **TIM_WEIGHTS, solver="gradient", steps=30, lr=0.01, alpha=1.0),
    "alpha_tim": lambda: TIM(Identity(6), **TRAINED, **TIM_WEIGHTS, solver="gradient", steps=30, lr=0.01, alpha=2.0),
    "bd_cspn": lambda: BDCSPN(Identity(6), **TRAINED, scale=10.0, pseudo_labels=3),
    "laplacianshot": lambda: LaplacianShot(Identity(6), **TRAINED, **LAPLACIAN, centre=True),
    "pt_map": lambda: PTMAP(Identity(6), **TRAINED, **MAP),
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> EmbeddingHead:
    return METHODS[request.param]().double().eval()


def test_training_is_the_cross_entropy_of_a_linear_classifier(method: EmbeddingHead) -> None:
    batch = Minibatch(torch.rand(8, 6, dtype=torch.float64), torch.arange(8) % 7)
    out = method(batch)
    scores = batch.x @ method.classifier.weight.T + method.classifier.bias
    torch.testing.assert_close(out.logits, scores)
    torch.testing.assert_close(out.loss, F.cross_entropy(scores, batch.y))
    method.label_smoothing = 0.1
    likelihoods = scores.log_softmax(-1)
    expected = -(0.9 * likelihoods[torch.arange(8), batch.y] + 0.1 * likelihoods.mean(1)).mean()
    torch.testing.assert_close(method(batch).loss, expected)


def test_the_mean_embedding_is_that_of_the_batches_seen_in_training() -> None:
    head = EmbeddingHead(Identity(6), **TRAINED).train()
    x = [torch.rand(8, 6) for _ in range(4)]
    for batch in x:
        head(Minibatch(batch, torch.zeros(8, dtype=torch.int64)))
    torch.testing.assert_close(head.mean, torch.cat(x).mean(0))
    head.eval()(Minibatch(x[0] + 1, torch.zeros(8, dtype=torch.int64)))
    torch.testing.assert_close(head.mean, torch.cat(x).mean(0))


def test_label_smoothing_leaves_a_share_to_the_target() -> None:
    with pytest.raises(InputError, match=r"algorithm\.label_smoothing=1\.0 is not in \[0, 1\)"):
        EmbeddingHead(Identity(6), **TRAINED, label_smoothing=1.0)


def test_prototypes_are_class_means() -> None:
    support, y, _, _ = clusters(shots=3)
    means = torch.stack([torch.stack([z[label == k].mean(0) for k in range(4)]) for z, label in zip(support, y)])  # noqa: B905
    torch.testing.assert_close(prototypes(support, F.one_hot(y, 4).double()), means)


def test_tasks_one_by_one_are_tasks_together(method: EmbeddingHead) -> None:
    support, y, query, _ = clusters()
    together = method.predict(method.adapt(support, y, ways=4), query)
    for t in range(3):
        alone = method.predict(method.adapt(support[t : t + 1], y[t : t + 1], ways=4), query[t : t + 1])
        torch.testing.assert_close(together[t : t + 1], alone, rtol=1e-8, atol=1e-8)


def test_the_order_of_queries_and_the_names_of_classes_do_not_matter(method: EmbeddingHead) -> None:
    support, y, query, _ = clusters()
    logits = method.predict(method.adapt(support, y, ways=4), query)
    order, names = torch.randperm(query.shape[1]), torch.tensor([2, 0, 3, 1])
    other = method.predict(method.adapt(support, names[y], ways=4), query[:, order])
    torch.testing.assert_close(other[..., names], logits[:, order], rtol=1e-8, atol=1e-8)


def test_other_queries_change_a_prediction(method: EmbeddingHead) -> None:
    assert method.transductive and method.protocol()["assumes_of_queries"]
    support, y, query, _ = clusters()
    state = method.adapt(support, y, ways=4)
    half = query[:, : query.shape[1] // 2]
    assert not torch.allclose(method.predict(state, half), method.predict(state, query)[:, : half.shape[1]])


def test_queries_help_where_one_support_image_misleads(method: EmbeddingHead) -> None:
    """Tight clusters, support images off their middle: all are better than the nearest support image."""
    support, y, query, query_y = clusters(tasks=40, shots=1, queries=15, noise=0.15)
    support = (support + 0.3 * torch.randn_like(support)).abs()
    nearest = episode_accuracy(-torch.cdist(F.normalize(query, dim=-1), F.normalize(support, dim=-1)), query_y)
    ours = episode_accuracy(method.predict(method.adapt(support, y, ways=4), query), query_y)
    assert ours.mean() > nearest.mean() + 2


def test_a_single_query_gets_a_prediction(method: EmbeddingHead) -> None:
    support, y, query, _ = clusters()
    assert method.predict(method.adapt(support, y, ways=4), query[:, :1]).isfinite().all()


def test_a_task_is_fitted_in_full_precision_under_autocast(method: EmbeddingHead) -> None:
    support, y, query, _ = (t.float() if t.is_floating_point() else t for t in clusters())
    method = method.float()
    plain = method.predict(method.adapt(support, y, ways=4), query)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(method.predict(method.adapt(support, y, ways=4), query), plain)
