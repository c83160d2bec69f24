"""Prototypical networks (Snell, Swersky & Zemel 2017, arXiv:1703.05175).

    (1)  c_k = mean of f(x) over the support images of class k          prototype
    (2)  p(y = k | x) = softmax_k( -d(f(x), c_k) )                      d: squared Euclidean distance
         the loss is the mean of -log p(y | x) over the queries         (Algorithm 1)

Shapes: support [T, N*K, C, H, W], embeddings [T, N*K, D], prototypes [T, N, D], logits [T, N*Q, N].

Training sends support and query through the network together, so that batch norm sees one batch; at test it
uses its running statistics, and each query is classified on its own (inductive).

Differences from the paper: `distance: cosine` (the paper's comparison) has a learned temperature, without
which its logits could not leave [-1, 1]. With `tasks` above 1 batch norm spans the episodes of a step.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm, embed, embed_together, judged
from fewshot.episode import Batch, Episode, Episodes, StepOutput
from fewshot.errors import check_above, check_choice
from fewshot.ops.similarities import class_means, cosines, distances, squared_distances


class ProtoNet(Algorithm):
    fixed_features = True
    unequal_tasks = True
    auto_precision = "bf16"

    def __init__(self, backbone: nn.Module, *, stream: Episodes, distance: str, temperature: float) -> None:
        super().__init__()
        check_choice("algorithm.distance", distance, ("squared_euclidean", "euclidean", "cosine"))
        check_above("algorithm", 0, temperature=temperature)  # its logarithm is learned
        self.backbone = backbone.to(memory_format=torch.channels_last)  # the faster layout without vmap
        self.stream, self.distance = stream, distance
        if distance == "cosine":
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        return class_means(embed(self.backbone, support_x), support_y, ways)  # (1)  [T, N, D]

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return self.logits(embed(self.backbone, query_x), state)

    def logits(self, z: Tensor, prototypes: Tensor) -> Tensor:
        """[T, P, D], [T, N, D] -> [T, P, N]; softmax of it is (2)."""
        if self.distance == "cosine":
            return cosines(z, prototypes) * self.log_temperature.exp()
        if self.distance == "euclidean":  # what several reimplementations do
            return -distances(z, prototypes)
        return -squared_distances(z, prototypes)

    def forward(self, batch: Batch) -> StepOutput:
        assert isinstance(batch, Episode)
        support_z, query_z = embed_together(self.backbone, batch)
        logits = self.logits(query_z, class_means(support_z, batch.support_y, batch.ways))  # [T, N*Q, N]
        return judged(logits, batch)

    def protocol(self) -> dict[str, Any]:
        return {"distance": self.distance, "norm_statistics": "running"}
