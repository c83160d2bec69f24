"""Prototype rectification, BD-CSPN (Liu, Song & Qin 2020, arXiv:1911.10713).

    z = f(x) / |f(x)|                  embeddings;  P_n = prototypes of the support set
    (1)  xi = mean of support z - mean of query z;  every query z moves by xi          cross-class bias
    (2)  each class takes, of the queries nearest to it by cosine, the Z most similar  pseudo-labels, intra-class bias
    (3)  w_in = exp(scale cos(z_i, P_n)) / sum_i' exp(scale cos(z_i', P_n))            over the support images of class
                                                                                       n and its pseudo-labelled ones
    (4)  P'_n = sum_i w_in z_i
    (5)  p(y = n | x) = softmax_n( scale cos(z, P'_n) )

Shapes: embeddings [T, M, D], prototypes [T, N, D], logits [T, N*Q, N]. Transductive; (1) assumes that support and
queries have the same share of each class.

Differences from the paper: the embedding is that of a linear classifier, the paper's of a cosine one. That the Z most
similar queries count and that (3) has a factor are the paper's; which numbers it takes is not known here, nor is there
code of the authors', and the defaults Z = 8, scale = 10 are this project's. Other implementations take all nearest
queries, with a factor of 10 (LaplacianShot's code) or 1 (easyfsl 1.5.0).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.algorithms.embedding_head import EmbeddingHead, prototypes
from fewshot.episode import Minibatches
from fewshot.errors import check_above, check_least
from fewshot.ops.similarities import cosines


class BDCSPN(EmbeddingHead):
    transductive = True
    assumes = "the class shares of the support set"

    def __init__(
        self, backbone: nn.Module, *, train_classes: int, stream: Minibatches, scale: float, pseudo_labels: int | None,
        label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(backbone, train_classes=train_classes, stream=stream, label_smoothing=label_smoothing)
        check_above("algorithm", 0, scale=scale)
        check_least("algorithm", 0, pseudo_labels=pseudo_labels)
        self.scale, self.pseudo_labels = scale, pseudo_labels

    def classify(self, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        support, query = normalize(support, dim=-1), normalize(query, dim=-1)
        query = query + support.mean(1, keepdim=True) - query.mean(1, keepdim=True)  # (1)
        return self.scale * cosines(query, self.rectified(support, onehot, query))  # (5)

    def rectified(self, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        """(2) to (4): P' [T, N, D]."""
        z = torch.cat([support, query], 1)  # [T, N*(K+Q), D]
        similar = self.scale * cosines(z, prototypes(support, onehot))  # [T, N*(K+Q), N]
        taken = torch.cat([onehot > 0, self.pseudo_labelled(similar[:, support.shape[1] :])], 1)
        return similar.masked_fill(~taken, -torch.inf).softmax(1).mT @ z

    def pseudo_labelled(self, similar: Tensor) -> Tensor:
        """(2): similarities of the queries [T, N*Q, N] -> bool [T, N*Q, N]."""
        nearest = similar.argmax(-1, keepdim=True) == torch.arange(similar.shape[-1], device=similar.device)
        if self.pseudo_labels is None or self.pseudo_labels >= similar.shape[1]:
            return nearest
        rank = similar.masked_fill(~nearest, -torch.inf).argsort(1, descending=True).argsort(1)
        return nearest & (rank < self.pseudo_labels)
