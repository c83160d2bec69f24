"""Any image model of the package timm as an embedding: DINOv2, CLIP's image towers, ConvNeXt, ... Layer 1.

https://github.com/huggingface/pytorch-image-models. Size, interpolation, mean and deviation are the model's own.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fewshot.backbones.image_input import ImageInput, package
from fewshot.errors import InputError, first_line
from fewshot.ops.norm import convert


class TimmBackbone(nn.Module):
    """[B, 1 or 3, H, W] float32 in [0, 1] -> [B, out_features], pooled as the model does it before its head.

    model: a name of timm, such as vit_small_patch14_dinov2.lvd142m. weights: default (timm downloads them) |
    none | a file with a state dict (.safetensors, .pth). Every weight of the network must be in the file, and
    every entry of the file must have its place; only the classifier may be missing or left over.
    size: side of the images; null takes the model's own. Images of another size are resized.
    Raises InputError for an unknown model, weights that do not fit, and a missing package.
    """

    normalizes = True  # no other normalisation comes before it

    def __init__(self, *, model: str, weights: str, size: int | None) -> None:
        super().__init__()
        network = _build(model, weights, size)
        data = package("timm.data", "timm", "timm").resolve_model_data_config(network)
        own = data["input_size"][-1] if size is None else size
        self.network = convert(network)
        self.input = ImageInput(
            size=own, resize=round(own / data["crop_pct"]), interpolation=data["interpolation"],
            mean=data["mean"], std=data["std"],
        )  # fmt: skip
        try:
            with torch.no_grad():
                self.out_features = self.eval()(torch.zeros(1, 3, own, own)).shape[1]
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"backbone.size={own} does not fit {model}: {first_line(error)}") from error
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.input(x))


def _build(name: str, weights: str, size: int | None) -> nn.Module:
    """The network without its classifier."""
    timm = package("timm", "timm", "timm")
    options = {} if size is None else {"img_size": size}
    if not timm.is_model(name):
        import difflib

        near = ", ".join(difflib.get_close_matches(name, timm.list_models())) or "resnet18, convnext_tiny, ..."
        raise InputError(f"backbone.model={name} is not in timm; near it: {near}")
    if weights not in ("none", "default") and not Path(weights).is_file():
        raise InputError(f"backbone.weights={weights} is not a file; use none, default or a state dict's path")
    try:
        # the classifier stays until the weights are in: without it timm no longer compares the names
        network = timm.create_model(name, pretrained=weights == "default", **options)
    except TypeError:  # convolutional networks take any size and have no such parameter
        network = timm.create_model(name, pretrained=weights == "default")
    except Exception as error:
        if weights != "default":
            raise InputError(f"timm cannot make {name}: {first_line(error)}") from error
        raise InputError(
            f"cannot fetch timm's weights of {name} ({first_line(error)}); download them elsewhere and set "
            f"backbone.weights=/path/to/file.safetensors, or backbone.weights=none"
        ) from error
    classifier = network.pretrained_cfg["classifier"]
    network.reset_classifier(0)
    if weights not in ("none", "default"):
        load(network, Path(weights), classifier)
    return network


def load(network: nn.Module, path: Path, classifier: str | tuple[str, ...]) -> None:
    """Weights from a file into a network of timm; InputError that names each missing and left-over entry."""
    models = package("timm.models", "timm", "timm")
    try:
        found: Mapping[str, Tensor] = models.load_state_dict(str(path), weights_only=True)
        known = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        found = known(found, network) if known else found  # the names that the model's authors gave
    except Exception as error:
        raise InputError(f"{path} is not a state dict of {type(network).__name__}: {first_line(error)}") from error
    heads = (classifier,) if isinstance(classifier, str) else classifier
    heads = tuple(f"{head}." for head in heads)
    found = {key: value for key, value in found.items() if not key.startswith(heads)}
    wanted = network.state_dict()
    wrong = [
        f"{len(names)} {kind} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        for kind, names in (
            ("missing", [k for k in wanted if k not in found]),
            ("left over", [k for k in found if k not in wanted]),
            ("of another shape", [k for k in found if k in wanted and found[k].shape != wanted[k].shape]),
        )
        if names
    ]
    if wrong:
        raise InputError(f"the weights of {path} do not fit {type(network).__name__}: {'; '.join(wrong)}")
    network.load_state_dict(found)
