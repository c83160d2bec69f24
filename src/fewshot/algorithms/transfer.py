"""Transfer: train an ordinary classifier, then fit each task on top of it. What meta-learning is measured against.

"Baseline" and "Baseline++" of Chen et al. 2019, arXiv:1904.04232, section 3:
    training    a linear or cosine classifier over all training classes, in mini-batches; label_smoothing e: the
                targets are 1 - e + e/classes for y and e/classes for the others (Szegedy et al. 2016, arXiv:1512.00567)
    adapt: head (1)  W_i = argmin_W  CE(W f(x), y) + decay/2 |W|^2   over task i's support set, f frozen
    adapt: all  (2)  the same, f moves too (fine-tuning of all weights)
    head: cosine     logits are scale * cos(w_k, f(x))

Shapes: embeddings [T, N*K, D], heads [T, N, D], logits [T, N*Q, N]. Inductive: norms use running statistics.

Differences from the paper: (1) and (2) are `adapt_steps` steps of plain gradient descent on the whole support
set, all tasks in one batch, from a head of zeros (linear) or class means (cosine), without augmentation.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn.functional import cross_entropy

from fewshot.algorithms.base import Algorithm, embed
from fewshot.episode import Batch, Minibatch, Minibatches, StepOutput
from fewshot.errors import check_choice, check_least, check_share
from fewshot.ops import norm
from fewshot.ops.similarities import class_means, cosines, product
from fewshot.ops.tasks import Params, map_tasks, model_features


class Transfer(Algorithm):
    auto_precision = "bf16"

    def __init__(
        self, backbone: nn.Module, *, train_classes: int, stream: Minibatches, head: str, scale: float,
        adapt: str, adapt_steps: int, adapt_lr: float, weight_decay: float, label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_choice("algorithm.head", head, ("linear", "cosine"))
        check_choice("algorithm.adapt", adapt, ("head", "all"))
        check_least("algorithm", 0, adapt_steps=adapt_steps, adapt_lr=adapt_lr)
        check_share("algorithm", label_smoothing=label_smoothing)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.classifier = nn.Linear(backbone.out_features, train_classes)  # type: ignore[arg-type]
        self.classifier.bias.requires_grad_(head == "linear")  # cosines have none
        self.stream, self.head, self.scale, self.adapted = stream, head, scale, adapt
        self.fixed_features = adapt == "head"
        self.adapt_steps, self.adapt_lr, self.weight_decay = adapt_steps, adapt_lr, weight_decay
        self.label_smoothing = label_smoothing
        if adapt == "all":
            norm.refuse_tracking(backbone)
        self.shapes = {f"backbone.{n}": p.shape for n, p in backbone.named_parameters()}
        self.shapes |= {"weight": torch.Size((1, 1)), "bias": torch.Size((1,))}

    def scores(self, z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """[M, D], [N, D], [N] -> [M, N], in the precision of the head whatever the backbone's."""
        z = z.to(weight.dtype)
        return cosines(z, weight) * self.scale if self.head == "cosine" else product(z, weight.mT) + bias

    def forward(self, batch: Batch) -> StepOutput:
        assert isinstance(batch, Minibatch)
        logits = self.scores(self.backbone(batch.x), self.classifier.weight, self.classifier.bias)
        return StepOutput(cross_entropy(logits, batch.y, label_smoothing=self.label_smoothing), logits)

    def support_loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """(1) or (2) for one task; x [N*K, D] embeddings or [N*K, C, H, W] images."""
        decay = self.weight_decay / 2 * params["weight"].square().sum()
        return cross_entropy(self.task_logits(params, x), y) + decay

    def task_logits(self, params: Params, x: Tensor) -> Tensor:
        z = model_features(self.backbone, params, x) if self.adapted == "all" else x
        return self.scores(z, params["weight"], params["bias"])

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Params:
        z = embed(self.backbone, support_x)  # [T, N*K, D]
        weight = class_means(z, support_y, ways) if self.head == "cosine" else z.new_zeros(len(z), ways, z.shape[-1])
        params = {"weight": weight, "bias": z.new_zeros(len(z), ways)}
        if self.adapted == "all":
            params |= {f"backbone.{n}": p.detach() for n, p in self.backbone.named_parameters()}
        inputs = support_x if self.adapted == "all" else z
        with torch.autocast(z.device.type, enabled=False):  # a support set is fitted in full precision
            for _ in range(self.adapt_steps):
                g = map_tasks(grad(self.support_loss), params, self.shapes, inputs, support_y)
                params = {name: p - self.adapt_lr * g[name] for name, p in params.items()}
        return params

    def predict(self, state: Params, query_x: Tensor) -> Tensor:
        inputs = query_x if self.adapted == "all" else embed(self.backbone, query_x)
        return map_tasks(self.task_logits, state, self.shapes, inputs)

    def features(self, state: Params, x: Tensor) -> Tensor:
        if self.adapted == "head":
            return embed(self.backbone, x)
        return map_tasks(lambda p, x: model_features(self.backbone, p, x), state, self.shapes, x)

    def protocol(self) -> dict[str, Any]:
        return {"norm_statistics": "running", "inner_steps_eval": self.adapt_steps, "head": self.head,
                "adapt": self.adapted}  # fmt: skip
