"""Each transform against its definition, torchvision's functions, and the distribution that it draws from."""

import math
from collections.abc import Sequence

import pytest
import torch
from composed import compose
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import RandomResizedCrop as RandomResizedCropOfTorchvision
from torchvision.transforms import v2

from fewshot import assemble
from fewshot.errors import InputError
from fewshot.ops import random
from fewshot.transforms import (
    Augment,
    CenterCrop,
    ColorJitter,
    QuarterTurn,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    Shift,
    Transform,
)

KEYS = random.mix(3, torch.arange(400))
EVERY = [
    QuarterTurn(), Shift(pixels=2), RandomCrop(padding=2), RandomCrop(padding=3, mode="reflect", size=7),
    RandomResizedCrop(size=6), RandomHorizontalFlip(), ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
    CenterCrop(size=5), Resize(size=5),
]  # fmt: skip


def noise(height: int = 8, width: int = 8, channels: int = 3, count: int = len(KEYS)) -> Tensor:
    return torch.rand(count, channels, height, width)


def chi_square(counts: Tensor) -> float:
    expected = counts.double().mean()
    return float(((counts - expected) ** 2 / expected).sum())


def places(images: Tensor, window: Tensor) -> list[tuple[int, int]]:
    """Where in each image [B, C, H, W] its window [B, C, h, w] is cut from; it must be exactly one place."""
    height, width = window.shape[2:]
    windows = images.unfold(2, height, 1).unfold(3, width, 1)  # [B, C, Y, X, h, w]
    found = (windows == window[:, :, None, None]).flatten(4).all(4).all(1)  # [B, Y, X]
    assert found.flatten(1).sum(1).eq(1).all()
    return [(y, x) for _, y, x in found.nonzero().tolist()]


