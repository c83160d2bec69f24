"""Model-agnostic meta-learning (Finn, Abbeel & Levine 2017, arXiv:1703.03400) and its relatives.

    (1)  theta_i' = theta - alpha * grad_theta L_i^support(f_theta)        inner step, for each task i; repeated
    (2)  min_theta  sum_i L_i^query(f_theta_i')                            outer objective (mean over tasks here)

The outer gradient runs through (1), that is through a gradient: second order. `first_order` treats the inner
gradient as a constant (section 5.2). Relatives by option:
    Meta-SGD  inner_rate: per_parameter   alpha is learned, one per weight       (arXiv:1707.09835)
    MAML++    inner_rate: per_layer_step  alpha is learned per layer and step    (arXiv:1810.09502)
    ANIL      adapt: head                 only the head moves in (1)             (arXiv:1909.09157)
    BOIL      adapt: body                 only the backbone moves in (1)         (arXiv:2008.08882)

Shapes: support [T, N*K, C, H, W]; a parameter of shape S is [T, *S] once it has been adapted, S before.

norm_statistics says what batch norm sees: `batch` each batch it is given, at test too (the authors' code:
transductive); `support` the support set's statistics for the queries as well; `running` batch in training,
running averages (of the adapted queries, over tasks) at validation and test.

Differences from the paper: the outer objective is the mean over tasks, not the sum (Adam does not see it), and
the inner loss the mean over images; loss_reduction `sum_over_shot` sums (1)'s loss over classes as the authors' code
does: N times the mean.
task_chunk and checkpoint_inner trade time for memory; the gradient stays what it is.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn.functional import cross_entropy

from fewshot.algorithms.base import Algorithm
from fewshot.episode import Batch, Episode, Episodes, StepOutput
from fewshot.errors import InputError
from fewshot.ops import norm
from fewshot.ops.inner_rates import RatePerParameter, inner_rates
from fewshot.ops.tasks import Params, Recomputed, accumulated, map_tasks, model_features, model_logits


class MAML(Algorithm):
    def __init__(
        self, backbone: nn.Module, *, ways: int, stream: Episodes, inner_lr: float, inner_rate: str,
        inner_steps: int, eval_inner_steps: int, first_order: bool, adapt: str, adapt_norm: bool,
        loss_reduction: str, norm_statistics: str, head_init: str, task_chunk: int | None,
        checkpoint_inner: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.backbone, self.stream = backbone, stream
        self.head = nn.Linear(backbone.out_features, ways) if head_init != "zero" else None  # type: ignore[arg-type]
        if self.head is not None and head_init == "normal":  # N(0, 1), as in the authors' Omniglot net
            nn.init.normal_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        self.ways, self._seen = ways, list[Params]()
        theta = self.theta(ways)
        self.shapes = {name: p.shape for name, p in [*theta.items(), *self._buffers_by_name().items()]}
        self.adapted = adapted_names(theta, adapt, backbone, adapt_norm)
        self.rates = inner_rates(inner_rate, inner_lr, {n: theta[n] for n in self.adapted}, inner_steps)
        self.inner_steps, self.eval_inner_steps = inner_steps, eval_inner_steps
        self.first_order, self.double_backward = first_order, not first_order
        self.loss_reduction, self.norm_statistics = loss_reduction, norm_statistics
        self.task_chunk, self.recomputed = task_chunk, Recomputed(enabled=checkpoint_inner)
        self.transductive = norm_statistics == "batch" and bool(norm.batch_norms(backbone))
        check_options(self, head_init)

    def theta(self, ways: int) -> Params:
        """The meta-learned initial parameters by name; a zero head is made for any number of ways."""
        theta = {f"backbone.{name}": p for name, p in self.backbone.named_parameters()}
        if self.head is None:
            like = next(iter(theta.values()))
            width: int = self.backbone.out_features  # type: ignore[assignment]
            weight, bias = like.new_zeros(ways, width), like.new_zeros(ways)
            if ways != self.ways and isinstance(self.rates, RatePerParameter):
                raise InputError(
                    f"ways={ways}, but inner_rate=per_parameter learned the rates of a head for ways={self.ways}; "
                    f"evaluate with ways={self.ways}, or train with inner_rate=per_layer_step or fixed"
                )
        else:
            weight, bias = self.head.weight, self.head.bias
            if ways != len(bias):
                raise InputError(
                    f"ways={ways}, but this head was learned for ways={len(bias)}; evaluate with "
                    f"ways={len(bias)}, or train with algorithm.head_init=zero, which serves any number"
                )
        return theta | {"head.weight": weight, "head.bias": bias}

    def support_loss(self, fast: Params, slow: Params, x: Tensor, y: Tensor) -> Tensor:
        """L_i^support of one task; fast are the parameters that adapt."""
        logits = model_logits(self.backbone, slow | fast, x)
        scale = logits.shape[-1] if self.loss_reduction == "sum_over_shot" else 1
        return cross_entropy(logits, y) * scale

    def support_gradient(self, params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        """grad_theta L_i^support by the parameters that adapt, for all tasks at once: [T, *S]."""

        def one_task(params: Params, x: Tensor, y: Tensor) -> Params:
            fast = {name: params[name] for name in self.adapted}
            slow = {name: p for name, p in params.items() if name not in fast}
            return grad(self.support_loss)(fast, slow, x, y)

        with self._statistics(adapting=True):
            return map_tasks(one_task, params, self.shapes, support_x, support_y)

    def inner_step(self, params: Params, step: int, support_x: Tensor, support_y: Tensor) -> Params:
        """(1) for all tasks at once."""
        with torch.no_grad() if self.first_order else nullcontext():
            g = self.recomputed(self.support_gradient, params, support_x, support_y)
        return params | {name: params[name] - self.rates(name, step) * g[name] for name in self.adapted}

    def _trajectory(self, support_x: Tensor, support_y: Tensor, ways: int) -> Iterator[Params]:
        params = self.theta(ways)
        yield params
        for step in range(self.inner_steps if self.training else self.eval_inner_steps):
            params = self.inner_step(params, step, support_x, support_y)
            yield params

    def adaptation(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Iterator[Params]:
        for params in self._trajectory(support_x, support_y, ways):
            yield self._with_support_statistics(params, support_x)

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Params:
        for params in self._trajectory(support_x, support_y, ways):  # noqa: B007 (the last one is wanted)
            pass
        return self._with_support_statistics(params, support_x)

    def predict(self, state: Params, query_x: Tensor) -> Tensor:
        with self._statistics(adapting=False):
            if self.norm_statistics == "running" and self.training:
                logits, seen = self._with_recording(state, query_x)
                self._seen.append({name: value.detach() for name, value in seen.items()})
                return logits
            return map_tasks(lambda p, x: model_logits(self.backbone, p, x), state, self.shapes, query_x)

    def features(self, state: Params, x: Tensor) -> Tensor:
        with self._statistics(adapting=False):
            return map_tasks(lambda p, x: model_features(self.backbone, p, x), state, self.shapes, x)

    def forward(self, batch: Batch) -> StepOutput:
        """(2) for a meta-batch; in chunks of `task_chunk` tasks where memory is short."""
        assert isinstance(batch, Episode)
        self._seen = []
        chunk = self.task_chunk
        if chunk is None or chunk >= len(batch.query_y) or not torch.is_grad_enabled():
            out = super().forward(batch)
        else:
            out = self._in_chunks(batch, chunk)
        norm.update_running(self.backbone, self._seen)
        return out

    def _in_chunks(self, batch: Episode, chunk: int) -> StepOutput:
        tasks = len(batch.query_y)
        logits: list[Tensor] = []

        def part(first: int) -> Tensor:
            piece = Episode(*[t[first : first + chunk] for t in batch])
            out = super(MAML, self).forward(piece)
            logits.append(out.logits.detach())
            return out.loss * (len(piece.query_y) / tasks)

        starts, learned = range(0, tasks, chunk), [p for p in self.parameters() if p.requires_grad]
        loss = accumulated([lambda f=f: part(f) for f in starts], learned)  # type: ignore[misc]
        return StepOutput(loss, torch.cat(logits))

    def _statistics(self, *, adapting: bool) -> Any:
        stored = {"batch": False, "support": not adapting, "running": not self.training}[self.norm_statistics]
        return norm.statistics_from(self.backbone, "stored" if stored else "batch")

    def _with_recording(self, params: Params, x: Tensor) -> tuple[Tensor, Params]:
        """Logits [T, M, N] and what each batch norm saw, by buffer name, [T, channels]."""

        def one_task(params: Params, x: Tensor) -> tuple[Tensor, Params]:
            with norm.recording(self.backbone) as seen:
                logits = model_logits(self.backbone, params, x)
            return logits, {f"backbone.{name}": value for name, value in seen.items()}

        return map_tasks(one_task, params, self.shapes, x)

    def _with_support_statistics(self, params: Params, support_x: Tensor) -> Params:
        if self.norm_statistics != "support":
            return params
        with self._statistics(adapting=True):
            return params | self._with_recording(params, support_x)[1]

    def _buffers_by_name(self) -> Params:
        return {f"backbone.{name}": b for name, b in self.backbone.named_buffers()}

    def protocol(self) -> dict[str, Any]:
        return {"norm_statistics": self.norm_statistics, "inner_steps_eval": self.eval_inner_steps,
                "first_order": self.first_order, "loss_reduction": self.loss_reduction}  # fmt: skip


def adapted_names(theta: Params, adapt: str, backbone: nn.Module, adapt_norm: bool) -> list[str]:
    """Names of the parameters that (1) moves: all | head | body, with or without those of norm layers."""
    if adapt not in ("all", "head", "body"):
        raise InputError(f"algorithm.adapt={adapt} is unknown; choose all, head or body")
    fixed = set() if adapt_norm else {f"backbone.{name}" for name in norm.norm_parameters(backbone)}
    head = {name for name in theta if name.startswith("head.")}
    wanted = {"all": set(theta), "head": head, "body": set(theta) - head}[adapt] - fixed
    return [name for name in theta if name in wanted]


def check_options(maml: MAML, head_init: str) -> None:
    """Ranges and choices of the options, and layers that vmap cannot serve."""
    for key, value, among in (
        ("loss_reduction", maml.loss_reduction, ("mean", "sum_over_shot")),
        ("norm_statistics", maml.norm_statistics, ("batch", "support", "running")),
        ("head_init", head_init, ("default", "normal", "zero")),
    ):
        if value not in among:
            raise InputError(f"algorithm.{key}={value} is unknown; choose {', '.join(among)}")
    if maml.inner_steps < 1 or maml.eval_inner_steps < 0:
        raise InputError(
            f"algorithm.inner_steps={maml.inner_steps}, eval_inner_steps={maml.eval_inner_steps}; "
            f"they must be at least 1 and 0"
        )
    if maml.task_chunk is not None and maml.task_chunk < 1:
        raise InputError(f"algorithm.task_chunk={maml.task_chunk} is below 1; use null for all tasks at once")
    if head_init == "zero" and not any(name.startswith("head.") for name in maml.adapted):
        raise InputError("algorithm.head_init=zero with adapt=body learns nothing: the head stays zero; use default")
    norm.refuse_tracking(maml.backbone)
