"""MAML++ (Antoniou, Edwards & Storkey 2019, arXiv:1810.09502): MAML with what makes its training stable.

    (1)  theta_s = theta_{s-1} - alpha_s * grad L^support(f_{theta_{s-1}, s})      alpha learned per layer and step
    (2)  min  sum_s v_s L^query(f_{theta_s, s}),  s = 1..S                         multi-step loss, section 4
         v_s from 1/S each, in a straight line to (0, ..., 0, 1) over the first `multi_step_part` of the training
    (3)  f_{., s}: batch norm has a scale, a shift and running statistics of its own for each step s; scale and shift
         are meta-learned and do not move in (1)
    (4)  the outer gradient is of first order in the first `first_order_part` of the training, then of second order

The cosine of the outer rate is the trainer's (`trainer/schedule=cosine`). f_{., s} computes both the support loss of
step s and the query loss after it. More steps at test than in training use the last step's rates and batch norm.

Shapes as in maml.py; a parameter or statistic of batch norm over C channels is [S, C]. Transductive where
`norm_statistics` is batch, as the authors' code has it: its running statistics are kept but never used.

The paper tests the mean prediction of the five best checkpoints: trainer.keep_best=5 evaluation.ensemble=5.

Differences from the paper: the loss weights fall with every update, not every 500, and to 0, not to 0.03/S just before
the end; (4) chooses between gradients whose second order is computed in either case, so it saves no time.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fewshot.algorithms.maml import MAML
from fewshot.episode import Episode, Episodes, StepOutput
from fewshot.errors import InputError
from fewshot.ops import norm
from fewshot.ops.dropblock import Scheduled
from fewshot.ops.inner_optimizers import Direction
from fewshot.ops.tasks import Params


class MAMLPlusPlus(MAML):
    def __init__(
        self, backbone: nn.Module, *, ways: int, stream: Episodes,
        inner_lr: float, inner_steps: int, eval_inner_steps: int,   # (1)
        updates: int, multi_step_part: float, first_order_part: float,  # (2), (4)
        norm_statistics: str, head_init: str, task_chunk: int | None, checkpoint_inner: bool,
    ) -> None:  # fmt: skip
        if not (0 <= multi_step_part <= 1 and 0 <= first_order_part <= 1):
            raise InputError(
                f"algorithm.multi_step_part={multi_step_part} and first_order_part={first_order_part} are parts of "
                "the training, from 0 to 1"
            )
        super().__init__(
            backbone, ways=ways, stream=stream, inner_lr=inner_lr, inner_rate="per_layer_step",
            inner_steps=inner_steps, eval_inner_steps=eval_inner_steps, first_order=False, adapt="all",
            adapt_norm=False, loss_reduction="mean", norm_statistics=norm_statistics, head_init=head_init,
            task_chunk=task_chunk, checkpoint_inner=checkpoint_inner,
        )  # fmt: skip
        self.multi_step_updates = round(multi_step_part * updates)
        self.first_order_updates = round(first_order_part * updates)
        self.done = Scheduled()  # updates so far
        self.per_step: list[str] = []  # what there is of for each step, (3)
        for layer_name, layer in norm.batch_norms(backbone).items():
            for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
                rows = tensor.detach().repeat(inner_steps, 1)  # [S, C]
                setattr(layer, name, nn.Parameter(rows) if isinstance(tensor, nn.Parameter) else rows)
                self.per_step.append(f"backbone.{layer_name}.{name}")

    def at_step(self, step: int) -> Params:
        """(3): batch norm's parameters and statistics in step `step`, counted from 0."""
        named = dict(self.named_parameters()) | dict(self.named_buffers())
        return {name: named[name][min(step, self.inner_steps - 1)] for name in self.per_step}

    def start(self, support_x: Tensor, support_y: Tensor, ways: int) -> Params:
        return super().start(support_x, support_y, ways) | self.at_step(0)

    def inner_step(
        self, params: Params, step: int, support_x: Tensor, support_y: Tensor, directed: Direction
    ) -> Params:  # fmt: skip
        return super().inner_step(params | self.at_step(step), step, support_x, support_y, directed)

    def support_gradient(self, params: Params, support_x: Tensor, support_y: Tensor) -> Params:
        g = super().support_gradient(params, support_x, support_y)
        if not self.first_order_updates:
            return g
        second_order = self.done.steps >= self.first_order_updates  # a tensor: no question to the device
        return {name: torch.where(second_order, value, value.detach()) for name, value in g.items()}

    def loss_weights(self, steps: int) -> Tensor:
        """v_1, ..., v_S of (2), in float64."""
        left = (self.multi_step_updates - self.done.steps).clamp(min=0).double() / max(self.multi_step_updates, 1)
        others = left.expand(steps - 1) / steps
        return torch.cat([others, (1 - others.sum())[None]])

    def outer_loss(self, part: Episode, seen: list[Params]) -> StepOutput:
        if not self.multi_step_updates and self.network.norm_statistics != "running":
            return super().outer_loss(part, seen)
        _, *states = self.adaptation(part.support_x, part.support_y, ways=part.ways)
        noted: list[Params] = []
        logits = [self.network.logits_noting(state, part.query_x, noted) for state in states]
        seen += [{name: torch.stack([step[name] for step in noted], 1) for name in n} for n in noted[:1]]  # [T, S, C]
        losses = torch.stack([cross_entropy(y.flatten(0, 1), part.query_y.flatten()) for y in logits])
        return StepOutput((self.loss_weights(len(states)).to(losses) * losses).sum(), logits[-1])
