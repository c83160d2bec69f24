"""Own pictures by a pre-trained network whose last layers are fine-tuned on the support pictures. Layer 4.

First the head, then the network with it ("linear probing, then fine-tuning": Kumar et al. 2022, arXiv:2202.10054; with
head=cosine it starts from the class means as Dhillon et al. 2020, arXiv:1909.02729, section 3):

    (1)  W, b, T  = the head on the features of the untouched network, and its temperature by leaving out
    (2)  minimise   sum_i w_i -log softmax((f(v_i) W + b) / T)[y_i]     over W, b and the last layers of f, by Adam
                    v_i a random view of picture i (flip and crop, `views.py`); w_i = 1 / pictures of i's class
    (3)  scores   = mean over the ten views of  f(v) W + b

Differences from the papers: few epochs, the last layers only, batch norm with the statistics of its pre-training.
What is kept of a picture is the picture itself. The accuracy is estimated by doing it all again without each fold.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewshot.own_pictures.features import BATCH
from fewshot.own_pictures.fitted import HeadOnNetwork
from fewshot.own_pictures.heads import Head, by_folds, fit, folds
from fewshot.own_pictures.scores import Judged, nearest, scale_of
from fewshot.own_pictures.views import views
from fewshot.own_pictures.with_head import WithHead

FOLDS = 5
EPOCHS, LR, TOGETHER = 10, 1e-4, 16  # of (2); docs/pictures.md has what they give


class FineTuned:
    """A method for own pictures (`features.Method`).

    untouched: the network as it is, and the head's kind. progress: is told how many of how many fits are done.
    """

    def __init__(self, untouched: WithHead, *, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
        self.untouched, self.progress = untouched, progress
        self.images = untouched.images

    @property
    def rules(self) -> dict[str, Any]:
        """How a picture becomes an image, in the words of `exported.py`."""
        return self.untouched.rules

    def embed(self, images: np.ndarray) -> np.ndarray:
        """[B, 3, S, S] uint8 -> [B, 1, 3, S, S], as it is."""
        return images[:, None]

    def judge(self, support: np.ndarray, y: np.ndarray, ways: int, query: np.ndarray) -> Judged:
        """support [M, 1, 3, S, S] and query [P, 1, 3, S, S] uint8, y [M] in 0..N-1.

        Takes a fit without each fold and one on all.
        """
        features, fits = _features(self.untouched, support), len(list(folds(y, FOLDS))) + 1
        done = iter(range(fits))

        def learn(rows: np.ndarray) -> tuple[WithHead, Head]:
            self.progress(next(done), fits)
            model = self._learn(support[rows], features[rows], y[rows], ways)
            return WithHead(lambda: model.network, head=self.untouched.head, device=self.untouched.device), model.head

        def without(rows: np.ndarray, _: np.ndarray, out: np.ndarray) -> np.ndarray:
            network, head = learn(rows)
            return head.scores(_features(network, support[out]))

        every = np.arange(len(y))
        left_out = by_folds(without, every, y, ways, FOLDS)
        network, head = learn(every)
        shown = _features(network, query)
        near = nearest(shown, _features(network, support))
        self.progress(fits, fits)
        return Judged(left_out, head.scores(shown), near)

    def fitted(self, support: np.ndarray, y: np.ndarray, ways: int) -> HeadOnNetwork:
        """What was learned, by one more fit: [B, 3, S, S] float32 in [0, 1] -> scores [B, N]."""
        return self._learn(support, _features(self.untouched, support), y, ways)

    def _learn(self, support: np.ndarray, features: np.ndarray, y: np.ndarray, ways: int) -> HeadOnNetwork:
        head, left_out = fit(self.untouched.head, features, y, ways)  # (1)
        device = self.untouched.input.mean.device
        model = HeadOnNetwork(copy.deepcopy(self.untouched.network), head).to(device)
        fine_tune(model, torch.from_numpy(support[:, 0]), torch.from_numpy(y), scale_of(left_out, y))
        return model


def fine_tune(model: HeadOnNetwork, images: Tensor, y: Tensor, scale: float) -> list[float]:
    """(2), in place: images [M, 3, S, S] uint8, y [M] int64 in 0..N-1, scale 1 / T -> the mean loss of each epoch.

    The draws are seeded: the same pictures give the same weights.
    """
    device, draw = model.weight.device, torch.Generator().manual_seed(0)
    y = y.to(device)
    class_weight = 1 / y.bincount(minlength=model.weight.shape[1]).float()
    model.requires_grad_(False)
    free = [w.requires_grad_() for w in (*last_layers(model.network), model.weight, model.bias)]
    optimizer, losses = torch.optim.Adam(free, lr=LR), []
    for _ in range(EPOCHS):
        losses.append(0.0)
        for batch in torch.randperm(len(y), generator=draw).split(TOGETHER):
            shown = views(images[batch].to(device).float() / 255, model.size)  # [B, V, 3, size, size]
            view = torch.randint(shown.shape[1], (len(batch), 1), generator=draw)
            one = shown[torch.arange(len(batch))[:, None], view]  # [B, 1, 3, size, size]
            loss = nn.functional.cross_entropy(scale * model.of_views(one), y[batch], class_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1] += loss.item() * len(batch) / len(y)
    model.requires_grad_(False)
    for w in free:
        w.requires_grad_(False)
    return losses


def last_layers(network: nn.Module) -> list[nn.Parameter]:
    """The last weights in the order of their definition, as many as it takes to hold half of the network's numbers."""
    weights, found = list(network.parameters()), list[nn.Parameter]()
    half = sum(w.numel() for w in weights) / 2
    while sum(w.numel() for w in found) < half:
        found.append(weights.pop())
    return found


def _features(method: WithHead, pictures: np.ndarray) -> np.ndarray:
    """[M, 1, 3, S, S] uint8 -> [M, V, D] float32."""
    parts = [method.embed(pictures[first : first + BATCH, 0]) for first in range(0, len(pictures), BATCH)]
    return np.concatenate(parts)