@pytest.mark.parametrize("transform", EVERY, ids=str)
def test_an_image_is_changed_alike_in_whatever_batch(transform: Transform) -> None:
    images = noise(count=12)
    before = images.clone()
    together = transform(images, KEYS[:12])
    assert torch.equal(images, before)
    assert together.dtype == torch.float32 and together.min() >= 0 and together.max() <= 1
    for i in (0, 5, 11):
        alone = transform(images[i : i + 1], KEYS[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("transform", EVERY, ids=str)
def test_cuda_changes_alike_and_is_captured(transform: Transform) -> None:
    images, keys = noise(count=12).cuda(), KEYS[:12].cuda()
    torch.testing.assert_close(transform(images, keys).cpu(), transform(images.cpu(), KEYS[:12]), rtol=0, atol=2e-6)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = transform(images, keys)
    graph.replay()
    torch.testing.assert_close(captured, transform(images, keys), rtol=0, atol=2e-6)


def test_quarter_turns_are_rotations_and_equally_likely() -> None:
    images = noise()
    turned = QuarterTurn()(images, KEYS)
    turns = torch.stack([(images.rot90(r, (2, 3)) == turned).flatten(1).all(1) for r in range(4)])  # [4, B]
    assert turns.sum(0).eq(1).all()
    assert chi_square(turns.sum(1)) < 16.3  # 3 degrees of freedom: p = 1e-3


@pytest.mark.parametrize("pixels", [0, 1, 3])
def test_a_shifted_image_repeats_its_edge(pixels: int) -> None:
    images = noise(6, 7)
    found = places(pad(images, [pixels] * 4, mode="replicate"), Shift(pixels=pixels)(images, KEYS))
    assert set(found) == {(y, x) for y in range(2 * pixels + 1) for x in range(2 * pixels + 1)}


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize(("padding", "size"), [(2, None), (0, 5), (3, 8)])
def test_a_random_crop_is_a_window_of_the_padded_image(mode: str, padding: int, size: int | None) -> None:
    images = noise(6, 7)
    cut = RandomCrop(padding=padding, mode=mode, size=size)(images, KEYS)
    assert cut.shape[2:] == ((size or 6), (size or 7))
    padded = pad(images, [padding] * 4, mode="reflect" if mode == "reflect" else "constant")
    found = places(padded, cut)
    rows, columns = 6 + 2 * padding - (size or 6) + 1, 7 + 2 * padding - (size or 7) + 1
    counts = torch.bincount(torch.tensor([y * columns + x for y, x in found]), minlength=rows * columns)
    assert chi_square(counts) < rows * columns + 5 * math.sqrt(2 * rows * columns)


@pytest.mark.parametrize("group", ["shift", "cifar", "mini", "resized_crop", "resized_crop_jitter"])
def test_every_group_changes_images_and_keeps_their_size(group: str) -> None:
    augment = assemble.make_augment(compose("config", [f"augment={group}"]).config)
    assert augment.train
    for transforms in (augment.train, augment.support):
        changed = images = noise(20, 20)
        for transform in transforms.values():
            changed = transform(changed, KEYS)
        assert changed.shape == images.shape
        assert changed.min() >= 0 and changed.max() <= 1
        assert (changed != images).flatten(1).any(1).double().mean() > 0.5 or not transforms


@pytest.mark.parametrize("size", [(16, 16), None])
@pytest.mark.parametrize("shape", [(84, 84), (20, 31)])
def test_a_resized_crop_is_torchvisions_of_its_window(shape: tuple[int, int], size: tuple[int, int] | None) -> None:
    images, crop = noise(*shape, count=30), RandomResizedCrop(size=size and size[0])
    windows = torch.stack(crop.windows(KEYS[:30], *shape), 1).tolist()
    expected = torch.stack(
        [
            v2.functional.resized_crop(image, *window, list(size or shape), antialias=True)
            for image, window in zip(images, windows, strict=True)
        ]
    )
    torch.testing.assert_close(crop(images, KEYS[:30]), expected, rtol=0, atol=2e-6)


def test_windows_have_torchvisions_areas_and_ratios() -> None:
    keys, size = random.mix(5, torch.arange(20_000)), 500
    y, x, h, w = RandomResizedCrop(size=8).windows(keys, size, size)
    assert (y >= 0).all() and (x >= 0).all() and (y + h <= size).all() and (x + w <= size).all()
    drawn = torch.stack([h * w / size**2, (w / h).log(), y / (size - h + 1), x / (size - w + 1)]).double()
    draw = RandomResizedCropOfTorchvision.get_params
    blank = torch.empty(1, size, size)
    theirs = torch.tensor([draw(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]).double()  # [4000, 4]
    top, left, high, wide = theirs.T
    same = torch.stack([high * wide / size**2, (wide / high).log(), top / (size - high + 1), left / (size - wide + 1)])
    for ours, other in zip(drawn, same, strict=True):
        assert ks(ours, other) < 0.034  # two-sample Kolmogorov-Smirnov: p = 1e-3


def ks(a: Tensor, b: Tensor) -> float:
    """The largest distance between two samples' distribution functions."""
    at = torch.cat([a, b]).sort().values
    below = [torch.searchsorted(s.sort().values, at, right=True) / len(s) for s in (a, b)]
    return float((below[0] - below[1]).abs().max())


@pytest.mark.parametrize(
    ("shape", "ratio", "window"),
    [
        ((10, 40), (0.5, 2.0), (0, 10, 10, 20)),
        ((40, 10), (0.5, 2.0), (10, 0, 20, 10)),
        ((9, 9), (1.0, 1.0), (0, 0, 9, 9)),
    ],
)
def test_where_no_window_fits_it_is_the_middle(
    shape: tuple[int, int], ratio: Sequence[float], window: tuple[int, ...]
) -> None:
    crop = RandomResizedCrop(size=4, scale=(3.0, 4.0), ratio=ratio)  # larger than the image
    assert [t.tolist() for t in crop.windows(KEYS[:2], *shape)] == [[n, n] for n in window]


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips(probability: float) -> None:
    images = noise()
    flipped = RandomHorizontalFlip(probability=probability)(images, KEYS)
    hits = (flipped == images.flip(3)).flatten(1).all(1)
    assert torch.equal(flipped[~hits], images[~hits])
    assert abs(hits.double().mean() - probability) <= 3.3 * math.sqrt(probability * (1 - probability) / len(KEYS))


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_blends_as_torchvision_does(channels: int) -> None:
    images = noise(channels=channels, count=40)
    draws = random.uniform(random.mix(KEYS[:40], torch.arange(3)[:, None]))  # [3, 40]
    low, high = torch.tensor([0.6, 0.0, 0.75])[:, None], torch.tensor([1.4, 2.5, 1.25])[:, None]
    factors = low + (high - low) * draws
    changed = ColorJitter(brightness=0.4, contrast=1.5, saturation=0.25)(images, KEYS[:40])
    for image, result, (b, c, s) in zip(images, changed, factors.T.tolist(), strict=True):
        expected = v2.functional.adjust_brightness(image, b)
        expected = v2.functional.adjust_contrast(expected, c)
        expected = v2.functional.adjust_saturation(expected, s)
        torch.testing.assert_close(result, expected, rtol=0, atol=3e-6)
    assert torch.equal(ColorJitter()(images, KEYS[:40]), images)


@pytest.mark.parametrize("shape", [(8, 8), (9, 8), (7, 11)])
def test_centre_crop_and_resize_are_torchvisions(shape: tuple[int, int]) -> None:
    images = noise(*shape, count=5)
    assert torch.equal(CenterCrop(size=5)(images, KEYS[:5]), v2.functional.center_crop(images, [5, 5]))
    for size in (4, 13):
        expected = v2.functional.resize(images, [size], antialias=True)
        torch.testing.assert_close(Resize(size=size)(images, KEYS[:5]), expected.clamp(0, 1), rtol=0, atol=2e-6)


def test_a_protocol_names_a_transform_and_its_options() -> None:
    assert str(Shift(pixels=2)) == "Shift(pixels=2)"
    assert str(QuarterTurn(per="class")) == "QuarterTurn(per=class)"
    assert str(RandomCrop(padding=4)) == "RandomCrop(padding=4, mode=zero, size=None)"


def test_lanes_differ() -> None:
    assert (QuarterTurn().lane, Shift(pixels=1).lane) == (-1, -2)
    assert len({type(t): t.lane for t in EVERY}) == len({t.lane for t in EVERY})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shift(pixels=1, per="task"), "Shift: per=task is unknown; choose image or class"),
        (lambda: RandomCrop(padding=8, mode="reflect")(noise(), KEYS), r"no such window .* of 8x8"),
        (lambda: RandomCrop(padding=-1)(noise(), KEYS), r"no such window .* of 8x8"),
        (lambda: RandomCrop(size=9)(noise(), KEYS), r"RandomCrop\(padding=0, mode=zero, size=9\): no such window"),
        (lambda: RandomCrop(mode="edge")(noise(), KEYS), "mode can be zero or reflect"),
        (lambda: RandomResizedCrop(size=4, scale=(0.5, 0.1))(noise(), KEYS), "size and scale"),
        (lambda: RandomHorizontalFlip(probability=2)(noise(), KEYS), "probability must be 0 to 1"),
        (lambda: ColorJitter(brightness=-1)(noise(), KEYS), "no strength can be below 0"),
        (lambda: ColorJitter(contrast=1)(noise(channels=2), KEYS), "the images have 2 channels, not 1 or 3"),
        (lambda: QuarterTurn()(noise(4, 5), KEYS), "the images are 4x5; only square ones can be turned"),
        (lambda: CenterCrop(size=9)(noise(), KEYS), "the images are 8x8"),
        (lambda: Augment(support_copies=-1), "augment.support_copies=-1 is below 0"),
        (lambda: Augment(support_copies=5), "augment.support has no transforms"),
    ],
)
def test_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]
