"""Transductive fine-tuning (Dhillon et al. 2020, arXiv:1909.02729): every weight moves, by the queries' entropy, too.

    z = relu(V f(x) + v) / |...|          V, v: the classifier of the training classes, whose scores are the features
    (1)  w_k = mean of relu(V f(x) + v) over the support images of class k, scaled to |w_k| = 1;  b_k = 0
    (2)  p(y = k | x) = softmax_k( w_k.z + b_k )
    (3)  a step on the mean of -log p(y | x) over the support set, then one on the mean of H(p(. | x)) over the
         queries, in turns, by one Adam for the weights of f, V, v, w and b

Shapes: scores [T, M, train classes], w [T, N, train classes], logits [T, N*Q, N]. Transductive.

Differences from the paper: images are not augmented, and batch norm keeps the statistics of training (the authors'
code uses those of the augmented batch).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn.functional import cross_entropy, linear, normalize

from fewshot.algorithms.base import State, embed
from fewshot.algorithms.embedding_head import EmbeddingHead, prototypes
from fewshot.episode import Minibatches
from fewshot.errors import check_least
from fewshot.ops import norm
from fewshot.ops.adam import Adam
from fewshot.ops.similarities import one_hot
from fewshot.ops.tasks import Params, map_tasks, model_features


class Task(NamedTuple):
    """T tasks before their queries are seen."""

    x: Tensor  # [T, N*K, C, H, W]
    y: Tensor  # [T, N*K]
    weight: Tensor  # [T, N, train classes], (1)


class TransductiveFinetuning(EmbeddingHead):
    transductive = True
    fixed_features = False
    assumes = "nothing"

    def __init__(
        self, backbone: nn.Module, *, train_classes: int, stream: Minibatches, steps: int, lr: float,
        label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(backbone, train_classes=train_classes, stream=stream, label_smoothing=label_smoothing)
        check_least("algorithm", 0, steps=steps)
        norm.refuse_tracking(backbone)
        self.steps, self.lr = steps, lr
        self.shapes = {n: p.shape for n, p in self.named_parameters()}
        self.shapes |= {"weight": torch.Size((1, 1)), "bias": torch.Size((1,))}

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> State:
        z = self.classifier(embed(self.backbone, support_x)).relu().to(self.classifier.weight.dtype)
        return Task(support_x, support_y, normalize(prototypes(z, one_hot(support_y, ways, z.dtype)), dim=-1))  # (1)

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        weight = state.weight
        params = {n: p.detach() for n, p in self.named_parameters()}
        params |= {"weight": weight, "bias": weight.new_zeros(weight.shape[:2])}
        adam = Adam(self.lr)
        with torch.autocast(query_x.device.type, enabled=False):
            for _ in range(self.steps):  # (3)
                params = adam.step(params, map_tasks(grad(self.support_loss), params, self.shapes, state.x, state.y))
                params = adam.step(params, map_tasks(grad(self.query_entropy), params, self.shapes, query_x))
            return map_tasks(self.logits, params, self.shapes, query_x)

    def logits(self, params: Params, x: Tensor) -> Tensor:
        """(2) for one task: [M, C, H, W] -> [M, N]."""
        scores = linear(
            model_features(self.backbone, params, x), params["classifier.weight"], params["classifier.bias"]
        )
        return linear(normalize(scores.relu(), dim=-1), params["weight"], params["bias"])

    def support_loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(self.logits(params, x), y)

    def query_entropy(self, params: Params, x: Tensor) -> Tensor:
        log_p = self.logits(params, x).log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1).mean()

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"inner_steps_eval": self.steps}
