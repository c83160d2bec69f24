"""Fine-tuning on own pictures: what is learned, what stays, and what is judged without what."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewshot.backbones.image_input import ImageInput
from fewshot.own_pictures.fine_tuned import FineTuned, fine_tune, last_layers
from fewshot.own_pictures.fitted import HeadOnNetwork
from fewshot.own_pictures.heads import fit
from fewshot.own_pictures.with_head import WithHead

Y = np.array([0, 1, 2, 0, 1, 2, 0, 1])
SCALE = 10.0
SIDE = 18  # of the square for views of 14 pixels


class Tiny(nn.Module):
    """Two convolutions with batch norm; some of its features are 0, where a root has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.input = ImageInput(size=14, resize=14, interpolation="bilinear", mean=(0.5,) * 3, std=(0.3,) * 3)
        self.early = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU())
        self.last[1].bias.data[0] = -100  # always 0 behind ReLU

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.early(self.input(x))).mean((2, 3))


def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


def method(head: str = "ridge") -> FineTuned:
    return FineTuned(WithHead(tiny, head=head, device="cpu"))


def pictures(y: np.ndarray, seed: int) -> np.ndarray:
    """[M, 1, 3, SIDE, SIDE] uint8 as `embed` gives them: a weak pattern for each class, with noise."""
    pattern = np.random.default_rng(9).integers(0, 60, (3, 3, SIDE, SIDE))
    noise = np.random.default_rng(seed).integers(0, 195, (len(y), 3, SIDE, SIDE))
    return method().embed((pattern[y] + noise).astype(np.uint8))


@cache
def trained() -> tuple[HeadOnNetwork, HeadOnNetwork, list[float]]:
    """Network and head before and after, and the loss of each epoch."""
    on, images = method().untouched, pictures(Y, 0)
    before = HeadOnNetwork(on.network, fit("ridge", on.embed(images[:, 0]), Y, 3)[0])
    after = copy.deepcopy(before)
    return before, after, fine_tune(after, torch.from_numpy(images[:, 0]), torch.from_numpy(Y), SCALE)


def test_the_loss_falls() -> None:
    """By all views of the pictures, where training sees a random one of each."""
    before, after, losses = trained()
    assert np.isfinite(losses).all()
    x, y = torch.from_numpy(pictures(Y, 0)[:, 0]).float() / 255, torch.from_numpy(Y)
    first, then = (nn.functional.cross_entropy(SCALE * model(x), y).item() for model in (before, after))
    assert then < first


def test_only_the_last_layers_change() -> None:
    before, after = (model.network for model in trained()[:2])
    changed = {k for k, v in before.state_dict().items() if not torch.equal(v, after.state_dict()[k])}
    assert changed == {"last.0.weight", "last.0.bias", "last.1.weight", "last.1.bias"}  # no statistics of batch norm
    assert not any(w.requires_grad for w in after.parameters())


@pytest.mark.parametrize(("widths", "last"), [((4, 4, 4, 4), 2), ((1, 9), 1), ((5, 4), 2), ((6,), 1)])
def test_the_last_layers_hold_half_of_the_numbers(widths: tuple[int, ...], last: int) -> None:
    network = nn.ParameterList([torch.zeros(n) for n in widths])
    assert [id(w) for w in last_layers(network)] == [id(w) for w in list(network)[::-1][:last]]


@pytest.mark.parametrize("head", ["ridge", "cosine"])
def test_the_same_pictures_give_the_same_and_the_file_gives_what_was_judged(head: str) -> None:
    support, query = pictures(Y, 0), pictures(Y, 1)
    on = method(head)
    judged = on.judge(support, Y, 3, query)
    again = method(head).judge(support, Y, 3, query)
    assert np.array_equal(judged.query, again.query)
    assert np.array_equal(judged.left_out, again.left_out)
    model = on.fitted(support, Y, 3)
    found = model(torch.from_numpy(query[:, 0]).float() / 255)
    np.testing.assert_allclose(found.detach(), judged.query, atol=1e-5)
    untouched, _ = fit(head, on.untouched.embed(support[:, 0]), Y, 3)
    assert np.abs(untouched.scores(on.untouched.embed(query[:, 0])) - judged.query).max() > 1e-3


def test_a_picture_is_judged_by_what_was_learned_without_it_and_the_fits_are_counted() -> None:
    """Seven pictures, one of them alone in its class: 5 folds, and what it learns without the first."""
    y, told = np.array([0, 0, 0, 1, 1, 1, 2]), list[tuple[int, int]]()
    support = pictures(y, 0)
    on = FineTuned(WithHead(tiny, head="ridge", device="cpu"), progress=lambda *counts: told.append(counts))
    judged = on.judge(support, y, 3, support[:1])
    assert told == [(done, 6) for done in range(7)]
    assert not judged.left_out[6].any()
    stay = [1, 2, 3, 4, 6]  # the first fold is pictures 0 and 5
    alone = on.judge(support[stay], y[stay], 3, support[[0, 5]])
    np.testing.assert_allclose(judged.left_out[[0, 5]], alone.query, atol=1e-5)
    assert np.abs(judged.query[0] - judged.left_out[0]).max() > 1e-3
