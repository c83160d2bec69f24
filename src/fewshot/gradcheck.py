"""Is the meta-gradient right? All tasks at once against each task alone, in float64. Layer 3.

The other side is a plain loop: `torch.autograd.grad(create_graph=True)` for one task after the other, no vmap.
"""

import copy
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy

from fewshot.algorithms.maml import MAML
from fewshot.episode import Episode
from fewshot.ops import norm
from fewshot.ops.tasks import Params, map_tasks, model_logits
from fewshot.sizes import largest

TOLERANCE = 1e-9
INNER_LR = 0.1  # large enough that second-order terms matter


class FaultyLayer(NamedTuple):
    """A layer whose own second-order gradient differs under vmap."""

    layer: str
    kind: str
    difference: float


def random_episode(maml: MAML, image_shape: tuple[int, ...], tasks: int, shots: int = 2, queries: int = 2) -> Episode:
    """Noise images: no two activations tie, so that max pooling and ReLU choose alike on both sides."""
    ways = largest(maml.stream.ways)  # type: ignore[union-attr]
    noise = torch.Generator().manual_seed(0)
    labels = torch.arange(ways)

    def images(n: int) -> Tensor:
        return torch.rand(tasks, ways * n, *image_shape, generator=noise, dtype=torch.float64)

    return Episode(
        images(shots), labels.repeat_interleave(shots).repeat(tasks, 1),
        images(queries), labels.repeat_interleave(queries).repeat(tasks, 1), labels.repeat(tasks, 1),
    )  # fmt: skip


def loop_loss(maml: MAML, batch: Episode) -> Tensor:
    """MAML's outer loss with norm_statistics=batch, one task after the other."""
    losses = []
    for support_x, support_y, query_x, query_y in zip(*batch[:4], strict=True):
        start = maml.start(support_x[None], support_y[None], batch.ways)
        params = {n: p[0] if p.ndim > len(maml.network.shapes[n]) else p for n, p in start.items()}
        directed = maml.direction()
        for step in range(maml.inner_steps):
            fast = {name: params[name] for name in maml.adapted}
            fast = {name: p if p.requires_grad else p.requires_grad_() for name, p in fast.items()}  # a zero head
            loss = maml.support_loss(params | fast, support_x, support_y)
            gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=not maml.first_order)
            d = directed({name: g[None] for name, g in zip(fast, gradients, strict=True)})
            params = params | {name: p - maml.rates(name, step) * d[name][0] for name, p in fast.items()}
        losses.append(cross_entropy(model_logits(maml.backbone, params, query_x), query_y))
    return torch.stack(losses).mean()


def differences(ours: Mapping[str, Tensor | None], theirs: Mapping[str, Tensor | None]) -> dict[str, float]:
    """|difference| / max(|g of the tensor|, 1e-3 |g of all|) per tensor: a bias before a norm has a true
    gradient of 0, for which its own relative error would mean nothing."""
    filled = {n: torch.zeros(1, dtype=torch.float64) if g is None else g for n, g in theirs.items()}
    whole = torch.stack([g.norm() for g in filled.values()]).norm()
    return {
        name: float((g if (own := ours[name]) is None else own - g).norm() / torch.maximum(g.norm(), 1e-3 * whole))
        for name, g in filled.items()
    }


def meta_gradient_differences(maml: MAML, batch: Episode) -> dict[str, float]:
    """Per parameter tensor: the meta-gradient of all tasks at once against the loop. Expects float64."""
    maml.train()
    maml.backbone.eval()  # no dropout, which would draw twice; norms are told their statistics below
    named = dict(maml.named_parameters())
    at_once = torch.autograd.grad(maml(batch).loss, list(named.values()), allow_unused=True)
    with norm.statistics_from(maml.backbone, "batch"):
        one_by_one = torch.autograd.grad(loop_loss(maml, batch), list(named.values()), allow_unused=True)
    return differences(dict(zip(named, at_once, strict=True)), dict(zip(named, one_by_one, strict=True)))


def faulty_layers(backbone: nn.Module, x: Tensor, tasks: int = 2) -> list[FaultyLayer]:
    """Each leaf layer on its own, with the input that it has inside the network; x [M, C, H, W] float64."""
    inputs: dict[str, Tensor] = {}
    leaves = {n: m for n, m in backbone.named_modules() if not list(m.children())}

    def remember(name: str, seen: Tensor) -> None:
        inputs.setdefault(name, seen.detach())

    hooks = [m.register_forward_pre_hook(lambda _, args, name=n: remember(name, args[0])) for n, m in leaves.items()]
    with torch.no_grad():
        backbone(x)
    for hook in hooks:
        hook.remove()
    faults = []
    for name, layer in leaves.items():
        if name in inputs and list(layer.parameters()):
            worst = _layer_difference(layer, inputs[name], tasks)
            if worst > TOLERANCE:
                faults.append(FaultyLayer(name, f"{type(layer).__module__}.{type(layer).__name__}", worst))
    return faults


def _layer_difference(layer: nn.Module, x: Tensor, tasks: int) -> float:
    """Two inner steps on the layer's weights and on a shift of its input, then a loss, both ways."""
    noise = torch.Generator().manual_seed(1)
    inputs = x + 0.1 * torch.randn(tasks, *x.shape, generator=noise, dtype=x.dtype)
    with torch.no_grad():
        weights = torch.randn(layer(x).shape, generator=noise, dtype=x.dtype)
    start = {n: p.detach().clone().requires_grad_() for n, p in layer.named_parameters()}
    start["shift"] = torch.zeros_like(x[:1]).requires_grad_()
    shapes = {n: p.shape for n, p in start.items()}

    def loss(params: Params, x: Tensor) -> Tensor:
        own = {n: p for n, p in params.items() if n != "shift"}
        return (functional_call(layer, own, (x + params["shift"],)) * weights).sin().sum()

    def vmapped() -> Tensor:
        params: Params = dict(start)
        for _ in range(2):
            g = map_tasks(grad(loss), params, shapes, inputs)
            params = {n: p - INNER_LR * g[n] for n, p in params.items()}
        return map_tasks(loss, params, shapes, inputs).sum()

    def looped() -> Tensor:
        total = torch.zeros((), dtype=x.dtype)
        for one in inputs:
            params: Params = dict(start)
            for _ in range(2):
                g = torch.autograd.grad(loss(params, one), list(params.values()), create_graph=True)
                params = {n: p - INNER_LR * d for (n, p), d in zip(params.items(), g, strict=True)}
            total = total + loss(params, one)
        return total

    ours, theirs = (torch.autograd.grad(f(), list(start.values())) for f in (vmapped, looped))
    return max(differences(dict(zip(start, ours, strict=True)), dict(zip(start, theirs, strict=True))).values())


def as_maml(backbone: nn.Module, *, first_order: bool = False, ways: int = 3) -> MAML:
    """A backbone in float64 under plain MAML with two inner steps, for checking it whatever the algorithm."""
    from fewshot.episode import Episodes

    stream = Episodes(tasks=2, ways=ways, shots=2, queries=2)
    return MAML(
        copy.deepcopy(backbone).double(), ways=ways, stream=stream, inner_lr=INNER_LR, inner_rate="fixed",
        inner_steps=2, eval_inner_steps=2, first_order=first_order, adapt="all", adapt_norm=True,
        loss_reduction="mean", norm_statistics="batch", head_init="default", task_chunk=None, checkpoint_inner=False,
    ).double()  # fmt: skip
