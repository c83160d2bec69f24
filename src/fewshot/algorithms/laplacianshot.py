"""LaplacianShot (Ziko et al. 2020, arXiv:2006.15486): neighbouring queries get similar labels.

    z = (f(x) - mean) / |f(x) - mean|          CL2N; mean: of the training images' embeddings
    (1)  m_k = mean over X_k of softmax_k( 10 cos(z, c_k) ) z      rectified prototypes: c_k of the support set,
         X_k the support images of class k and the queries nearest to c_k, these moved by mean(support) - mean(query)
    (2)  a_qk = |z_q - m_k|^2
    (3)  W_qp = 1 where p is among the nearest other queries of q, else 0
    (4)  min_Y  sum_q y_q.a_q + y_q.log y_q - laplacian sum_qp W_qp y_q.y_p
    (5)  y_q <- softmax_k( -a_qk + laplacian sum_p W_qp y_pk )     bound updates, from y_q = softmax(-a_q)

Shapes: embeddings [T, M, D], prototypes [T, N, D], logits [T, N*Q, N]. Transductive; the move in (1) assumes that
support and queries have the same share of each class, the rest assumes nothing.

Differences from the paper: a fixed number of updates (the authors stop when (4) changes by less than 1e-6); the mean
is a moving average over the mini-batches of training, theirs of the trained network over the split; a support image
counts for its own class in (1), in their code for the nearest one.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.algorithms.embedding_head import EmbeddingHead, prototypes
from fewshot.episode import Minibatches
from fewshot.errors import check_least
from fewshot.ops.similarities import cosines, squared_distances


class LaplacianShot(EmbeddingHead):
    transductive = True
    assumes = "the class shares of the support set"

    def __init__(
        self, backbone: nn.Module, *, train_classes: int, stream: Minibatches, centre: bool, scale: float,
        laplacian: float, neighbours: int, steps: int, label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(backbone, train_classes=train_classes, stream=stream, label_smoothing=label_smoothing)
        check_least("algorithm", 0, laplacian=laplacian, steps=steps)
        check_least("algorithm", 1, neighbours=neighbours)
        self.subtracts_mean, self.scale, self.steps = centre, scale, steps
        self.laplacian, self.neighbours = laplacian, neighbours

    def classify(self, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        if self.subtracts_mean:
            support, query = support - self.mean, query - self.mean
        support, query = normalize(support, dim=-1), normalize(query, dim=-1)
        unary = squared_distances(query, self.rectified(support, onehot, query))  # (2)  [T, N*Q, N]
        affinity = self.affinity(query)
        logits = -unary
        for _ in range(self.steps):
            logits = -unary + self.laplacian * affinity @ logits.softmax(-1)  # (5)
        return logits

    def rectified(self, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        """(1): -> [T, N, D]."""
        c = prototypes(support, onehot)
        z = torch.cat([support, query + support.mean(1, keepdim=True) - query.mean(1, keepdim=True)], 1)
        similar = self.scale * cosines(z, c)  # [T, N*(K+Q), N]
        nearest = similar.argmax(-1, keepdim=True) == torch.arange(c.shape[1], device=c.device)
        nearest = torch.cat([onehot > 0, nearest[:, onehot.shape[1] :]], 1).to(z.dtype)
        return (nearest * similar.softmax(-1)).mT @ z / nearest.sum(1)[..., None]

    def affinity(self, query: Tensor) -> Tensor:
        """(3): [T, N*Q, D] -> [T, N*Q, N*Q]; all others are neighbours where there are too few."""
        distances = squared_distances(query, query)
        distances.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
        nearest = distances.topk(min(self.neighbours, query.shape[1] - 1), largest=False).indices
        return torch.zeros_like(distances).scatter_(-1, nearest, 1)
