"""Reptile (Nichol, Achiam & Schulman 2018, arXiv:1803.02999): step towards the weights at which adaptation ends.

    (1)  phi_i = theta after k steps of Adam with beta1 = 0, each on a mini-batch of task i's images; a step is
         v <- beta2 v + (1 - beta2) g^2,   phi <- phi - alpha g / sqrt(v / (1 - beta2^t)),   g = grad L_i(phi)
    (2)  theta <- theta + epsilon mean_i(phi_i - theta)                                           Algorithm 2
         = a step of gradient descent, of rate epsilon, on  mean_i |theta - phi_i|^2 / 2          section 5.2
    (3)  v and its step count t go on from one meta-batch to the next, and are where adaptation starts at test

L is the cross-entropy. (2) is what the outer optimiser sees, phi_i held constant: any optimiser will do, the paper's
is plain gradient descent (trainer/optimizer=sgd, its lr is epsilon). In training (1) takes all images of a task: there
is no split into support and queries, and the training curves say how well the queries are fitted.

Shapes: support_x [T, N*K, C, H, W], logits [T, N*Q, N]; a parameter of shape S is [T, *S] once it has been adapted.
norm_statistics: what batch norm normalises with when predicting: `support_and_query`, each query in one batch with
the support set (the authors' way), `batch`, all queries (theirs with --transductive), or `support`.

Differences from the paper: the tasks of a meta-batch all start from the same v, which then becomes the mean of theirs,
and draw their mini-batches alike; the authors' code runs one task after the other.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fewshot.algorithms.base import Algorithm
from fewshot.episode import Batch, Episode, Episodes, StepOutput
from fewshot.errors import InputError, check_choice, check_least
from fewshot.ops import random
from fewshot.ops.adam import Adam
from fewshot.ops.dropblock import Scheduled
from fewshot.ops.task_network import TaskNetwork
from fewshot.ops.tasks import Params, model_logits

BETA2 = 0.999  # TensorFlow's default, which the authors keep
ORDER = random.key(0, "reptile")  # of the support images at test


class Adapted(NamedTuple):
    params: Params
    support_x: Tensor  # [T, N*K, C, H, W]


class Reptile(Algorithm):
    interchangeable_labels = False
    square: Tensor

    def __init__(
        self, backbone: nn.Module, *, ways: int, stream: Episodes, inner_lr: float, inner_steps: int,
        inner_batch: int, eval_inner_steps: int, eval_inner_batch: int, norm_statistics: str,
    ) -> None:  # fmt: skip
        super().__init__()
        check_choice("algorithm.norm_statistics", norm_statistics, ("support_and_query", "batch", "support"))
        check_least("algorithm", 1, inner_steps=inner_steps, inner_batch=inner_batch, eval_inner_batch=eval_inner_batch)
        check_least("algorithm", 0, eval_inner_steps=eval_inner_steps)
        self.backbone, self.stream, self.inner_lr = backbone, stream, inner_lr
        self.inner_steps, self.inner_batch = inner_steps, inner_batch
        self.eval_inner_steps, self.eval_inner_batch = eval_inner_steps, eval_inner_batch
        self.head = nn.Linear(backbone.out_features, ways)  # type: ignore[arg-type]
        self.norm_statistics, self.each_query = norm_statistics, norm_statistics == "support_and_query"
        statistics = "batch" if self.each_query else norm_statistics
        self.network = TaskNetwork(backbone, dict(self.named_parameters()), norm_statistics=statistics)
        self.transductive = self.network.transductive and not self.each_query
        self.register_buffer("square", torch.zeros(sum(p.numel() for p in self.parameters())))  # v
        self.meta_batches = Scheduled()  # how many have been trained on

    def loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """L_i of one task."""
        return cross_entropy(model_logits(self.backbone, params, x), y)

    def second_moments(self) -> Params:
        """v by name: views of the buffer."""
        named = dict(self.named_parameters())
        parts = self.square.split([p.numel() for p in named.values()])
        return {name: part.view(p.shape) for part, (name, p) in zip(parts, named.items(), strict=True)}

    def adam(self) -> Adam:
        """(3): the optimiser of the inner loop as training has left it."""
        steps = self.meta_batches.steps.double() * self.inner_steps
        return Adam(self.inner_lr, betas=(0.0, BETA2), square=self.second_moments(), steps=steps)

    def minibatches(self, images: int) -> Tensor:
        """Rows of a task's images [steps, images in a mini-batch]: one shuffled pass after the other, cut up."""
        steps, size = self.inner_steps, self.inner_batch
        if not self.training:
            steps, size = self.eval_inner_steps, self.eval_inner_batch
        passes, device = -(-steps * size // images), self.square.device
        if self.training:
            draws = torch.rand(passes, images, device=device)
        else:  # the same whenever the task is met again
            draws = random.mix(ORDER, torch.arange(passes * images, device=device)).view(passes, images)
        return draws.argsort(-1).flatten()[: steps * size].view(steps, size)

    def adapted(self, adam: Adam, x: Tensor, y: Tensor) -> Params:
        """(1) for all tasks at once."""
        params: Params = dict(self.named_parameters())
        learned = [name for name, p in params.items() if p.requires_grad]
        for rows in self.minibatches(y.shape[1]):
            g = self.network.gradient(self.loss, params, learned, x[:, rows], y[:, rows])
            params = adam.step(params, g)
        return self.network.with_support_statistics(params, x)

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Adapted:
        if ways != (own := self.head.out_features):
            raise InputError(f"ways={ways}, but this head was learned for ways={own}; evaluate with ways={own}")
        return Adapted(self.adapted(self.adam(), support_x, support_y), support_x)

    def predict(self, state: Adapted, query_x: Tensor) -> Tensor:
        if not self.each_query:
            return self.network.logits(state.params, query_x)
        each = (torch.cat([state.support_x, x], 1) for x in query_x.split(1, 1))  # [T, N*K + 1, C, H, W]
        return torch.cat([self.network.logits(state.params, x)[:, -1:] for x in each], 1)

    def forward(self, batch: Batch) -> StepOutput:
        """(2) for a meta-batch; the loss has the value of the queries' cross-entropy and the gradient of (2)."""
        assert isinstance(batch, Episode)
        x, y = torch.cat([batch.support_x, batch.query_x], 1), torch.cat([batch.support_y, batch.query_y], 1)
        with torch.no_grad():
            adam = self.adam()
            phi = self.adapted(adam, x, y)
            logits = self.network.logits(phi, batch.query_x)
            loss = cross_entropy(logits.flatten(0, 1), batch.query_y.flatten())
            if self.training:
                for name, v in self.second_moments().items():
                    v.copy_(adam.square[name].mean(0))
        theta = dict(self.named_parameters())
        squares = [(theta[n] - phi[n]).square().sum() for n in theta]
        distance = torch.stack(squares).sum() / (2 * len(batch.query_y))
        return StepOutput(loss + (distance - distance.detach()), logits)

    def features(self, state: Adapted, x: Tensor) -> Tensor:
        return self.network.features(state.params, x)

    def protocol(self) -> dict[str, Any]:
        return {"norm_statistics": self.norm_statistics, "inner_steps_eval": self.eval_inner_steps}
