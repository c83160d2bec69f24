"""R2D2, ridge regression as the last layer (Bertinetto, Henriques, Torr & Vedaldi 2019, arXiv:1805.08136).

    X [M, D+1] embeddings of the M = N*K support images and a column of ones, Y [M, N] one-hot labels
    (1)  W = argmin_W  |X W - Y|^2 / M + lambda |W|^2
           = X' (X X' + M lambda I)^-1 Y                         Woodbury; where M > D+1, (X'X + M lambda I)^-1 X'Y
    (2)  logits = alpha [z, 1] W                                 alpha learned: regression does not give logits

Shapes: X [T, N*K, D+1], W [T, D+1, N], logits [T, N*Q, N]. Inductive. Classes may have unequal shots.

Differences from the paper: lambda is fixed unless `learn_penalty`, as in the authors' code; the 1 / M in (1) is the
authors' code's, too. Their beta, one number added to all logits, changes neither loss nor prediction and is left out.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm, embed, embed_together, judged
from fewshot.episode import Batch, Episode, Episodes, StepOutput
from fewshot.errors import check_above
from fewshot.ops.ridge import ridge
from fewshot.ops.similarities import one_hot, product, with_ones


class R2D2(Algorithm):
    fixed_features = True
    unequal_tasks = True

    def __init__(
        self, backbone: nn.Module, *, stream: Episodes, penalty: float, learn_penalty: bool, scale: float
    ) -> None:
        super().__init__()
        check_above("algorithm", 0, penalty=penalty)  # else (1) has more than one solution
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.stream = stream
        self.log_penalty = nn.Parameter(torch.tensor(math.log(penalty)), requires_grad=learn_penalty)
        self.scale = nn.Parameter(torch.tensor(scale))

    def fit(self, z: Tensor, y: Tensor, ways: int) -> Tensor:
        """(1): z [T, N*K, D], y [T, N*K] -> W [T, D+1, N]. Rows that do not count are 0 in X and in Y."""
        onehot = one_hot(y, ways, z.dtype)
        counts = onehot.sum(-1, keepdim=True)  # [T, N*K, 1], 1 or 0
        return ridge(with_ones(z) * counts, onehot, counts.sum(1, keepdim=True) * self.log_penalty.exp())

    def logits(self, z: Tensor, weight: Tensor) -> Tensor:
        """(2): z [T, P, D], W [T, D+1, N] -> [T, P, N]."""
        return self.scale * product(with_ones(z), weight)

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        return self.fit(embed(self.backbone, support_x), support_y, ways)

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return self.logits(embed(self.backbone, query_x), state)

    def forward(self, batch: Batch) -> StepOutput:
        assert isinstance(batch, Episode)
        support_z, query_z = embed_together(self.backbone, batch)
        logits = self.logits(query_z, self.fit(support_z, batch.support_y, batch.ways))
        return judged(logits, batch)

    def protocol(self) -> dict[str, Any]:
        return {"head": "ridge", "norm_statistics": "running"}
