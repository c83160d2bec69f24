"""The common part of heads on a trained embedding: the classifier that is trained, and the features of a task.

    training   (1)  cross-entropy of a linear classifier over all training classes, in mini-batches; label_smoothing e:
                    the targets are 1 - e + e/classes for y and e/classes for the others (arXiv:1512.00567)
    a task     (2)  classify(z_support, onehot, z_query) -> logits, f frozen; all queries of the task at once

A method defines `classify`, or, where it is linear, `fit`. All of them are trained alike: one trained run can be
evaluated with any of them.

Shapes: embeddings [T, N*K, D] and [T, N*Q, D], onehot [T, N*K, N], logits [T, N*Q, N].
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fewshot.algorithms.base import Algorithm, State, embed
from fewshot.episode import Batch, Minibatch, Minibatches, StepOutput
from fewshot.errors import InputError, check_share
from fewshot.ops.similarities import full_precision, one_hot

AVERAGED = 100  # mini-batches over which the mean embedding is computed


class Support(NamedTuple):
    """The support sets of T tasks, ready to classify by."""

    z: Tensor  # [T, N*K, D] embeddings
    onehot: Tensor  # [T, N*K, N] of the labels, in the type of z


class EmbeddingHead(Algorithm):
    """Subclasses define `classify`, and set `assumes` where they are transductive.

    assumes: what a transductive method assumes about the queries; it is written into its results.
    subtracts_mean: whether the head needs `mean`.
    mean: [D], of the embeddings of the training images, for heads that subtract it: a moving average over mini-batches,
    in batch norm's training mode; zeros, and batches = 0, where nothing was trained here.
    """

    fixed_features = True
    auto_precision = "bf16"
    assumes: str | None = None
    subtracts_mean = False
    mean: Tensor
    batches: Tensor

    def __init__(
        self, backbone: nn.Module, *, train_classes: int, stream: Minibatches, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        check_share("algorithm", label_smoothing=label_smoothing)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        features: int = backbone.out_features  # type: ignore[assignment]
        self.classifier = nn.Linear(features, train_classes)
        self.stream, self.label_smoothing = stream, label_smoothing
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> StepOutput:
        assert isinstance(batch, Minibatch)
        z = self.backbone(batch.x)  # [B, D]
        if self.training:
            with torch.no_grad():
                self.batches += 1
                self.mean.lerp_(z.to(self.mean.dtype).mean(0), 1 / self.batches.clamp(max=AVERAGED))
        logits = self.classifier(z)  # [B, train_classes]
        return StepOutput(cross_entropy(logits, batch.y, label_smoothing=self.label_smoothing), logits)  # (1)

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> State:
        z = embed(self.backbone, support_x)
        return Support(z, one_hot(support_y, ways, z.dtype))

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        z = embed(self.backbone, query_x)
        with full_precision():  # no rounding where an update follows another
            return self.classify(state.z, state.onehot, z)

    def classify(self, support: Tensor, onehot: Tensor, query: Tensor) -> Tensor:
        """(2): support [T, N*K, D], onehot [T, N*K, N], query [T, N*Q, D], float32 or float64 -> [T, N*Q, N]."""
        raise NotImplementedError

    def check_measured(self) -> None:
        if self.subtracts_mean and not self.batches:
            raise InputError(
                f"{type(self).__name__} subtracts the mean embedding of the training images, but these weights come "
                "without one; train for a step or more, start from a whole run of such a head (no init_part), or set "
                "algorithm.transform=l2n (simpleshot), algorithm.centre=false (laplacianshot)"
            )

    def protocol(self) -> dict[str, Any]:
        seen = {"mean_over_batches": int(self.batches)} if self.subtracts_mean else {}
        assumed = {"assumes_of_queries": self.assumes} if self.transductive else {}
        return {"norm_statistics": "running"} | seen | assumed


class Linear(NamedTuple):
    """Linear classifiers of T tasks."""

    weight: Tensor  # [T, D, N]
    bias: Tensor  # [T, 1, N]


class LinearHead(EmbeddingHead):
    """Heads whose logits are linear in x = transformed(z): fitted by `adapt`, whatever the queries.

    Subclasses define `transformed` and `fit`.
    """

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> State:
        support = super().adapt(support_x, support_y, ways=ways)
        with full_precision():
            return self.fit(self.transformed(support.z), support.onehot.double())

    def predict(self, state: State, query_x: Tensor) -> Tensor:
        z = embed(self.backbone, query_x)
        with full_precision():
            return (self.transformed(z) @ state.weight + state.bias).to(z.dtype)

    def transformed(self, z: Tensor) -> Tensor:
        """[T, M, D] -> [T, M, D] float64."""
        raise NotImplementedError

    def fit(self, x: Tensor, onehot: Tensor) -> Linear:
        """x [T, M, D], onehot [T, M, N], both float64."""
        raise NotImplementedError


def prototypes(support: Tensor, onehot: Tensor) -> Tensor:
    """Class means, [T, N*K, D], [T, N*K, N] -> [T, N, D]."""
    return (onehot / onehot.sum(1, keepdim=True)).mT @ support
