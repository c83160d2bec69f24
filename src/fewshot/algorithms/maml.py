"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017, arXiv:1703.03400) and its relatives.

    (1)  theta_i' = theta - alpha * grad_theta L_i^support(f_theta)        inner step, for each task i; repeated
    (2)  min_theta  sum_i L_i^query(f_theta_i')                            outer objective (mean over tasks here)

L is the cross-entropy. The outer gradient runs through (1), that is through a gradient: second order.
`first_order` treats the inner gradient as a constant (section 5.2). Relatives by option:
    Meta-SGD  inner_rate: per_parameter   alpha is learned, one per weight       (arXiv:1707.09835)
    LSLR      inner_rate: per_layer_step  alpha is learned per layer and step    (arXiv:1810.09502; see maml_pp.py)
    ANIL      adapt: head                 only the head moves in (1)             (arXiv:1909.09157)
    BOIL      adapt: body                 only the backbone moves in (1)         (arXiv:2008.08882)

Shapes: support_x [T, N*K, C, H, W], logits [T, N*Q, N]; a parameter of shape S is [T, *S] once it has been adapted,
S before. Transductive where `norm_statistics` is batch (the authors' code; see ops/task_network.py).

Differences from the paper: the outer objective is the mean over tasks, not the sum (Adam does not see it), and
the inner loss the mean over images; loss_reduction `sum_over_shot` sums (1)'s loss over classes as the authors' code
does: N times the mean. Parameters that do not require gradients stay as they are. inner_optimizer: adam has Adam's
direction in the place of (1)'s gradient, inner_clip a gradient of that norm at most.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fewshot.algorithms.base import Algorithm
from fewshot.algorithms.chunks import in_chunks
from fewshot.algorithms.heads import make_head
from fewshot.episode import Batch, Episode, Episodes, StepOutput
from fewshot.errors import InputError, check_above, check_choice, check_least
from fewshot.ops import norm
from fewshot.ops.inner_optimizers import Direction, direction
from fewshot.ops.inner_rates import inner_rates
from fewshot.ops.task_network import TaskNetwork
from fewshot.ops.tasks import Params, Recomputed, model_logits


class MAML(Algorithm):
    def __init__(
        self, backbone: nn.Module, *, ways: int, stream: Episodes,
        inner_lr: float, inner_rate: str, inner_steps: int, eval_inner_steps: int,  # (1): alpha, how often
        first_order: bool, adapt: str, adapt_norm: bool, loss_reduction: str,       # (1): through what, of what
        norm_statistics: str, head_init: str,                                       # f
        task_chunk: int | None, checkpoint_inner: bool,                             # time for memory
        inner_optimizer: str = "sgd", inner_clip: float | None = None,              # (1): of what gradient
    ) -> None:  # fmt: skip
        super().__init__()
        check_choice("algorithm.adapt", adapt, ("all", "head", "body"))
        check_choice("algorithm.loss_reduction", loss_reduction, ("mean", "sum_over_shot"))
        check_choice("algorithm.inner_optimizer", inner_optimizer, ("sgd", "adam"))
        check_above("algorithm", 0, inner_clip=inner_clip)
        check_least("algorithm", 1, inner_steps=inner_steps, task_chunk=task_chunk)
        check_least("algorithm", 0, eval_inner_steps=eval_inner_steps)
        if head_init == "zero" and adapt == "body":
            raise InputError("algorithm.head_init=zero with adapt=body learns nothing: the head stays zero")
        width: int = backbone.out_features  # type: ignore[assignment]
        self.backbone, self.stream = backbone, stream
        self.head = make_head(head_init, width, ways, rate_per_weight=inner_rate == "per_parameter")
        theta = self.theta(ways)
        self.network = TaskNetwork(backbone, theta, norm_statistics=norm_statistics)
        self.transductive = self.network.transductive
        self.interchangeable_labels = head_init == "zero" and inner_rate != "per_parameter"
        parts = {"all": ("backbone.", "head."), "head": ("head.",), "body": ("backbone.",)}[adapt]
        fixed = [] if adapt_norm else norm.norm_parameters(self)
        self.adaptable = [name for name in theta if name.startswith(parts) and name not in fixed]
        self.rates = inner_rates(inner_rate, inner_lr, {n: theta[n] for n in self.adaptable}, inner_steps)
        self.inner_steps, self.eval_inner_steps = inner_steps, eval_inner_steps
        self.first_order, self.double_backward = first_order, not first_order
        self.loss_reduction = loss_reduction
        self.direction = partial(direction, inner_optimizer, inner_clip)
        self.task_chunk, self.recomputed = task_chunk, Recomputed(enabled=checkpoint_inner)

    def theta(self, ways: int) -> Params:
        """The initial parameters by name: meta-learned, but for a head of zeros."""
        body = {f"backbone.{name}": p for name, p in self.backbone.named_parameters()}
        head = self.head.start(ways, like=next(iter(body.values())))
        return body | {f"head.{name}": p for name, p in head.items()}

    def support_loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """L_i^support of one task."""
        logits = model_logits(self.backbone, params, x)  # [N*K, N]
        scale = logits.shape[-1] if self.loss_reduction == "sum_over_shot" else 1
        return cross_entropy(logits, y) * scale

    @property
    def adapted(self) -> list[str]:
        """Names of the parameters that (1) moves."""
        frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        names = [name for name in self.adaptable if name not in frozen]
        if not names:
            raise InputError(
                "nothing moves in the inner loop: all parameters of algorithm.adapt have requires_grad=False"
            )
        return names

    def support_gradient(self, params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        """grad_theta L_i^support for all tasks at once: [T, *S]."""
        return self.network.gradient(self.support_loss, params, self.adapted, support_x, support_y)

    def inner_step(
        self, params: Params, step: int, support_x: Tensor, support_y: Tensor, directed: Direction
    ) -> Params:  # fmt: skip
        """(1) for all tasks at once; directed: what the rate multiplies, by default the gradient as it is."""
        with torch.no_grad() if self.first_order else nullcontext():
            g = self.recomputed(self.support_gradient, params, support_x, support_y)
        return params | {name: params[name] - self.rates(name, step) * d for name, d in directed(g).items()}

    def start(self, support_x: Tensor, support_y: Tensor, ways: int) -> Params:
        """What the inner loop starts from; relatives may make it from the support set, [T, *S]."""
        return self.theta(ways)

    def inner_loop(self, support_x: Tensor, support_y: Tensor, ways: int) -> Iterator[Params]:
        """The parameters after 0, 1, ... inner steps."""
        params, directed = self.start(support_x, support_y, ways), self.direction()
        yield params
        for step in range(self.inner_steps if self.training else self.eval_inner_steps):
            params = self.inner_step(params, step, support_x, support_y, directed)
            yield params

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Params:
        for params in self.inner_loop(support_x, support_y, ways):
            adapted = params
        return self.network.with_support_statistics(adapted, support_x)

    def adaptation(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Iterator[Params]:
        for params in self.inner_loop(support_x, support_y, ways):
            yield self.network.with_support_statistics(params, support_x)

    def predict(self, state: Params, query_x: Tensor) -> Tensor:
        return self.network.logits(state, query_x)

    def outer_loss(self, part: Episode, seen: list[Params]) -> StepOutput:
        """(2) for some tasks of a meta-batch; seen: see `TaskNetwork.logits_noting`."""
        adapted = self.adapt(part.support_x, part.support_y, ways=part.ways)
        logits = self.network.logits_noting(adapted, part.query_x, seen)
        return StepOutput(cross_entropy(logits.flatten(0, 1), part.query_y.flatten()), logits)

    def forward(self, batch: Batch) -> StepOutput:
        assert isinstance(batch, Episode)
        seen: list[Params] = []
        out = in_chunks(partial(self.outer_loss, seen=seen), batch, self.task_chunk, self.parameters())
        self.network.update_running(seen)
        return out

    def features(self, state: Params, x: Tensor) -> Tensor:
        return self.network.features(state, x)

    def protocol(self) -> dict[str, Any]:
        learned = getattr(self.rates, "steps", self.eval_inner_steps)
        reused = f"step {learned}'s from there on" if self.eval_inner_steps > learned else None
        return {"norm_statistics": self.network.norm_statistics, "inner_steps_eval": self.eval_inner_steps,
                "first_order": self.first_order, "loss_reduction": self.loss_reduction,
                "inner_rates_eval": reused}  # fmt: skip
