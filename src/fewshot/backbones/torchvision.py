"""Any classification model of torchvision as an embedding, with or without its trained weights. Layer 1."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fewshot.errors import InputError, first_line
from fewshot.ops.norm import convert


class TorchvisionBackbone(nn.Module):
    """[B, C, H, W] float32 in [0, 1] -> [B, out_features].

    model: a name of torchvision.models, such as resnet18. Its last linear layer is taken off (heads belong to
    the algorithms); grey images are repeated to three channels; images are normalised with ImageNet's mean
    and deviation (https://docs.pytorch.org/vision/stable/models.html) and, where `size` is set, resized.
    weights: none | default (torchvision downloads them) | the path of a state dict.
    Fused norm layers are replaced by those of `ops.norm`, which are right under vmap, and stochastic depth by
    one that draws for each task.
    """

    normalizes = True  # no other normalisation comes before it
    mean: Tensor
    std: Tensor

    def __init__(self, image_shape: Sequence[int], *, model: str, weights: str, size: int | None) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        self.network = convert(_drawing_per_task(_without_head(_build(model, weights))))
        shape = (image_shape[0], size or image_shape[1], size or image_shape[2])
        try:
            with torch.no_grad():
                self.out_features = self.eval()(torch.zeros(1, *shape)).shape[1]
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"{model} cannot take images of {shape[1]}x{shape[2]} ({error}); set backbone.size, e.g. 224"
            ) from error
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.std
        return self.network(x).flatten(1)


def _build(name: str, weights: str) -> nn.Module:
    import torchvision.models as models  # late: 1.2 s
    from torchvision.models import list_models

    names = list_models(module=models)
    if name not in names:
        import difflib

        near = ", ".join(difflib.get_close_matches(name, names)) or "resnet18, convnext_tiny, ..."
        raise InputError(f"backbone.model={name} is not in torchvision; near it: {near}")
    if weights == "default":
        try:
            return models.get_model(name, weights="DEFAULT")
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot fetch torchvision's weights of {name} ({error}); download them elsewhere and set "
                f"backbone.weights=/path/to/{name}.pth, or backbone.weights=none"
            ) from error
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, **extra)
    if weights != "none":
        if not Path(weights).is_file():
            raise InputError(f"backbone.weights={weights} is not a file; use none, default or a state dict's path")
        try:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:
            raise InputError(f"{weights} is not a state dict of {name}: {first_line(error)}") from error
    return network


class StochasticDepth(nn.Module):
    """torchvision's layer, whose in-place draw vmap refuses: drops a branch for a row, or the batch, with p."""

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        rows = len(x) if self.mode == "row" else 1
        kept = x.new_empty(rows, *[1] * (x.ndim - 1)).bernoulli_(1 - self.p)  # new_empty: one for each task
        return x * kept / max(1 - self.p, 1e-12)  # p = 1 keeps none


def _drawing_per_task(network: nn.Module) -> nn.Module:
    from torchvision.ops import StochasticDepth as Torchvisions

    for name, layer in list(network.named_modules()):
        if isinstance(layer, Torchvisions):
            network.set_submodule(name, StochasticDepth(layer.p, layer.mode))
    return network


def _without_head(network: nn.Module) -> nn.Module:
    """Replace the network's last linear layer by nothing."""
    linear = [name for name, m in network.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise InputError(f"{type(network).__name__} has no linear head to take off; it cannot serve as a backbone")
    network.set_submodule(linear[-1], nn.Identity())
    for name in ("AuxLogits", "aux1", "aux2"):  # heads of inception nets, used in training only
        if getattr(network, name, None) is not None:
            setattr(network, name, None)
            network.aux_logits = False  # type: ignore[assignment]
    return network
