"""A meta-batch in chunks of tasks, where memory is short. Layer 2."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fewshot.episode import Episode, StepOutput
from fewshot.ops.tasks import accumulated


def in_chunks(
    function: Callable[[Episode], StepOutput], batch: Episode, chunk: int | None, parameters: Iterable[nn.Parameter]
) -> StepOutput:
    """`function(batch)`, at most `chunk` tasks at a time (None: all); the gradients are those of all tasks together.

    function: returns the mean loss over its tasks. Each chunk is differentiated with respect to `parameters` and freed
    before the next one is computed, so that only one chunk is in memory.
    """
    tasks = len(batch.query_y)
    if chunk is None or chunk >= tasks or not torch.is_grad_enabled():
        return function(batch)
    logits: list[Tensor] = []

    def loss(first: int) -> Tensor:
        part = Episode(*[t[first : first + chunk] for t in batch])
        out = function(part)
        logits.append(out.logits.detach())
        return out.loss * (len(part.query_y) / tasks)

    losses = [lambda first=first: loss(first) for first in range(0, tasks, chunk)]
    total = accumulated(losses, [p for p in parameters if p.requires_grad])
    return StepOutput(total, torch.cat(logits))
