"""timm's models as embeddings, without downloads: its smallest networks, and three families by architecture.

The import of timm takes two seconds, which only the process that runs these tests should spend.
"""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from fewshot.backbones.timm import TimmBackbone
from fewshot.errors import InputError

SMALL = "test_convnext"


def backbone(model: str = SMALL, *, weights: str = "none", size: int | None = None) -> TimmBackbone:
    return TimmBackbone(model=model, weights=weights, size=size)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    import timm

    return timm.create_model(SMALL).state_dict()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_gives_timms_own_numbers(tmp_path: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
    import timm

    file = tmp_path / f"net{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(state, file)
    net = backbone(weights=str(file)).eval()
    theirs = timm.create_model(SMALL, num_classes=0).eval()
    theirs.load_state_dict({key: value for key, value in state.items() if not key.startswith("head.fc")})
    x = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        z = net(x)
        torch.testing.assert_close(z, theirs((x - 0.5) / 0.5))  # this model's mean and deviation
    assert z.shape == (2, net.out_features)


def test_size_resize_and_interpolation_are_the_models() -> None:
    net = backbone()
    assert (net.input.size, net.input.resize, net.input.interpolation) == (160, 168, "bicubic")  # crop_pct 0.95
    small = backbone("test_vit", size=64)
    assert (small.input.size, small(torch.rand(1, 1, 30, 40)).shape) == (64, (1, 64))
    assert net.training


def test_every_weight_has_its_place_and_every_place_its_weight(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    state["stem.0.bias2"] = state.pop("stem.0.bias")
    torch.save(state, tmp_path / "net.pth")
    message = r"net.pth do not fit ConvNeXt: 1 missing \(stem.0.bias\); 1 left over \(stem.0.bias2\)"
    with pytest.raises(InputError, match=message):
        backbone(weights=str(tmp_path / "net.pth"))


def test_a_weight_of_another_shape_is_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    state["stem.0.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"1 of another shape \(stem.0.bias\)"):
        backbone(weights=str(tmp_path / "net.pth"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "test_convnet"}, "backbone.model=test_convnet is not in timm; near it: test_convnext"),
        ({"weights": "nowhere.pth"}, "backbone.weights=nowhere.pth is not a file; use none, default or"),
        ({"size": 0}, "backbone.size=0 is below 1"),
        ({"model": "test_vit", "size": 61}, "backbone.size=61 does not fit test_vit: .* divisible by patch size"),
    ],
)
def test_what_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        backbone(**options)


def test_a_file_that_is_no_state_dict(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match=r"text.pth is not a state dict of ConvNeXt") as raised:
        backbone(weights=str(tmp_path / "text.pth"))
    assert "\n" not in str(raised.value)


def test_no_network_says_where_to_put_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, *, pretrained: bool, **options: object) -> None:
        assert pretrained
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(InputError, match=rf"cannot fetch timm's weights of {SMALL} \(no route to host\); download"):
        backbone(weights="default")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size", "width"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 98, 384),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 98, 384),
        ("vit_base_patch16_clip_224.openai", None, 768),
        ("convnext_atto.d2_in1k", None, 320),
    ],
)
def test_families_by_architecture(model: str, size: int | None, width: int) -> None:
    net = backbone(model, size=size).eval()
    with torch.no_grad():
        z = net(torch.rand(2, 3, 50, 60))
    assert z.shape == (2, width)
    assert z.isfinite().all()
