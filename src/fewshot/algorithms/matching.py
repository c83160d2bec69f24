"""Matching networks (Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra 2016, arXiv:1606.04080).

    full_context, section 2.1.2 and appendix A:
    (1)  g_i = biLSTM(z_1 .. z_NK)_i + z_i                       the two directions are added   support embeddings
    (2)  h, c = LSTM([z, r], h, c);  h = h + z;  r = sum_i softmax_i(h . g_i) g_i               query embedding:
         from h = z, c = 0, `attention_steps` times                                             the last h
    without it, g_i and h are the backbone's z.
    (3)  a_i = softmax_i( scale cos(h, g_i) )                    attention over the support images
    (4)  P(y = k | x) = sum_{i in class k} a_i                   logits are log P

Shapes: embeddings [T, N*K, D] and [T, N*Q, D], attention [T, N*Q, N*K], logits [T, N*Q, N].

Inductive. With full_context the support set is read in the order in which it comes.

Differences from the paper: `scale` (the paper has none, that is 1; Chen et al. 2019 take 100). The paper leaves open
where (2) starts. Support and query go through the backbone together, so that batch norm sees one batch.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm, embed, embed_together, judged
from fewshot.episode import Batch, Episode, Episodes, StepOutput
from fewshot.errors import check_above, check_least
from fewshot.ops.similarities import cosines, one_hot, product


class Memory(NamedTuple):
    """T support sets to attend to."""

    g: Tensor  # [T, N*K, D]
    members: Tensor  # [T, N*K, N], one-hot labels


class MatchingNet(Algorithm):
    fixed_features = True

    def __init__(
        self, backbone: nn.Module, *, stream: Episodes, scale: float, full_context: bool, attention_steps: int,
    ) -> None:  # fmt: skip
        super().__init__()
        check_above("algorithm", 0, scale=scale)
        check_least("algorithm", 1, attention_steps=attention_steps)
        width: int = backbone.out_features  # type: ignore[assignment]
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.stream, self.scale = stream, scale
        self.full_context, self.attention_steps = full_context, attention_steps
        self.interchangeable_labels = not full_context  # (1) reads class after class
        self.unequal_tasks = not full_context
        if full_context:
            self.context = nn.LSTM(width, width, batch_first=True, bidirectional=True)
            self.attention = nn.LSTMCell(2 * width, width)

    def memory(self, z: Tensor, y: Tensor, ways: int) -> Memory:
        """(1): z [T, N*K, D], y [T, N*K]."""
        members = one_hot(y, ways, z.dtype)
        if self.full_context:
            forwards, backwards = self.context(z)[0].chunk(2, -1)
            z = z + forwards + backwards
        return Memory(z, members)

    def attended(self, z: Tensor, g: Tensor) -> Tensor:
        """(2): queries z [T, P, D], support g [T, N*K, D] -> [T, P, D]."""
        h, c = z.flatten(0, 1), torch.zeros_like(z).flatten(0, 1)  # [T*P, D]
        for _ in range(self.attention_steps):
            r = product(product(h.view_as(z), g.mT).softmax(-1), g)  # [T, P, D]
            h, c = self.attention(torch.cat([z, r], -1).flatten(0, 1), (h, c))
            h = h + z.flatten(0, 1)
        return h.view_as(z)

    def logits(self, z: Tensor, memory: Memory) -> Tensor:
        """(3) and (4): z [T, P, D] -> log P [T, P, N]."""
        h = self.attended(z, memory.g) if self.full_context else z
        of_class = memory.members.mT[:, None] > 0  # [T, 1, N, N*K]
        similar = (self.scale * cosines(h, memory.g)).masked_fill(~of_class.any(2), -torch.inf)
        attention = similar.log_softmax(-1)  # [T, P, N*K]
        without = ~of_class.any(-1, keepdim=True)  # padding: any number will do
        return attention[:, :, None].masked_fill(~(of_class | without), -torch.inf).logsumexp(-1)

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Memory:
        return self.memory(embed(self.backbone, support_x), support_y, ways)

    def predict(self, state: Memory, query_x: Tensor) -> Tensor:
        return self.logits(embed(self.backbone, query_x), state)

    def forward(self, batch: Batch) -> StepOutput:
        assert isinstance(batch, Episode)
        support_z, query_z = embed_together(self.backbone, batch)
        logits = self.logits(query_z, self.memory(support_z, batch.support_y, batch.ways))
        return judged(logits, batch)

    def protocol(self) -> dict[str, Any]:
        return {"full_context": self.full_context, "norm_statistics": "running"}
