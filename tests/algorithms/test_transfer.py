"""Transfer: a classifier in training, a head (or all) fitted to each task at test."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fewshot.algorithms.transfer import Transfer
from fewshot.backbones.conv4 import Conv4
from fewshot.episode import Minibatch, Minibatches
from fewshot.errors import InputError
from fewshot.ops import norm

WAYS, SHOTS, TASKS = 3, 4, 2


def conv4() -> Conv4:
    options: dict[str, Any] = {"norm": "batch", "norm_scale": True, "norm_eps": 1e-5, "activation": nn.Tanh()}
    return Conv4((1, 8, 8), filters=4, blocks=2, downsampling="stride", readout="flatten", **options)


class Pixels(nn.Module):
    """The identity, with a weight that fine-tuning can move."""

    out_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * self.weight


def transfer(backbone: nn.Module | None = None, **options: Any) -> Transfer:
    defaults = {
        "train_classes": 6, "stream": Minibatches(batch_size=8), "head": "linear", "scale": 10.0, "adapt": "head",
        "adapt_steps": 20, "adapt_lr": 0.1, "weight_decay": 0.001,
    }  # fmt: skip
    return Transfer(backbone or Pixels(), **(defaults | options))


def support(image_shape: tuple[int, ...] = (1, 2, 2)) -> tuple[Tensor, Tensor]:
    y = torch.arange(WAYS).repeat_interleave(SHOTS).repeat(TASKS, 1)
    return torch.rand(*y.shape, *image_shape), y


def separable() -> tuple[Tensor, Tensor]:
    """Class c lies around the unit vector of pixel c."""
    x, y = support()
    return 0.2 * x + F.one_hot(y, 4).float().view(x.shape), y


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("adapt", ["head", "all"])
def test_a_support_set_is_fitted_in_full_precision_under_autocast(head: str, adapt: str) -> None:
    model, (x, y) = transfer(head=head, adapt=adapt).eval(), separable()
    plain = model.predict(model.adapt(x, y, ways=WAYS), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model.predict(model.adapt(x, y, ways=WAYS), x), plain)


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("adapt", ["head", "all"])
def test_separable_classes_are_learned_entirely(head: str, adapt: str) -> None:
    model = transfer(head=head, adapt=adapt, adapt_steps=100).eval()
    x, y = separable()
    assert torch.equal(model.predict(model.adapt(x, y, ways=WAYS), x).argmax(-1), y)


def test_the_head_is_gradient_descent_on_the_regularised_loss() -> None:
    """(1) for each task by itself, with autograd, no vmap."""
    model = transfer(conv4(), adapt_steps=7, weight_decay=0.3).eval().double()
    x, y = support((1, 8, 8))
    x = x.double()
    state = model.adapt(x, y, ways=WAYS)
    for t in range(TASKS):
        z = model.backbone(x[t]).detach()
        weight, bias = (z.new_zeros(shape).requires_grad_() for shape in ((WAYS, z.shape[1]), (WAYS,)))
        for _ in range(7):
            loss = F.cross_entropy(F.linear(z, weight, bias), y[t]) + 0.15 * weight.square().sum()
            g = torch.autograd.grad(loss, (weight, bias))
            weight, bias = weight - 0.1 * g[0], bias - 0.1 * g[1]
        torch.testing.assert_close(state["weight"][t], weight, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(state["bias"][t], bias, rtol=1e-9, atol=1e-12)


def test_fine_tuning_moves_all_weights_by_gradient_descent() -> None:
    """(2) for each task by itself."""
    model = transfer(conv4(), adapt="all", adapt_steps=5, weight_decay=0.3).eval().double()
    x, y = support((1, 8, 8))
    x = x.double()
    state = model.adapt(x, y, ways=WAYS)
    names = [name for name, _ in model.backbone.named_parameters()]
    for t in range(TASKS):
        params = {name: p.detach().requires_grad_() for name, p in model.backbone.named_parameters()}
        params |= {name: x.new_zeros(shape).requires_grad_() for name, shape in (("w", (WAYS, 16)), ("b", (WAYS,)))}
        for _ in range(5):
            z = functional_call(model.backbone, {name: params[name] for name in names}, (x[t],))
            loss = F.cross_entropy(F.linear(z, params["w"], params["b"]), y[t]) + 0.15 * params["w"].square().sum()
            g = torch.autograd.grad(loss, list(params.values()))
            params = {n: p - 0.1 * d for (n, p), d in zip(params.items(), g, strict=True)}
        torch.testing.assert_close(state["weight"][t], params["w"], rtol=1e-9, atol=1e-12)
        for name in names:
            torch.testing.assert_close(state[f"backbone.{name}"][t], params[name], rtol=1e-9, atol=1e-12)
    assert all(not torch.equal(state[f"backbone.{n}"][0], p) for n, p in model.backbone.named_parameters())


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("without", [{"adapt_lr": 0.0}, {"adapt_steps": 0}])
def test_without_adaptation_all_and_head_are_the_same_start(head: str, without: dict[str, Any]) -> None:
    backbone = conv4()
    x, y = support((1, 8, 8))
    options = {"head": head, **without}
    found = []
    for adapt in ("head", "all"):
        model = transfer(backbone, adapt=adapt, **options).eval()
        found.append(model.predict(model.adapt(x, y, ways=WAYS), x))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    if head == "linear":
        assert torch.equal(found[0], torch.zeros(TASKS, WAYS * SHOTS, WAYS))
    else:  # nearest class mean by angle
        z = backbone.eval()(x.flatten(0, 1)).view(TASKS, WAYS, SHOTS, -1)
        cosine = F.cosine_similarity(z.flatten(1, 2)[:, :, None], z.mean(2)[:, None], dim=-1)
        torch.testing.assert_close(found[0], 10 * cosine, rtol=1e-4, atol=1e-4)


def test_cosine_logits_are_bounded_by_their_scale() -> None:
    model = transfer(head="cosine", scale=4.0)
    x = torch.rand(8, 1, 2, 2)
    batch = Minibatch(x, torch.arange(8) % 6)
    expected = 4 * F.cosine_similarity(x.flatten(1)[:, None], model.classifier.weight[None], dim=-1)
    torch.testing.assert_close(model(batch).logits, expected)
    with torch.no_grad():
        model.classifier.weight.mul_(100)
        model.classifier.bias.add_(100)
    torch.testing.assert_close(model(batch).logits, expected)


def test_training_is_ordinary_classification() -> None:
    model = transfer(conv4())
    batch = Minibatch(torch.rand(8, 1, 8, 8), torch.arange(8) % 6)
    out = model(batch)
    assert out.logits.shape == (8, 6)
    expected = model.classifier(model.backbone(batch.x))
    torch.testing.assert_close(out.logits, expected)
    torch.testing.assert_close(out.loss, F.cross_entropy(expected, batch.y))
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_label_smoothing_spreads_a_share_of_the_target_over_all_classes() -> None:
    backbone, batch = conv4(), Minibatch(torch.rand(8, 1, 8, 8), torch.arange(8) % 6)
    model = transfer(backbone, label_smoothing=0.1)
    out = model(batch)
    targets = 0.9 * F.one_hot(batch.y, 6) + 0.1 / 6
    torch.testing.assert_close(out.loss, -(targets * out.logits.log_softmax(1)).sum(1).mean())
    x, y = support((1, 8, 8))
    plain = transfer(backbone)  # a task's head is fitted to the labels themselves
    torch.testing.assert_close(model.adapt(x, y, ways=WAYS), plain.adapt(x, y, ways=WAYS))


@pytest.mark.parametrize("adapt", ["head", "all"])
def test_a_batch_of_tasks_is_the_tasks_one_by_one_and_queries_are_judged_alone(adapt: str) -> None:
    model = transfer(conv4(), adapt=adapt).eval()
    (x, y), query_x = support((1, 8, 8)), torch.rand(TASKS, 5, 1, 8, 8)
    together = model.predict(model.adapt(x, y, ways=WAYS), query_x)
    for t in range(TASKS):
        state = model.adapt(x[t : t + 1], y[t : t + 1], ways=WAYS)
        alone = torch.cat([model.predict(state, query_x[t : t + 1, i : i + 1]) for i in range(5)], 1)
        torch.testing.assert_close(alone[0], together[t], rtol=1e-4, atol=1e-5)
    assert not model.transductive


@pytest.mark.parametrize("adapt", ["head", "all"])
def test_adapting_leaves_no_trace_in_the_model(adapt: str) -> None:
    model = transfer(conv4(), adapt=adapt).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.adapt(*support((1, 8, 8)), ways=WAYS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_any_number_of_ways() -> None:
    x, y = torch.rand(1, 5, 1, 2, 2), torch.arange(5)[None]
    model = transfer().eval()
    assert model.predict(model.adapt(x, y, ways=5), x).shape == (1, 5, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "mlp"}, r"algorithm\.head=mlp is unknown; choose linear or cosine"),
        ({"adapt": "body"}, r"algorithm\.adapt=body is unknown; choose head or all"),
        ({"adapt_steps": -1}, r"algorithm\.adapt_steps=-1 is below 0"),
        ({"label_smoothing": 1.0}, r"algorithm\.label_smoothing=1\.0 is not in \[0, 1\)"),
        ({"adapt_lr": -0.1}, r"algorithm\.adapt_lr=-0\.1 is below 0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        transfer(**options)


def test_norms_that_track_in_place_are_refused_where_all_weights_move() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    net.out_features = 72
    transfer(net)  # the head alone may move on top of them
    with pytest.raises(InputError, match="layer '1'"):
        transfer(net, adapt="all")
    transfer(norm.convert(net), adapt="all")


def test_the_protocol_is_on_record() -> None:
    expected = {"norm_statistics": "running", "inner_steps_eval": 20, "head": "linear", "adapt": "head"}
    assert transfer().protocol() == expected


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_every_parameter_that_is_learned_gets_a_gradient(head: str) -> None:
    model = transfer(conv4(), head=head)
    model(Minibatch(torch.rand(8, 1, 8, 8), torch.arange(8) % 6)).loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {name for name, p in model.named_parameters() if not p.requires_grad}
    assert without == (set() if head == "linear" else {"classifier.bias"})
