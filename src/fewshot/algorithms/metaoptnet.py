"""MetaOptNet, a convex classifier as the last layer (Lee, Maji, Ravichandran & Soatto 2019, arXiv:1904.03758).

    K = X X'        Gram matrix of the support embeddings X [M, D], M = N*K; Y [M, N] one-hot labels
    (1)  svm    z = argmin_z  1/2 sum_k z_k' (K + I) z_k - sum_i z_{i, y_i}      Crammer and Singer's multi-class SVM,
                    with z_ik <= C [y_i = k] and sum_k z_ik = 0                  in the dual
         ridge  z = argmin_z  1/2 sum_k z_k' (K + lambda I) z_k - 2 sum_i z_{i, y_i} = 2 (K + lambda I)^-1 Y
    (2)  w_k = sum_i z_ik x_i
    (3)  logits = gamma w_k . f(x)                                               gamma learned

Shapes: X [T, N*K, D], z [T, N*K, N], W [T, D, N], logits [T, N*Q, N]. The gradient by f runs through the solution of
(1), by the implicit function theorem. Inductive. Classes may have unequal shots.

Differences from the paper: the identity added to K in the SVM is the authors' code's. Their interior-point solver runs
15 iterations in training and 3 at test, ours `iterations` in both. Label smoothing (their miniImageNet runs) is left
out. As there, support and query go through the backbone apart.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm, embed
from fewshot.episode import Episodes
from fewshot.errors import check_above, check_choice, check_least
from fewshot.ops.ridge import ridge
from fewshot.ops.similarities import one_hot, product
from fewshot.ops.svm import crammer_singer


class MetaOptNet(Algorithm):
    fixed_features = True

    def __init__(
        self, backbone: nn.Module, *, stream: Episodes, head: str, c: float, iterations: int, penalty: float,
        scale: float,
    ) -> None:  # fmt: skip
        super().__init__()
        check_choice("algorithm.head", head, ("svm", "ridge"))
        check_above("algorithm", 0, c=c, penalty=penalty)
        check_least("algorithm", 1, iterations=iterations)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.stream, self.head, self.c, self.iterations, self.penalty = stream, head, c, iterations, penalty
        self.unequal_tasks = head == "ridge"  # to the svm a row without a label leaves no room inside its bounds
        self.scale = nn.Parameter(torch.tensor(scale))

    def fit(self, x: Tensor, y: Tensor, ways: int) -> Tensor:
        """(1) and (2): x [T, N*K, D], y [T, N*K] -> W [T, D, N]."""
        onehot = one_hot(y, ways, x.dtype)
        if self.head == "ridge":
            return 2 * ridge(x * onehot.sum(-1, keepdim=True), onehot, self.penalty)
        kernel = product(x, x.mT) + torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return product(x.mT, crammer_singer(kernel, onehot, c=self.c, iterations=self.iterations))

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        return self.fit(embed(self.backbone, support_x), support_y, ways)

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return self.scale * product(embed(self.backbone, query_x), state)  # (3)

    def protocol(self) -> dict[str, Any]:
        return {"head": self.head, "norm_statistics": "running"}
