"""Normalisation that stays right under `vmap` with per-task weights. Layer 0.

PyTorch's fused batch, layer and instance norm with affine weights give a wrong second-order gradient when
`vmap` maps over those weights (float64: 5.4, 4.5 and 7.2 % off in the layer before). Without the affine
arguments they are right, so the layers here normalise first and then scale and shift. `group_norm` is right
as it is. `fewshot check` finds the fused ones in any model; `convert` replaces them.

Batch norm here can also be told where its statistics come from (`statistics_from`) and can record what it
saw (`recording`): MAML's `norm_statistics` is built on the two.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.errors import InputError
from fewshot.ops.batch_norm import batch_norm
from fewshot.ops.conv import Conv2d


class BatchNorm(nn.Module):
    """Batch norm over all axes but the channels of [B, C] or [B, C, H, W].

    `statistics`: None follows train/eval as usual; "batch" always uses the batch at hand; "stored" always
    uses the buffers. Only the usual training mode updates the buffers (momentum 0.1, unbiased variance,
    as torch.nn.BatchNorm2d does); it is the fused one and not for `vmap`, where "batch" is right.
    """

    statistics: str | None = None
    recorded: list[tuple[Tensor, Tensor]] | None = None
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, *, eps: float = 1e-5, momentum: float = 0.1, scale: bool = True, shift: bool = True
    ) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels)) if scale else None
        self.bias = nn.Parameter(torch.zeros(channels)) if shift else None
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.recorded is not None:
            axes = [0, *range(2, x.ndim)]
            var, mean = torch.var_mean(x.to(self.running_var.dtype), axes, correction=0)
            self.recorded.append((mean, var))
        weight, bias = self.weight, self.bias
        if self.statistics == "stored":  # written out: the support set's statistics are differentiated, too
            return scale_and_shift(x, *self._affine(self.running_mean, self.running_var))
        if self.statistics == "batch":
            return batch_norm(x, weight, bias, self.eps)
        # not mapped over tasks while it trains, so scale and shift may go along in PyTorch's one pass
        fused = weight, (None if weight is None else bias)  # a shift alone fails in second order
        y = F.batch_norm(
            x, self.running_mean, self.running_var, *fused, self.training, momentum=self.momentum, eps=self.eps
        )
        return scale_and_shift(y, None, bias if weight is None else None)

    def folded(self, conv: Conv2d, x: Tensor) -> tuple[Tensor, Tensor]:
        """Kernel, like conv's, and shift [C] of the one convolution of x that conv and this layer come to.

        conv has neither bias nor groups nor dilation. Not for `vmap` where buffers move, as `forward`.
        """
        mean, var = self.running_mean, self.running_var
        stored = self.statistics == "stored" or (self.statistics is None and not self.training)
        if not stored or self.recorded is not None:
            *seen, n = _statistics_from_patches(conv, x)
            if self.recorded is not None:
                self.recorded.append((seen[0], seen[1]))
            if self.statistics is None and self.training:
                if n < 2:
                    raise ValueError(f"Expected more than 1 value per channel when training, got {n}")
                with torch.no_grad():
                    mean.lerp_(seen[0], self.momentum)
                    var.lerp_(seen[1] * n / (n - 1), self.momentum)
            if not stored:
                mean, var = seen
        scale, shift = self._affine(mean, var)
        return conv.weight * scale.view(-1, 1, 1, 1), shift

    def _affine(self, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """The scale and the shift [C] of x that normalise it and apply weight and bias."""
        scale = (var + self.eps).rsqrt()
        scale = scale if self.weight is None else scale * self.weight
        shift = -mean * scale
        return scale, shift if self.bias is None else shift + self.bias

    def extra_repr(self) -> str:
        return f"{len(self.running_mean)}, eps={self.eps}, scale={self.weight is not None}"


def _statistics_from_patches(conv: Conv2d, x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and variance [C] of conv(x), and of how many values they are.

    Over the patches p of x a kernel w has mean w <p> and variance w Cov(p) w: for images of few channels a small
    matrix, and neither forward nor backward passes over the channels of conv(x).
    """
    with torch.autocast(x.device.type, enabled=False):
        w = conv.weight.flatten(1)  # [C, k]
        p = conv.patches(x.to(w.dtype))  # [B, k, positions]
        mean, n = p.mean((0, 2)), p[:, 0].numel()
        centred = p - mean.unsqueeze(1)
        covariance = (centred @ centred.mT).sum(0) / n  # image by image: one long sum loses three digits
        return w @ mean, (w @ covariance * w).sum(1).clamp(min=0), n


class LayerNorm(nn.Module):
    """torch.nn.LayerNorm, normalising first and scaling after."""

    def __init__(self, normalized_shape: tuple[int, ...], *, eps: float = 1e-5, shift: bool = True) -> None:
        super().__init__()
        self.normalized_shape, self.eps = tuple(normalized_shape), eps
        self.weight = nn.Parameter(torch.ones(self.normalized_shape))
        self.bias = nn.Parameter(torch.zeros(self.normalized_shape)) if shift else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x, self.normalized_shape, eps=self.eps) * self.weight
        return y if self.bias is None else y + self.bias


