"""The one interface of every algorithm. Layer 2.

Training, validation, test and prediction all go through the same `adapt` and `predict`.
A constructor receives its YAML's keys and, where it names them as parameters, these from the run:
    backbone       the embedding network, [B, C, H, W] -> [B, backbone.out_features]
    ways           classes in a training episode
    train_classes  number of classes in the training split
"""

import copy
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fewshot.episode import Batch, Episode, StepOutput, Stream
from fewshot.ops.tasks import check_embeddings

State = Any  # what was learned from T support sets: a pytree of tensors


class Algorithm(nn.Module):
    """Subclasses set `stream` and define `adapt` and `predict`; `forward` suits those that train on episodes.

    transductive: the prediction for one query may depend on the other queries.
    fixed_features: in eval mode an image's embedding is `backbone(image)`, whatever the task and the other images;
    `on_features` can then be used. True for metric learners and heads, where only `self.backbone` sees images.
    unequal_tasks: a meta-batch may have tasks of unequal size: padding (images of label -1, classes of id -1) changes
    neither loss nor gradient, batch norm's statistics aside. Where it is false, sizes are drawn once for all tasks of a
    step. At test each task comes alone, unpadded.
    interchangeable_labels: classes under other labels get the same logits, in other columns; false for a learned head.
    double_backward: training differentiates through gradients, so bf16 is refused.
    auto_precision: what `precision=auto` takes on a device with matrix units, tf32 or, where it was shown to cost
    no accuracy, bf16.
    """

    stream: Stream
    transductive: bool = False
    fixed_features: bool = False
    unequal_tasks: bool = False
    interchangeable_labels: bool = True
    double_backward: bool = False
    auto_precision: str = "tf32"

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> State:
        """support_x [T, N*K, C, H, W] float32 in [0, 1], support_y [T, N*K] int64 -> state of T tasks."""
        raise NotImplementedError

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        """query_x [T, N*Q, C, H, W] -> logits [T, N*Q, N]."""
        raise NotImplementedError

    def adaptation(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Iterator[State]:
        """The states after 0, 1, ... inner steps, the last being `adapt`'s; one state where there are no steps."""
        yield self.adapt(support_x, support_y, ways=ways)

    def forward(self, batch: Batch) -> StepOutput:
        """One training batch -> mean cross-entropy of the queries, and their logits."""
        assert isinstance(batch, Episode)
        state = self.adapt(batch.support_x, batch.support_y, ways=batch.ways)
        return judged(self.predict(state, batch.query_x), batch)

    def features(self, state: State, x: Tensor) -> Tensor:
        """The embeddings that `predict` judges by, for pictures: x [T, M, C, H, W] -> [T, M, D].

        Those of the backbone as it was trained; algorithms whose backbone adapts to a task say so here.
        """
        return embed(self.backbone, x)  # type: ignore[arg-type]

    def on_features(self) -> Self:
        """The same algorithm, with the same weights, for embeddings [T, M, D] in the place of images."""
        assert self.fixed_features
        other = copy.copy(self)
        other._modules = self._modules | {"backbone": nn.Identity()}
        return other

    def check_measured(self) -> None:
        """InputError where a test would rest on something that training measures, and these weights lack."""

    def protocol(self) -> dict[str, Any]:
        """What a result has to say about the algorithm: distance, inner steps at test, statistics of the norms."""
        return {}


def judged(logits: Tensor, batch: Episode) -> StepOutput:
    """The mean over tasks of the mean cross-entropy of their queries; logits: [T, N*Q, N]."""
    logits = without_absent(logits, batch)
    each = cross_entropy(logits.mT, batch.query_y, ignore_index=-1, reduction="none")  # [T, N*Q], 0 for padding
    return StepOutput((each.sum(1) / (batch.query_y >= 0).sum(1)).mean(), logits)


def without_absent(logits: Tensor, batch: Episode) -> Tensor:
    """[T, N*Q, N] with -inf for the classes that a task does not have."""
    return logits.masked_fill(batch.classes[:, None] < 0, -torch.inf)


def embed(backbone: nn.Module, x: Tensor) -> Tensor:
    """One forward for all images of all tasks: [T, M, C, H, W] -> [T, M, D], in float32 at least."""
    images = x.flatten(0, 1)
    z = backbone(images)
    check_embeddings(backbone, z, images)
    return z.to(torch.promote_types(z.dtype, torch.float32)).unflatten(0, x.shape[:2])


def embed_together(backbone: nn.Module, batch: Episode) -> tuple[Tensor, Tensor]:
    """One forward for support and queries, so that batch norm sees one batch: [T, N*K, D] and [T, N*Q, D]."""
    z = embed(backbone, torch.cat([batch.support_x, batch.query_x], 1))
    support_z, query_z = z.split([batch.support_x.shape[1], batch.query_x.shape[1]], 1)
    return support_z, query_z
