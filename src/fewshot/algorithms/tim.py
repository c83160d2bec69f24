"""Transductive information maximisation: TIM (Boudiaf et al. 2020, arXiv:2008.11297) and alpha-TIM (Veilleux et al.
2021, arXiv:2204.11181) for queries whose classes are not equally frequent.

    z = f(x) / |f(x)|                 embeddings, frozen;  W = prototypes to begin with
    (1)  p_ik = softmax_k( -temperature/2 |z_i - w_k|^2 )             posteriors;  p_k = mean of p_ik over queries
    (2)  min_W  a CE(support) - b H(p_k) + c mean_i H(p_ik)           a, b, c: the three weights; b H - c H is the
                                                                      mutual information of queries and labels
    (3)  H_alpha(p) = (1 - sum_k p_k^alpha) / (alpha - 1)             alpha-TIM; alpha = 1 is Shannon's, TIM's
    gradient     (2) by Adam
    alternating  with auxiliary q_ik beside p_ik (ADM), in closed form in turns:
    (4)  q_ik ~ p_ik^(1+c) / (sum_i p_ik^(1+c))^(b/(1+b))
    (5)  w_k = [ a/(1+c) S(y, p) + |S|/|Q| S(q, p) ] / [ a/(1+c) sum_i y_ik + |S|/|Q| sum_i q_ik ]
         S(r, p) = sum_i r_ik z_i + p_ik (w_k - z_i)                  over support (r = y) or queries (r = q)

Shapes: embeddings [T, M, D], W [T, N, D], logits [T, N*Q, N]. Transductive. TIM's H(p_k) pulls towards equally many
queries of each class; alpha above 1 pulls less.

Differences from the paper: none known; its networks were trained with label smoothing.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.algorithms.embedding_head import EmbeddingHead, prototypes
from fewshot.episode import Minibatches
from fewshot.errors import InputError, check_above, check_choice, check_least
from fewshot.ops.adam import minimise
from fewshot.ops.similarities import squared_distances


class TIM(EmbeddingHead):
    transductive = True

    def __init__(
        self, backbone: nn.Module, *, train_classes: int, stream: Minibatches, solver: str, steps: int, lr: float,
        temperature: float, cross_entropy: float, marginal: float, conditional: float, alpha: float,
        label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(backbone, train_classes=train_classes, stream=stream, label_smoothing=label_smoothing)
        check_choice("algorithm.solver", solver, ("gradient", "alternating"))
        if solver == "alternating" and alpha != 1:
            raise InputError(f"algorithm.alpha={alpha} has no alternating updates; set algorithm.solver=gradient")
        check_above("algorithm", 0, alpha=alpha)
        check_least("algorithm", 0, steps=steps)
        self.solver, self.steps, self.lr, self.temperature = solver, steps, lr, temperature
        self.weights, self.alpha = (cross_entropy, marginal, conditional), alpha
        self.assumes = "equally many of each class" if alpha == 1 else "nothing: alpha-entropies allow imbalance"

    def classify(self, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        support, query = normalize(support, dim=-1), normalize(query, dim=-1)
        w = prototypes(support, onehot)  # [T, N, D]
        if self.solver == "alternating":
            for _ in range(self.steps):
                w = self.alternated(w, support, onehot, query)
        else:
            moved = minimise(
                lambda p: self.loss(p["w"], support, onehot, query), {"w": w}, steps=self.steps, lr=self.lr
            )
            w = moved["w"]
        return self.logits(query, w)

    def logits(self, z: Tensor, w: Tensor) -> Tensor:
        """[T, M, D], [T, N, D] -> [T, M, N]; softmax of it is (1)."""
        return -self.temperature / 2 * squared_distances(z, w)

    def loss(self, w: Tensor, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        """(2), summed over tasks."""
        a, b, c = self.weights
        cross_entropy = -(onehot * self.logits(support, w).log_softmax(-1)).sum(-1).mean(1)  # [T]
        p = self.logits(query, w).softmax(-1)
        return (a * cross_entropy - b * self.entropy(p.mean(1)) + c * self.entropy(p).mean(1)).sum()

    def entropy(self, p: Tensor) -> Tensor:
        """(3), [..., N] -> [...]."""
        if self.alpha == 1:
            return -(p * p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum(-1)
        return (1 - (p**self.alpha).sum(-1)) / (self.alpha - 1)

    def alternated(self, w: Tensor, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        """(4), then (5)."""
        a, b, c = self.weights
        p_support, p = self.logits(support, w).softmax(-1), self.logits(query, w).softmax(-1)
        q = p ** (1 + c)
        q = q / q.sum(1, keepdim=True) ** (b / (1 + b))
        q = q / q.sum(-1, keepdim=True)  # [T, N*Q, N]
        of_support, of_query = a / (1 + c), support.shape[1] / query.shape[1]

        def pulled(r: Tensor, p: Tensor, z: Tensor) -> Tensor:  # S(r, p)
            return r.mT @ z + w * p.sum(1)[..., None] - p.mT @ z  # [T, N, D]

        above = of_support * pulled(onehot, p_support, support) + of_query * pulled(q, p, query)
        return above / (of_support * onehot.sum(1) + of_query * q.sum(1))[..., None]
