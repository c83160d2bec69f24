"""PT-MAP (Hu, Gripon & Pateux 2021, arXiv:2006.03806): power transform, then optimal transport to class centres.

    (1)  v = (f(x) + 1e-6)^power, v / |v|; support and queries each lose their own mean and are scaled to |v| = 1
    (2)  L_ij = |v_i - c_j|^2 for the queries, c = prototypes to begin with
    (3)  M = argmin_M  sum_ij M_ij L_ij - H(M)/sinkhorn  with  sum_j M_ij = 1,  sum_i M_ij = queries / N
         which is diag(a) exp(-sinkhorn L) diag(b), found by scaling rows and columns in turn (Sinkhorn)
    (4)  mu_j = (sum_i M_ij v_i + sum of support v of class j) / (sum_i M_ij + K);  c_j <- c_j + rate (mu_j - c_j)
    (2) to (4) are repeated; in the end x_i belongs to argmax_j M_ij of the last centres

Shapes: embeddings [T, M, D], centres [T, N, D], M [T, N*Q, N], logits = log M. Transductive; (3) takes it for given
that there are equally many queries of each class, and (1) centres by it.

Differences from the paper: its QR reduction is left out, a rotation that changes no distance; a fixed number of
scalings (the authors stop at a change of 1e-6); embeddings below 0, which its networks do not have, count as 0.
"""

import math

from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot.algorithms.embedding_head import EmbeddingHead, prototypes
from fewshot.episode import Minibatches
from fewshot.errors import check_above, check_least
from fewshot.ops.similarities import squared_distances


class PTMAP(EmbeddingHead):
    transductive = True
    assumes = "equally many of each class"

    def __init__(
        self, backbone: nn.Module, *, train_classes: int, stream: Minibatches, power: float, sinkhorn: float,
        scalings: int, rate: float, steps: int, label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(backbone, train_classes=train_classes, stream=stream, label_smoothing=label_smoothing)
        check_above("algorithm", 0, power=power, sinkhorn=sinkhorn)
        check_least("algorithm", 1, scalings=scalings)
        check_least("algorithm", 0, steps=steps)
        self.power, self.sinkhorn, self.scalings, self.rate, self.steps = power, sinkhorn, scalings, rate, steps

    def classify(self, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        support, query = self.transformed(support), self.transformed(query)
        centres = prototypes(support, onehot)
        for _ in range(self.steps):
            m = self.transport(query, centres).exp()
            mean = (m.mT @ query + onehot.mT @ support) / (m.sum(1) + onehot.sum(1))[..., None]  # (4)
            centres = centres + self.rate * (mean - centres)
        return self.transport(query, centres)

    def transformed(self, z: Tensor) -> Tensor:
        """(1): [T, M, D] -> [T, M, D]."""
        z = normalize((z.relu() + 1e-6) ** self.power, dim=-1)
        return normalize(z - z.mean(1, keepdim=True), dim=-1)

    def transport(self, query: Tensor, centres: Tensor) -> Tensor:
        """(2) and (3): log M [T, N*Q, N]."""
        log_m = -self.sinkhorn * squared_distances(query, centres)
        share = math.log(query.shape[1] / centres.shape[1])
        for _ in range(self.scalings):
            log_m = log_m.log_softmax(-1)  # rows
            log_m = log_m.log_softmax(1) + share  # columns
        return log_m
