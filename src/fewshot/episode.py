"""The vocabulary of the project in types. Layer 0.

Shapes, everywhere:
    T tasks (episodes) in a meta-batch, N ways, K shots, Q queries per class,
    C, H, W image, D embedding.

    support_x [T, N*K, C, H, W] float32 in [0, 1]    support_y [T, N*K] int64 in 0..N-1
    query_x   [T, N*Q, C, H, W] float32 in [0, 1]    query_y   [T, N*Q] int64 in 0..N-1
    logits    [T, N*Q, N]

Rows are class-major: all shots of class 0, then of class 1, and so on. Where the tasks of a meta-batch differ in size
(see `sizes`), smaller ones are padded to the largest: padding images have the label -1, padding classes the id -1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from fewshot.errors import InputError
from fewshot.sizes import Value


class Episode(NamedTuple):
    """A meta-batch of T episodes (tasks)."""

    support_x: Tensor  # [T, N*K, C, H, W]
    support_y: Tensor  # [T, N*K]
    query_x: Tensor  # [T, N*Q, C, H, W]
    query_y: Tensor  # [T, N*Q]
    classes: Tensor  # [T, N] int64, the data set's class ids behind the labels 0..N-1

    @property
    def ways(self) -> int:
        """N as a plain int (from a shape, so no device is asked)."""
        return self.classes.shape[1]

    @property
    def targets(self) -> Tensor:
        """What `StepOutput.logits` are to predict: [T, N*Q]."""
        return self.query_y

    def unpadded(self) -> Iterator["Episode"]:
        """Its tasks one by one, each of its own size, without padding."""
        for x, y, query_x, query_y, classes in zip(*self, strict=True):
            shots, real, there = y >= 0, query_y >= 0, classes >= 0
            parts = (x[shots], y[shots], query_x[real], query_y[real], classes[there])
            yield Episode(*[part[None] for part in parts])


class Minibatch(NamedTuple):
    """An ordinary mini-batch over all classes of a split, for algorithms that train without episodes."""

    x: Tensor  # [B, C, H, W]
    y: Tensor  # [B] int64, position of the class within the split

    @property
    def targets(self) -> Tensor:
        return self.y


class StepOutput(NamedTuple):
    """What one training batch gives: `loss.backward()` fills the gradients of the leaf parameters."""

    loss: Tensor  # scalar
    logits: Tensor  # [..., classes], in the order of `batch.targets`


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """What an algorithm trains on: episodes, `tasks` of them per step. The sampler makes the stream."""

    tasks: int
    ways: Value  # of these three each a number, or a draw
    shots: Value
    queries: Value


@dataclass(frozen=True, kw_only=True)
class Minibatches:
    """What an algorithm trains on: ordinary mini-batches over all training classes."""

    batch_size: int


Stream = Episodes | Minibatches
Batch = Episode | Minibatch


def check_logits(made_by: str, logits: Any, batch: Batch) -> None:
    """InputError unless these are logits for the targets of a batch; an episode has a column for each of its ways."""
    wanted: tuple[int | str, ...] = (*batch.targets.shape, batch.ways if isinstance(batch, Episode) else "classes")
    found = tuple(logits.shape) if isinstance(logits, Tensor) else f"({type(logits).__name__})"
    if not isinstance(logits, Tensor) or found[:-1] != wanted[:-1] or wanted[-1] not in ("classes", found[-1]):
        words = "tasks, queries, ways" if isinstance(batch, Episode) else "images, classes"
        raise InputError(f"{made_by} gave logits of shape {found}; expected {wanted}, that is {words}")
    if not logits.is_floating_point():
        raise InputError(f"{made_by} gave logits of {logits.dtype}; expected floating-point numbers")


def check_step(made_by: str, out: Any, batch: Batch) -> None:
    """InputError unless this is what a training step is to give: a loss that can be differentiated, and logits."""
    if not isinstance(out, StepOutput):
        raise InputError(f"{made_by} gave a {type(out).__name__}; expected a StepOutput(loss, logits)")
    loss, loss_like = out.loss, "a scalar tensor with a gradient"
    if not isinstance(loss, Tensor):
        raise InputError(f"{made_by} gave a loss of type {type(loss).__name__}; expected {loss_like}")
    if loss.shape != () or not loss.is_floating_point():
        raise InputError(f"{made_by} gave a loss {tuple(loss.shape)} {loss.dtype}; expected {loss_like}")
    if not loss.requires_grad:
        raise InputError(f"{made_by} gave a loss without a gradient (detached, or no parameter is in it); "
                         f"expected {loss_like}")  # fmt: skip
    check_logits(made_by, out.logits, batch)
