"""FEAT, embedding adaptation by a set-to-set function (Ye, Hu, Zhan & Sha 2020, arXiv:1812.03664).

    c_k  prototypes, z embeddings
    (1)  T(S)_i = LayerNorm( s_i + drop( W_o sum_j drop(A_ij) W_v s_j + b_o ) )       S = (s_1, ..) any set;
         A_ij = softmax_j( (W_q s_i) . (W_k s_j) / sqrt(D) )                          one head
    (2)  logits = -|z - T(c)_k|^2 / temperature                                       T of the N prototypes
    (3)  loss = CE(2) + balance CE(aux),  aux = -|z_i - m_k|^2 / aux_temperature      over support and query images i:
         m_k = mean over i in class k of T(images of class k)_i                       contrastive term

Shapes: prototypes [T, N, D], embeddings [T, M, D], logits [T, N*Q, N]. Inductive: (1) sees the prototypes alone.
It is meant for a backbone that was trained as a classifier before.

Differences from the paper: the authors train T at ten times the backbone's rate; here all parameters have one.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm, embed, embed_together, judged
from fewshot.episode import Batch, Episode, Episodes, StepOutput
from fewshot.errors import check_above, check_least
from fewshot.ops.similarities import class_means, one_hot, product, squared_distances


class FEAT(Algorithm):
    fixed_features = True
    unequal_tasks = True

    def __init__(
        self, backbone: nn.Module, *, stream: Episodes, temperature: float, aux_temperature: float, balance: float,
        attention_dropout: float, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        check_above("algorithm", 0, temperature=temperature, aux_temperature=aux_temperature)
        check_least("algorithm", 0, balance=balance)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.stream, self.temperature, self.aux_temperature = stream, temperature, aux_temperature
        self.balance = balance
        width: int = backbone.out_features  # type: ignore[assignment]
        self.transform = SetToSet(width, attention_dropout=attention_dropout, dropout=dropout)

    def fit(self, z: Tensor, y: Tensor, ways: int) -> Tensor:
        """The prototypes after (1), [T, N, D]; they attend to those of classes with an image."""
        there = one_hot(y, ways, z.dtype).any(1)  # [T, N]
        return self.transform(class_means(z, y, ways), there[:, None].expand(-1, ways, -1))

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        return self.fit(embed(self.backbone, support_x), support_y, ways)

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return -squared_distances(embed(self.backbone, query_x), state) / self.temperature  # (2)

    def forward(self, batch: Batch) -> StepOutput:
        assert isinstance(batch, Episode)
        support_z, query_z = embed_together(self.backbone, batch)
        adapted = self.fit(support_z, batch.support_y, batch.ways)
        loss, logits = judged(-squared_distances(query_z, adapted) / self.temperature, batch)
        z, y = torch.cat([support_z, query_z], 1), torch.cat([batch.support_y, batch.query_y], 1)
        return StepOutput(loss + self.balance * self.contrast(z, batch._replace(query_y=y)), logits)  # (3)

    def contrast(self, z: Tensor, all_as_queries: Episode) -> Tensor:
        """CE(aux) of (3); z [T, M, D] of support and query, whose labels are the episode's query_y [T, M]."""
        y = all_as_queries.query_y
        same_class = y[:, :, None] == y[:, None, :]  # [T, M, M]
        centres = class_means(self.transform(z, same_class), y, all_as_queries.ways)
        return judged(-squared_distances(z, centres) / self.aux_temperature, all_as_queries).loss

    def protocol(self) -> dict[str, Any]:
        return {"distance": "squared_euclidean", "norm_statistics": "running"}


class SetToSet(nn.Module):
    """(1), with the authors' initial weights."""

    def __init__(self, width: int, *, attention_dropout: float, dropout: float) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.output, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        for layer in (self.queries, self.keys, self.values, self.output):
            nn.init.xavier_normal_(layer.weight)
        self.attention_dropout, self.dropout = nn.Dropout(attention_dropout), nn.Dropout(dropout)

    def forward(self, s: Tensor, among: Tensor | None = None) -> Tensor:
        """s [T, M, D] -> [T, M, D]; among: bool [T, M, M], which others an element attends to, all if left out."""
        scores = product(self.queries(s), self.keys(s).mT) / s.shape[-1] ** 0.5  # [T, M, M]
        scores = scores if among is None else scores.masked_fill(~among, -torch.inf)
        mixed = product(self.attention_dropout(scores.softmax(-1)), self.values(s))
        return self.norm(s + self.dropout(self.output(mixed)))
