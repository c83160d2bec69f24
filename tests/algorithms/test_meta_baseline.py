"""Meta-Baseline is the prototypical network by cosine: the paper's equations in NumPy, on what its YAML file builds."""

import numpy as np
import pytest
import torch
from composed import compose
from toy_data import Identity, clusters

from fewshot.construct import construct
from fewshot.episode import Episode


@pytest.mark.parametrize("shots", [1, 3])
def test_logits_and_loss_are_the_papers(shots: int) -> None:
    config = compose("config", ["algorithm=meta_baseline"]).config
    model = construct(config["algorithm"], "algorithm", backbone=Identity(6)).double()
    x, y, query, query_y = clusters(shots=shots)
    out = model(Episode(x, y, query, query_y, torch.arange(4).repeat(3, 1)))
    losses = []
    for t in range(len(x)):
        z, labels, q, truth = x[t].numpy(), y[t].numpy(), query[t].numpy(), query_y[t].numpy()
        w = np.array([z[labels == k].mean(0) for k in range(4)])
        cosine = (q @ w.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(w, axis=1)
        np.testing.assert_allclose(out.logits[t].detach(), 10 * cosine, rtol=1e-6)  # log 10 was rounded to float32
        losses.append(-np.log((np.exp(10 * cosine) / np.exp(10 * cosine).sum(1, keepdims=True))[range(len(q)), truth]))
    assert out.loss.item() == pytest.approx(np.mean(losses), rel=1e-6)
    out.loss.backward()
    assert model.log_temperature.grad.abs() > 0
