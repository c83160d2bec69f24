"""Many tasks as one tensor program. Layer 0."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fewshot.errors import InputError

Params = dict[str, Tensor]


def map_tasks(function: Callable[..., Any], params: Params, shapes: Mapping[str, torch.Size], *each: Tensor) -> Any:
    """`function(params, *one_tasks_tensors)` for all T tasks at once.

    params: by name, of its own shape in `shapes` where all tasks share it, or [T, *shape] where each has its
    own; shared ones stay shared, so that a first inner step folds the tasks into one convolution.
    each: [T, ...] tensors. Results are stacked along a new first axis.
    """
    axes = {name: 0 if p.ndim > len(shapes[name]) else None for name, p in params.items()}
    return vmap(function, in_dims=(axes, *[0] * len(each)), randomness="different")(params, *each)


def model_features(backbone: nn.Module, params: Params, x: Tensor) -> Tensor:
    """One task's embeddings, x [M, C, H, W] -> [M, D].

    params: `backbone.*` (parameters, and buffers where they are to replace the module's own) among others.
    """
    own = {n.removeprefix("backbone."): p for n, p in params.items() if n.startswith("backbone.")}
    z = functional_call(backbone, own, (x,))
    check_embeddings(backbone, z, x)
    return z


def check_embeddings(backbone: nn.Module, z: Any, x: Tensor) -> None:
    """InputError unless z is one embedding for each image of x: [B, out_features], or a map [B, ...] of features."""
    width = getattr(backbone, "out_features", None)
    found = tuple(z.shape) if isinstance(z, Tensor) else f"({type(z).__name__})"
    if (
        not isinstance(z, Tensor)
        or not z.is_floating_point()
        or z.ndim < 2
        or z.shape[0] != x.shape[0]  # no len(): torch.export would take it for a constant
        or (z.ndim == 2 and z.shape[1] != (width or z.shape[1]))
    ):
        raise InputError(
            f"backbone {type(backbone).__name__} gave {found} for images {tuple(x.shape)}; expected "
            f"({len(x)}, {width or 'out_features'}), one embedding for each"
        )


def model_logits(backbone: nn.Module, params: Params, x: Tensor) -> Tensor:
    """One task's linear classifier on a backbone, x [M, C, H, W] -> [M, N].

    params: as for `model_features`, `head.weight` [N, D] and `head.bias` [N].
    """
    z = model_features(backbone, params, x)  # [M, D]
    return nn.functional.linear(z, params["head.weight"], params["head.bias"])


class Recomputed:
    """Calls `function(params, *each) -> Params`; what it computes on the way is not kept for the backward pass.

    Kept is what goes in, and the backward pass computes the rest once more: memory for time. Gradients are those
    of the plain call, as far as `function` takes all that is differentiated as arguments; how `function` behaves
    (train or eval, say) must not change in between, autocast included. Without grad mode it is the plain call.
    torch.utils.checkpoint cannot do it: around `torch.func.grad` one kind of it raises, and the other one
    refuses `torch.autograd.grad`, which task chunks need.

    What was drawn (dropout) is drawn again alike. A CUDA graph cannot do that: while one is captured, a function
    that has drawn before raises RuntimeError (and `engine.capture` lets the step run as it is).
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled, self.draws = enabled, False

    def __call__(self, function: Callable[..., Params], params: Params, *each: Tensor) -> Params:
        if not (self.enabled and torch.is_grad_enabled()):
            return function(params, *each)
        names, made = list(params), list[str]()

        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            found = function(dict(zip(names, tensors, strict=False)), *tensors[len(names) :])
            made[:] = found
            return tuple(found.values())

        results = _Recompute.apply(self, flat, *params.values(), *each)
        return dict(zip(made, results, strict=True))


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, owner: Recomputed, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.function, ctx.devices = function, [tensors[0].device] if tensors[0].is_cuda else []
        ctx.save_for_backward(*tensors)
        if _capturing(tensors[0]):
            if owner.draws:
                raise RuntimeError("checkpoint_inner has to draw its dropout twice alike")
            ctx.states = []
            return function(*tensors)
        before = _generator_states(ctx.devices)
        results = function(*tensors)
        after = _generator_states(ctx.devices)
        drew = any(a.numpy().tobytes() != b.numpy().tobytes() for a, b in zip(before, after, strict=True))
        owner.draws |= drew
        ctx.states = before if drew else []
        return results

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("checkpoint_inner has no second outer derivative: no create_graph=True")
        needed = ctx.needs_input_grad[2:]
        inputs = [t.detach().requires_grad_(n) for t, n in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad(), torch.random.fork_rng(ctx.devices, enabled=bool(ctx.states)):
            _restore_generators(ctx.states, ctx.devices)
            results = ctx.function(*inputs)
        varying = [i for i, r in enumerate(results) if r.requires_grad]  # not the gradient of an unused weight
        if not varying:
            return (None,) * len(ctx.needs_input_grad)
        outputs, given = ([ts[i] for i in varying] for ts in (results, grad_outputs))
        found = iter(torch.autograd.grad(outputs, [t for t in inputs if t.requires_grad], given, allow_unused=True))
        return None, None, *[next(found) if n else None for n in needed]


def _capturing(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


def _generator_states(devices: Sequence[torch.device]) -> list[Tensor]:
    """Of the CPU and of `devices`; all lie on the CPU."""
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


def _restore_generators(states: Sequence[Tensor], devices: Sequence[torch.device]) -> None:
    if states:
        torch.set_rng_state(states[0])
        for state, device in zip(states[1:], devices, strict=True):
            torch.cuda.set_rng_state(state, device)


class _Accumulated(torch.autograd.Function):
    """A loss whose gradients are known already; backward hands them out."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: Sequence[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        return None, None, *[None if g is None else g * grad_outputs[0] for g in ctx.gradients]


def accumulated(losses: Sequence[Callable[[], Tensor]], parameters: Sequence[Tensor]) -> Tensor:
    """The sum of `losses`, each differentiated and freed before the next is computed.

    Memory is that of one chunk of tasks; `.backward()` works as it does on an ordinary loss.
    """
    total = parameters[0].new_zeros(())
    sums: list[Tensor | None] = [None] * len(parameters)
    for make in losses:
        loss = make()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        sums = [s if g is None else g if s is None else s + g for s, g in zip(sums, gradients, strict=True)]
        total = total + loss.detach()
    return _Accumulated.apply(total, sums, *parameters)
