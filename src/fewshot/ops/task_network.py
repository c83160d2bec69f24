"""A backbone with a linear head, for many tasks that each have parameters of their own. Layer 0.

Parameters are kept by name: `backbone.*`, `head.weight`, `head.bias`. One of shape S has shape S where all tasks share
it, and [T, *S] where each task has its own.

norm_statistics: what batch norm normalises with while a task adapts, and when it predicts:
    batch    the statistics of each batch, also at test: predictions depend on the other queries (transductive)
    support  those of the support set, also for the queries
    running  as `batch` in training; at validation and test the running averages over the queries of training
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from torch import Tensor, nn
from torch.func import grad

from fewshot.errors import check_choice
from fewshot.ops import norm
from fewshot.ops.tasks import Params, map_tasks, model_features, model_logits

Loss = Callable[[Params, Tensor, Tensor], Tensor]  # parameters of one task, x [M, C, H, W], y [M] -> scalar


class TaskNetwork:
    def __init__(self, backbone: nn.Module, theta: Params, *, norm_statistics: str) -> None:
        """theta: all parameters, each of the shape that tasks share."""
        check_choice("algorithm.norm_statistics", norm_statistics, ("batch", "support", "running"))
        norm.refuse_tracking(backbone)
        self.backbone, self.norm_statistics = backbone, norm_statistics
        buffers = {f"backbone.{name}": b for name, b in backbone.named_buffers()}
        self.shapes = {name: p.shape for name, p in [*theta.items(), *buffers.items()]}

    @property
    def transductive(self) -> bool:
        return self.norm_statistics == "batch" and bool(norm.batch_norms(self.backbone))

    def logits(self, params: Params, x: Tensor) -> Tensor:
        """Predictions: x [T, M, C, H, W] -> [T, M, N]."""
        with self.statistics(adapting=False):
            return map_tasks(lambda p, x: model_logits(self.backbone, p, x), params, self.shapes, x)

    def features(self, params: Params, x: Tensor, *, adapting: bool = False) -> Tensor:
        """The embeddings that predictions, or the inner loop, are made of: x [T, M, C, H, W] -> [T, M, D]."""
        with self.statistics(adapting=adapting):
            return map_tasks(lambda p, x: model_features(self.backbone, p, x), params, self.shapes, x)

    def gradient(self, loss: Loss, params: Params, names: Sequence[str], x: Tensor, y: Tensor) -> Params:
        """The gradient of each task's own loss with respect to the parameters `names`: [T, *S] each."""

        def of_one_task(params: Params, x: Tensor, y: Tensor) -> Params:
            moving = {name: params[name] for name in names}
            return grad(lambda moving: loss(params | moving, x, y))(moving)

        with self.statistics(adapting=True):
            return map_tasks(of_one_task, params, self.shapes, x, y)

    def copy_of(self, params: Params) -> nn.Sequential:
        """The first task's network as plain modules, [M, C, H, W] -> [M, N]; not where statistics are the batch's."""
        own = {name: (p[0] if p.ndim > len(self.shapes[name]) else p).detach() for name, p in params.items()}
        backbone, weight = copy.deepcopy(self.backbone), own["head.weight"]
        backbone.load_state_dict(
            {n.removeprefix("backbone."): p for n, p in own.items() if n.startswith("backbone.")}, strict=False
        )
        head = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
        head.load_state_dict({"weight": weight, "bias": own["head.bias"]})
        return nn.Sequential(backbone, head).eval()

    def with_support_statistics(self, params: Params, support_x: Tensor) -> Params:
        """With norm_statistics=support: the parameters, together with the statistics of the support set."""
        if self.norm_statistics != "support":
            return params
        with self.statistics(adapting=True):
            return params | self._logits_and_statistics(params, support_x)[1]

    def logits_noting(self, params: Params, x: Tensor, seen: list[Params]) -> Tensor:
        """`logits`; in training with norm_statistics=running what batch norm saw is added to `seen`."""
        if self.norm_statistics != "running" or not self.backbone.training:
            return self.logits(params, x)
        with self.statistics(adapting=False):
            logits, statistics = self._logits_and_statistics(params, x)
        seen.append({name: value.detach() for name, value in statistics.items()})
        return logits

    def update_running(self, seen: Sequence[Params]) -> None:
        """One step of the running averages towards the mean over the tasks of all chunks in `seen`."""
        norm.update_running(self.backbone, seen)

    def statistics(self, *, adapting: bool) -> AbstractContextManager[None]:
        """Inside the block batch norm normalises as `norm_statistics` says."""
        stored = {"batch": False, "support": not adapting, "running": not self.backbone.training}
        return norm.statistics_from(self.backbone, "stored" if stored[self.norm_statistics] else "batch")

    def _logits_and_statistics(self, params: Params, x: Tensor) -> tuple[Tensor, Params]:
        """Logits [T, M, N] and what each batch norm saw, by buffer name, [T, channels]."""

        def one_task(params: Params, x: Tensor) -> tuple[Tensor, Params]:
            with norm.recording(self.backbone) as seen:
                logits = model_logits(self.backbone, params, x)
            return logits, {f"backbone.{name}": value for name, value in seen.items()}

        return map_tasks(one_task, params, self.shapes, x)
