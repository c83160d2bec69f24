"""Relation networks (Sung, Yang, Zhang, Xiang, Torr & Hospedales 2018, arXiv:1711.06025).

    (1)  m_k = sum over the support images of class k of f(x)       maps of channels c: [c, h, w]
    (2)  r_jk = sigmoid( g( [m_k, f(x_j)] ) )                       the two maps as 2c channels; g: two convolutions,
                                                                    pooled, and two linear layers
    (3)  loss = mean over j, k of (r_jk - [y_j = k])^2              logits are what sigmoid takes

Shapes: maps [T, N, c, h, w] and [T, N*Q, c, h, w], relations and logits [T, N*Q, N]. Classes may have unequal shots.

A backbone that knows the shape of the map it flattens (`map_shape`, as conv4_relation) is given back its map; any
other embedding is a map of one position, and g does not pool what is smaller than 2x2.
norm_statistics: `batch` takes each batch's own statistics at test, too, of each task by itself, as the authors' code
does: transductive. `running` is inductive.

Differences from the paper: the first convolution is computed for the two halves of its channels apart and added up,
the same numbers from a fraction of the work. Initial weights are PyTorch's. `class_map: mean` serves other shots than
those of training; at 1 shot both are one.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, relu

from fewshot.algorithms.base import Algorithm, embed, without_absent
from fewshot.episode import Batch, Episode, Episodes, StepOutput
from fewshot.errors import InputError, check_choice, check_least
from fewshot.ops import norm
from fewshot.ops.pool import max_pool
from fewshot.ops.similarities import one_hot, product


class RelationNet(Algorithm):
    def __init__(
        self, backbone: nn.Module, *, stream: Episodes, class_map: str, filters: int, hidden: int, padding: int,
        norm_statistics: str,
    ) -> None:  # fmt: skip
        super().__init__()
        check_choice("algorithm.class_map", class_map, ("sum", "mean"))
        check_choice("algorithm.norm_statistics", norm_statistics, ("running", "batch"))
        self.map_shape = map_shape(backbone)
        self.backbone, self.stream = backbone.to(memory_format=torch.channels_last), stream
        self.relation = RelationModule(self.map_shape, filters=filters, hidden=hidden, padding=padding)
        self.class_map, self.norm_statistics = class_map, norm_statistics
        self.transductive = norm_statistics == "batch"
        self.fixed_features = self.unequal_tasks = not self.transductive
        if self.transductive:
            norm.refuse_tracking(backbone)

    def maps(self, x: Tensor) -> Tensor:
        """f: images [T, M, C, H, W] -> [T, M, c, h, w]."""
        return self.by_task(lambda x: embed(self.backbone, x), x).unflatten(-1, self.map_shape)

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        z = self.maps(support_x).flatten(2)  # [T, N*K, c*h*w]
        members = one_hot(support_y, ways, z.dtype)
        members = members / members.sum(1, keepdim=True).clamp(min=1) if self.class_map == "mean" else members
        return product(members.mT, z).unflatten(-1, self.map_shape)  # (1)  [T, N, c, h, w]

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return self.by_task(self.relation, state, self.maps(query_x))  # [T, N*Q, N]

    def forward(self, batch: Batch) -> StepOutput:
        assert isinstance(batch, Episode)
        logits = self.predict(self.adapt(batch.support_x, batch.support_y, ways=batch.ways), batch.query_x)
        error = logits.sigmoid() - one_hot(batch.query_y, batch.ways, logits.dtype)
        counts = (batch.query_y >= 0)[..., None] & (batch.classes >= 0)[:, None]  # [T, N*Q, N]
        loss = ((error.square() * counts).sum((1, 2)) / counts.sum((1, 2))).mean()  # (3)
        return StepOutput(loss, without_absent(logits, batch))

    def by_task(self, function: Any, *tensors: Tensor) -> Tensor:
        """function of [T, ...] tensors; where batch norm sees the test's batches, of each task by itself."""
        if self.training or not self.transductive:
            return function(*tensors)
        with norm.statistics_from(self, "batch"):
            return torch.vmap(lambda *one: function(*[t[None] for t in one])[0])(*tensors)

    def protocol(self) -> dict[str, Any]:
        return {"class_map": self.class_map, "map": list(self.map_shape), "norm_statistics": self.norm_statistics}


def map_shape(backbone: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of what is behind an embedding: (D, 1, 1) unless a network says that it flattens."""
    width: int = backbone.out_features  # type: ignore[assignment]
    known: list[Any] = [m.map_shape for m in backbone.modules() if hasattr(m, "map_shape")]
    return next((shape for shape in known if math.prod(shape) == width), (width, 1, 1))


class RelationModule(nn.Module):
    """g of (2)."""

    def __init__(self, map_shape: tuple[int, int, int], *, filters: int, hidden: int, padding: int) -> None:
        super().__init__()
        check_least("algorithm", 1, filters=filters, hidden=hidden)
        channels, *size = map_shape
        options: dict[str, Any] = {"kernel_size": 3, "padding": padding, "bias": False}  # a norm would take the bias
        self.first, self.second = nn.Conv2d(2 * channels, filters, **options), nn.Conv2d(filters, filters, **options)
        self.norms = nn.ModuleList([norm.BatchNorm(filters), norm.BatchNorm(filters)])
        self.pools = []
        for _ in range(2):
            size = [n + 2 * padding - 2 for n in size]
            if min(size) < 1:
                raise InputError(
                    f"the backbone's map of {map_shape[1]}x{map_shape[2]} is too small for "
                    f"algorithm.padding={padding}; use padding=1"
                )
            self.pools.append(min(size) >= 2)
            size = [n // 2 for n in size] if self.pools[-1] else size
        self.hidden, self.score = nn.Linear(filters * size[0] * size[1], hidden), nn.Linear(hidden, 1)

    def forward(self, classes: Tensor, queries: Tensor) -> Tensor:
        """classes [T, N, c, h, w], queries [T, P, c, h, w] -> before the sigmoid, [T, P, N]."""
        pairs = self.of_half(0, classes)[:, None] + self.of_half(1, queries)[:, :, None]  # [T, P, N, filters, h, w]
        r = self.pooled(0, pairs.flatten(0, 2))
        r = self.pooled(1, self.second(r)).flatten(1)  # [T*P*N, D]
        return self.score(relu(self.hidden(r))).view(pairs.shape[:3])

    def of_half(self, half: int, maps: Tensor) -> Tensor:
        """The first convolution's share of the class maps (half 0) or of the query maps (half 1)."""
        weight = self.first.weight.chunk(2, 1)[half]
        return conv2d(maps.flatten(0, 1), weight, padding=self.first.padding).unflatten(0, maps.shape[:2])

    def pooled(self, layer: int, x: Tensor) -> Tensor:
        x = relu(self.norms[layer](x))
        return max_pool(x) if self.pools[layer] else x
