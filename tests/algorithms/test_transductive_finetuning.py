"""Transductive fine-tuning against a copy of the network per task and torch.optim.Adam."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.algorithms.transductive_finetuning import TransductiveFinetuning
from fewshot.backbones.conv4 import Conv4
from fewshot.episode import Minibatches
from fewshot.errors import InputError

WAYS, SHOTS, QUERIES, TASKS = 3, 2, 4, 2


def conv4() -> Conv4:
    options: dict[str, Any] = {"norm": "batch", "norm_scale": True, "norm_eps": 1e-5, "activation": nn.Tanh()}
    return Conv4((1, 8, 8), filters=4, blocks=2, downsampling="stride", readout="flatten", **options)


def finetuning(backbone: nn.Module | None = None, **options: Any) -> TransductiveFinetuning:
    defaults: dict[str, Any] = {"train_classes": 6, "stream": Minibatches(batch_size=8), "steps": 5, "lr": 0.01}
    model = TransductiveFinetuning(backbone or conv4(), **(defaults | options)).double().eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return model


def images() -> tuple[Tensor, Tensor, Tensor]:
    y = torch.arange(WAYS).repeat_interleave(SHOTS).repeat(TASKS, 1)
    shape = (1, 8, 8)
    x = torch.rand(TASKS, WAYS * SHOTS, *shape, dtype=torch.float64)
    return x, y, torch.rand(TASKS, WAYS * QUERIES, *shape, dtype=torch.float64)


def tuned(model: TransductiveFinetuning, x: Tensor, y: Tensor, query: Tensor) -> Tensor:
    """(1) to (3) for one task, with a network of its own."""
    body = copy.deepcopy(nn.Sequential(model.backbone, model.classifier, nn.ReLU()))
    with torch.no_grad():
        means = torch.stack([body(x)[y == k].mean(0) for k in range(WAYS)])
    head = nn.Linear(6, WAYS).double()
    head.weight.data.copy_(means / means.norm(dim=1, keepdim=True))
    head.bias.data.zero_()
    optimiser = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.01)

    def logits(x: Tensor) -> Tensor:
        z = body(x)
        return head(z / z.norm(dim=1, keepdim=True).clamp(min=1e-12))

    for _ in range(5):
        optimiser.zero_grad()
        F.cross_entropy(logits(x), y).backward()
        optimiser.step()
        optimiser.zero_grad()
        p = logits(query).softmax(-1)
        (-(p * p.log()).sum(-1).mean()).backward()
        optimiser.step()
    return logits(query).detach()


def test_it_is_adam_on_a_network_per_task() -> None:
    model, (x, y, query) = finetuning(), images()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        ours = model.predict(model.adapt(x, y, ways=WAYS), query)
    for t in range(TASKS):
        torch.testing.assert_close(ours[t], tuned(model, x[t], y[t], query[t]), rtol=0, atol=1e-7)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the shared network moved"


def test_without_steps_it_is_the_support_based_initialisation() -> None:
    model, (x, y, query) = finetuning(steps=0), images()
    scores = [
        model.classifier(model.backbone(image.flatten(0, 1))).relu().unflatten(0, image.shape[:2])
        for image in (x, query)
    ]
    means = torch.stack([scores[0][:, y[0] == k].mean(1) for k in range(WAYS)], 1)
    expected = F.normalize(scores[1], dim=-1) @ F.normalize(means, dim=-1).mT
    torch.testing.assert_close(model.predict(model.adapt(x, y, ways=WAYS), query), expected)


def test_queries_grow_more_certain() -> None:
    x, y, query = images()

    def entropy(steps: int) -> Tensor:
        torch.manual_seed(0)
        model = finetuning(steps=steps)
        p = model.predict(model.adapt(x, y, ways=WAYS), query).softmax(-1)
        return -(p * p.log()).sum(-1).mean()

    assert entropy(20) < entropy(0)


def test_what_cannot_be_kept_per_task_is_refused() -> None:
    class Tracking(nn.Module):
        out_features = 4

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

    with pytest.raises(InputError, match=r"BatchNorm2d, whose running statistics cannot be"):
        finetuning(Tracking())
    with pytest.raises(InputError, match=r"steps=-1 is below 0"):
        finetuning(steps=-1)