class InstanceNorm(nn.Module):
    """Instance norm of [B, C, H, W] with scale and shift; statistics of each image and channel."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        return scale_and_shift((x - mean) * (var + self.eps).rsqrt(), self.weight, self.bias)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": BatchNorm,
    "instance": InstanceNorm,
    "layer": lambda channels, eps=1e-5: nn.GroupNorm(1, channels, eps=eps),  # over C, H, W; affine per channel
    "group": lambda channels, eps=1e-5: nn.GroupNorm(min(8, channels), channels, eps=eps),
    "none": lambda channels, eps=0.0: nn.Identity(),
}


def scale_and_shift(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x * weight + bias per channel (axis 1); None leaves one out."""
    shape = (-1,) + (1,) * (x.ndim - 2)
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def batch_norms(module: nn.Module) -> dict[str, BatchNorm]:
    """The batch norms of a network by name."""
    return {name: m for name, m in module.named_modules() if isinstance(m, BatchNorm)}


@contextlib.contextmanager
def statistics_from(module: nn.Module, source: str | None) -> Iterator[None]:
    """All batch norms of `module` take their statistics from "batch" or "stored" inside the block."""
    norms = batch_norms(module).values()
    before = [m.statistics for m in norms]
    for m in norms:
        m.statistics = source
    try:
        yield
    finally:
        for m, old in zip(norms, before, strict=True):
            m.statistics = old


@contextlib.contextmanager
def recording(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects, as buffers by name, the statistics that each batch norm saw in the block's one forward."""
    norms, seen = batch_norms(module), dict[str, Tensor]()
    for m in norms.values():
        m.recorded = []
    try:
        yield seen
        for name, m in norms.items():
            for mean, var in m.recorded or ():
                seen[f"{name}.running_mean"], seen[f"{name}.running_var"] = mean, var
    finally:
        for m in norms.values():
            m.recorded = None


def convert(module: nn.Module) -> nn.Module:
    """Replace PyTorch's fused norm layers by the ones here, weights and statistics kept; returns the module.

    A subclass with a forward of its own stays as it is; `fewshot check` names it where that is at fault.
    """
    for name, child in module.named_children():
        new = _counterpart(child)
        if new is None:
            convert(child)
        else:
            for key, tensor in [*child.named_parameters(), *child.named_buffers()]:
                if key != "num_batches_tracked":
                    setattr(new, key, tensor)  # the very tensors: type, device and requires_grad stay
            setattr(module, name, new.train(child.training))
    return module


def _counterpart(layer: nn.Module) -> nn.Module | None:
    """The layer here that computes what a layer of PyTorch does; None where there is no need or no such layer."""
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d):
        rest = {"scale": layer.affine, "shift": layer.affine}
        new = BatchNorm(layer.num_features, eps=layer.eps, momentum=layer.momentum or 0.1, **rest)
        new.statistics = None if layer.track_running_stats else "batch"
        return new
    if type(layer) is nn.InstanceNorm2d and layer.affine and not layer.track_running_stats:
        return InstanceNorm(layer.num_features, eps=layer.eps)
    kind = {"LayerNorm": LayerNorm, "LayerNorm2d": _ChannelsFirst}.get(type(layer).__name__)
    if kind and isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
        return kind(tuple(layer.normalized_shape), eps=layer.eps, shift=layer.bias is not None)
    return None


class _ChannelsFirst(LayerNorm):
    """torchvision's and timm's LayerNorm2d: over the channels of [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def update_running(module: nn.Module, seen: Sequence[dict[str, Tensor]]) -> None:
    """Move the buffers towards the mean over tasks of recorded statistics; names as `backbone.<layer>.<buffer>`.

    seen: one [T, channels] per buffer for each chunk of tasks; together they are one step of the average.
    """
    with torch.no_grad():
        for name, layer in batch_norms(module).items() if seen else ():
            for buffer in ("running_mean", "running_var"):
                value = torch.cat([chunk[f"backbone.{name}.{buffer}"] for chunk in seen]).mean(0)  # [channels]
                getattr(layer, buffer).lerp_(value, layer.momentum)


_FUSED = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.InstanceNorm2d)


def norm_parameters(module: nn.Module) -> list[str]:
    """Names of the parameters of all norm layers."""
    kinds = (BatchNorm, LayerNorm, InstanceNorm, nn.GroupNorm, *_FUSED)
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, kinds)]
    return [f"{name}.{p}" for name, m in layers for p, _ in m.named_parameters()]


def tracking(module: nn.Module) -> dict[str, nn.Module]:
    """PyTorch's layers that write running statistics in place, by name: they cannot be mapped over tasks."""
    fused = nn.modules.batchnorm._NormBase
    return {name: m for name, m in module.named_modules() if isinstance(m, fused) and m.track_running_stats}


def refuse_tracking(module: nn.Module) -> None:
    """InputError for the first of these layers."""
    for name, m in tracking(module).items():
        raise InputError(
            f"backbone layer '{name}' is torch.nn.{type(m).__name__}, whose running statistics cannot be "
            f"kept per task; use fewshot.ops.norm.BatchNorm, or fewshot.ops.norm.convert(net) for all layers"
        )


def stop_tracking(module: nn.Module) -> None:
    """These layers normalise with the batch at hand from now on; they have no buffers any more."""
    for m in tracking(module).values():
        m.track_running_stats, m.running_mean, m.running_var = False, None, None  # type: ignore[assignment]
