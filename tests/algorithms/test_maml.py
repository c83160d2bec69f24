"""MAML's meta-gradient, for every backbone: all tasks at once against a plain loop, in float64; and its options.

The loop below is the definition written out: `torch.autograd.grad(create_graph=True)` for one task after the
other, no vmap, no code of `fewshot.algorithms` or `fewshot.gradcheck`.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fewshot import gradcheck
from fewshot.algorithms.maml import MAML
from fewshot.backbones.conv4 import Conv4
from fewshot.backbones.mlp import MLP
from fewshot.backbones.omniglot_net import OmniglotNet
from fewshot.backbones.torchvision import TorchvisionBackbone
from fewshot.episode import Episode, Episodes
from fewshot.errors import InputError
from fewshot.ops import norm

Params = dict[str, Tensor]
TOLERANCE = 1e-9
WAYS, SHOTS, QUERIES, TASKS = 3, 2, 2, 3
GREY, COLOUR = (1, 20, 20), (3, 32, 32)


def conv4(image_shape: Sequence[int] = GREY, **options: Any) -> Conv4:
    defaults = {
        "filters": 4, "blocks": 4, "downsampling": "pool", "readout": "flatten", "norm": "batch",
        "norm_scale": True, "norm_eps": 1e-5, "activation": nn.ReLU(),
    }  # fmt: skip
    return Conv4(image_shape, **(defaults | options))


def small_conv4(**options: Any) -> Conv4:
    """Of so many filters that its first block is folded."""
    return conv4((1, 8, 8), **({"blocks": 2, "filters": 24} | options))


def maml(backbone: nn.Module, *, ways: int = WAYS, **options: Any) -> MAML:
    defaults = {
        "inner_lr": 0.3, "inner_rate": "fixed", "inner_steps": 1, "eval_inner_steps": 3, "first_order": False,
        "adapt": "all", "adapt_norm": True, "loss_reduction": "mean", "norm_statistics": "batch",
        "head_init": "default", "task_chunk": None, "checkpoint_inner": False,
    }  # fmt: skip
    stream = Episodes(tasks=TASKS, ways=ways, shots=SHOTS, queries=QUERIES)
    return MAML(backbone, ways=ways, stream=stream, **(defaults | options)).double()


def episode(
    image_shape: Sequence[int] = (1, 8, 8), *, tasks: int = TASKS, ways: int = WAYS, shots: int = SHOTS
) -> Episode:
    """Noise: no two activations tie, so max pooling chooses alike on both sides."""
    labels = torch.arange(ways)
    support_y, query_y = (labels.repeat_interleave(n).repeat(tasks, 1) for n in (shots, QUERIES))
    support_x, query_x = (torch.rand(*y.shape, *image_shape, dtype=torch.float64) for y in (support_y, query_y))
    return Episode(support_x, support_y, query_x, query_y, labels.repeat(tasks, 1))


def logits(model: MAML, params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    own = {name.removeprefix("backbone."): p for name, p in params.items() if name.startswith("backbone.")}
    return F.linear(functional_call(model.backbone, own, (x,)), params["head.weight"], params["head.bias"])


def initial(model: MAML, ways: int = WAYS) -> Params:
    params = {f"backbone.{name}": p for name, p in model.backbone.named_parameters()}
    if list(model.head.parameters()):
        return params | {f"head.{name}": p for name, p in model.head.named_parameters()}
    width = model.backbone.out_features
    zeros = [torch.zeros(*shape, dtype=torch.float64, requires_grad=True) for shape in ((ways, width), (ways,))]
    return params | {"head.weight": zeros[0], "head.bias": zeros[1]}


def adapted_by_loop(
    model: MAML, x: Tensor, y: Tensor, *, steps: int, rate: Callable[[str, int], Tensor | float],
    moves: Callable[[str], bool] = lambda name: True, scale: float = 1, first_order: bool = False,
) -> Params:  # fmt: skip
    """One task's parameters after `steps` steps of gradient descent on its support set."""
    params = initial(model, int(y.max()) + 1)
    for step in range(steps):
        names = [name for name in params if moves(name)]
        loss = F.cross_entropy(logits(model, params, x), y) * scale
        gradients = torch.autograd.grad(loss, [params[name] for name in names], create_graph=not first_order)
        moved = {n: params[n] - rate(n, step) * g for n, g in zip(names, gradients, strict=True)}
        params = params | moved
    return params


def loss_by_loop(model: MAML, batch: Episode, *, predict: Callable[..., Tensor] = logits, **options: Any) -> Tensor:
    """Mean over tasks of the query loss. Batch norm in training mode takes the statistics of each batch."""
    losses = []
    for x, y, query_x, query_y in zip(*batch[:4], strict=True):
        params = adapted_by_loop(model, x, y, **({"steps": 1, "rate": lambda name, step: 0.3} | options))
        losses.append(F.cross_entropy(predict(model, params, query_x), query_y))
    return torch.stack(losses).mean()


def gradients(model: MAML, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Per tensor |difference| / max(|g of the tensor|, 1e-3 |g of all|); the largest of them."""
    of_all = torch.stack([g.norm() for g in theirs.values()]).norm()
    assert of_all > 1e-6
    return max(float((ours[n] - g).norm() / max(g.norm(), 1e-3 * of_all)) for n, g in theirs.items())


def difference(model: MAML, batch: Episode, **options: Any) -> float:
    model.train()
    ours = model(batch)
    theirs = loss_by_loop(model, batch, **options)
    torch.testing.assert_close(ours.loss, theirs, rtol=1e-10, atol=0)
    return largest_difference(gradients(model, ours.loss), gradients(model, theirs))


# ---- the proof: every backbone that is shipped, first and second order -------------------------------------

BACKBONES: dict[str, tuple[Callable[[], nn.Module], Sequence[int]]] = {
    f"conv4 {downsampling} {kind}": (
        lambda downsampling=downsampling, kind=kind: conv4(downsampling=downsampling, norm=kind), GREY,
    )
    for downsampling in ("pool", "stride")
    for kind in ("batch", "layer", "instance", "group", "none")
}  # fmt: skip
BACKBONES |= {
    "conv4 stride batch mean, no scale": (
        lambda: conv4(downsampling="stride", readout="mean", norm_scale=False), GREY,
    ),
    "mlp batch": (lambda: MLP((1, 6, 6), widths=[8, 6, 5], norm="batch"), (1, 6, 6)),
    "mlp none": (lambda: MLP((1, 6, 6), widths=[8, 6, 5], norm="none"), (1, 6, 6)),
    "omniglot_net": (lambda: OmniglotNet((1, 16, 16)), (1, 16, 16)),
}  # fmt: skip
LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "convnext_tiny")]


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("name", BACKBONES)
def test_meta_gradient_equals_a_loop_over_tasks(name: str, first_order: bool) -> None:
    make, image_shape = BACKBONES[name]
    model = maml(make(), inner_steps=2, first_order=first_order)
    assert difference(model, episode(image_shape), steps=2, first_order=first_order) < TOLERANCE


def torchvision_difference(name: str, first_order: bool) -> float:
    backbone = TorchvisionBackbone(COLOUR, model=name, weights="none", size=None)
    model = maml(backbone, ways=5, first_order=first_order)
    for layer in backbone.modules():
        if type(layer).__name__ in ("Dropout", "StochasticDepth"):
            layer.p = 0.0  # the loop would draw other masks
    return difference(model, episode(COLOUR, tasks=2, ways=5), first_order=first_order)


SLOW_POOL = pytest.mark.filterwarnings("ignore:There is a performance drop.*as_strided_")  # pooling of permuted axes


@SLOW_POOL
@pytest.mark.parametrize(
    "first_order", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["second order", "first order"]
)  # of first order: test_meta_gradient_of_torchvisions_blocks
@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", *LARGE])
def test_meta_gradient_of_torchvisions_networks(name: str, first_order: bool) -> None:
    assert torchvision_difference(name, first_order) < TOLERANCE


class Converted(nn.Module):
    """torchvision's own blocks, made small; norms replaced as `TorchvisionBackbone` does."""

    out_features = 8

    def __init__(self, kind: str) -> None:
        super().__init__()
        from torchvision.models.convnext import CNBlockConfig, ConvNeXt
        from torchvision.models.resnet import BasicBlock

        if kind == "convnext":
            net: nn.Module = ConvNeXt([CNBlockConfig(4, 8, 1), CNBlockConfig(8, None, 1)], layer_scale=0.5)
            net.classifier[2] = nn.Identity()
        else:
            shortcut = nn.Sequential(nn.Conv2d(4, 8, 1, 2), nn.BatchNorm2d(8))
            blocks = [BasicBlock(4, 4), BasicBlock(4, 8, 2, shortcut), nn.AdaptiveAvgPool2d(1)]
            net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), *blocks)
        self.net = norm.convert(net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).flatten(1)


@SLOW_POOL
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_meta_gradient_of_torchvisions_blocks(kind: str, first_order: bool) -> None:
    model = maml(Converted(kind), inner_steps=2, first_order=first_order)
    batch = episode((3, 16, 16))
    assert difference(model, batch, steps=2, first_order=first_order) < TOLERANCE


def test_the_criterion_sees_a_fused_norm_under_vmap() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.Tanh(), nn.Flatten())
    net.out_features = 3 * 6 * 6
    assert difference(maml(net), episode()) > 1e-3
    assert difference(maml(norm.convert(net)), episode()) < TOLERANCE


def test_first_and_second_order_differ() -> None:
    batch, model = episode(), maml(small_conv4())
    second = gradients(model, model(batch).loss)
    model.first_order = True
    assert largest_difference(gradients(model, model(batch).loss), second) > 1e-2


# ---- by hand ----------------------------------------------------------------------------------------------


class Scalar(nn.Module):
    """f(x) = theta x."""

    out_features = 1

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta * x.flatten(1)


class Quadratic(MAML):
    """The inner loss is (theta x - y)^2 / 2 in place of a cross-entropy."""

    def support_loss(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        return (params["backbone.theta"] * x.flatten() - y).square().sum() / 2


@pytest.mark.parametrize("first_order", [False, True])
def test_the_gradient_of_a_quadratic_by_hand(first_order: bool) -> None:
    """Support x = 2, y = 1 (label): theta' = theta - a 2 (2 theta - 1) = (1 - 4a) theta + 2a.

    Query x = 3 with logits (theta' 3, 0) and label 0: L = log(1 + exp(-3 theta')).
    dL/dtheta' = -3 s(-3 theta'), s the logistic function; dL/dtheta is that times dtheta'/dtheta = 1 - 4a,
    in first order times 1.
    """
    theta, a = 0.7, 0.1
    options = {"inner_rate": "fixed", "inner_steps": 1, "eval_inner_steps": 1, "adapt_norm": True, "adapt": "body"}
    model = Quadratic(
        Scalar(theta), ways=2, stream=Episodes(tasks=1, ways=2, shots=1, queries=1), inner_lr=a,
        first_order=first_order, loss_reduction="mean", norm_statistics="batch", head_init="default",
        task_chunk=None, checkpoint_inner=False, **options,
    ).double()  # fmt: skip
    with torch.no_grad():
        model.head.weight.copy_(torch.tensor([[1.0], [0.0]]))
        model.head.bias.zero_()
    images = [torch.full((1, 1, 1, 1, 1), value, dtype=torch.float64) for value in (2.0, 3.0)]
    batch = Episode(
        images[0], torch.ones(1, 1), images[1], torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[0, 1]])
    )
    out = model(batch)
    out.loss.backward()
    moved = (1 - 4 * a) * theta + 2 * a
    logistic = 1 / (1 + torch.tensor(3 * moved).exp())
    assert out.logits[0, 0, 0].item() == pytest.approx(3 * moved)
    assert out.loss.item() == pytest.approx(-(1 - logistic).log().item())
    by_hand = -3 * logistic.item() * (1 if first_order else 1 - 4 * a)
    assert model.backbone.theta.grad.item() == pytest.approx(by_hand, rel=1e-6)


# ---- the options, each against the loop -------------------------------------------------------------------


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("steps", [1, 4])  # two: of every backbone, above
def test_several_inner_steps(steps: int, first_order: bool) -> None:
    model = maml(small_conv4(), inner_steps=steps, first_order=first_order)
    assert difference(model, episode(), steps=steps, first_order=first_order) < TOLERANCE


@pytest.mark.parametrize(
    ("adapt", "moves"), [("head", ("head.",)), ("body", ("backbone.",)), ("all", ("head.", "backbone."))]
)
@pytest.mark.parametrize("adapt_norm", [True, False])
def test_what_adapts(adapt: str, moves: tuple[str, ...], adapt_norm: bool) -> None:
    model = maml(small_conv4(), adapt=adapt, adapt_norm=adapt_norm, inner_steps=2)

    def of_norm(name: str) -> bool:
        return name.split(".")[3:4] == ["1"]  # backbone.blocks.<block>.1.<weight or bias>

    def moving(name: str) -> bool:
        return name.startswith(moves) and (adapt_norm or not of_norm(name))

    assert difference(model, episode(), steps=2, moves=moving) < TOLERANCE
    batch = episode()
    with torch.no_grad():
        state = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
    assert {name for name in state if state[name].ndim > initial(model)[name].ndim} == set(filter(moving, state))
    assert any(map(of_norm, model.adapted)) == (adapt_norm and adapt != "head")


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("kind", ["fixed", "per_parameter", "per_layer_step"])
def test_inner_rates_and_their_own_gradients(kind: str, first_order: bool) -> None:
    model = maml(small_conv4(), inner_rate=kind, inner_steps=2, first_order=first_order)
    with torch.no_grad():
        for rate in model.rates.parameters():
            rate.mul_(torch.rand_like(rate) + 0.5)
    learned = dict(model.rates.named_parameters())

    def rate(name: str, step: int) -> Tensor | float:
        value = learned.get("rates." + name.replace(".", "/"), 0.3)
        return value[step] if kind == "per_layer_step" else value

    assert (len(learned) > 0) == (kind != "fixed")
    assert difference(model, episode(), steps=2, rate=rate, first_order=first_order) < TOLERANCE
    if learned:
        found = gradients(model, model(episode()).loss)
        assert all(found[f"rates.{name}"].norm() > 0 for name in learned)


def test_summing_the_loss_over_classes_is_ways_times_the_mean() -> None:
    model = maml(small_conv4(), loss_reduction="sum_over_shot", inner_lr=0.1)
    assert difference(model, episode(), scale=WAYS, rate=lambda name, step: 0.1) < TOLERANCE
    other = maml(small_conv4(), inner_lr=0.1 * WAYS)
    other.load_state_dict(model.state_dict())
    batch = episode()
    torch.testing.assert_close(model(batch).logits, other(batch).logits, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [2, 8, *(pytest.param(chunk, marks=pytest.mark.slow) for chunk in (1, 3, 5))])
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_tasks_in_chunks_are_all_tasks_at_once(chunk: int, statistics: str) -> None:
    batch = episode(tasks=5)
    whole = maml(small_conv4(), norm_statistics=statistics)
    parts = maml(copy.deepcopy(whole.backbone), norm_statistics=statistics, task_chunk=chunk)
    parts.load_state_dict(whole.state_dict())
    a, b = whole(batch), parts(batch)
    torch.testing.assert_close(a.loss, b.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(a.logits, b.logits, rtol=1e-10, atol=1e-12)
    assert largest_difference(gradients(parts, b.loss), gradients(whole, a.loss)) < TOLERANCE
    for name, buffer in whole.backbone.named_buffers():  # one step of the running average, too
        torch.testing.assert_close(parts.backbone.get_buffer(name), buffer, rtol=1e-12, atol=1e-12)


OPTIONS: dict[str, dict[str, Any]] = {
    "batch": {},
    "one step": {"inner_steps": 1},
    "support": {"norm_statistics": "support"},
    "running": {"norm_statistics": "running"},
    "chunks": {"task_chunk": 2},
    "chunks, running": {"task_chunk": 1, "norm_statistics": "running"},
    "rates per parameter": {"inner_rate": "per_parameter", "task_chunk": 2},
    "rates per layer and step": {"inner_rate": "per_layer_step"},
    "head": {"adapt": "head"},
    "body": {"adapt": "body", "adapt_norm": False},
    "zero head": {"head_init": "zero", "loss_reduction": "sum_over_shot", "inner_lr": 0.1},
    "first order": {"first_order": True},
}


WITHIN_OTHERS = ("one step", "running", "chunks", "rates per layer and step", "body")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in WITHIN_OTHERS else ()) for name in OPTIONS]
)
def test_checkpointed_inner_steps_change_nothing(name: str) -> None:
    batch, options = episode(), {"inner_steps": 2} | OPTIONS[name]
    plain = maml(small_conv4(), **options)
    checkpointed = maml(copy.deepcopy(plain.backbone), checkpoint_inner=True, **options)
    checkpointed.load_state_dict(plain.state_dict())
    a, b = plain(batch), checkpointed(batch)
    assert torch.equal(a.loss, b.loss)
    assert torch.equal(a.logits, b.logits)
    expected = gradients(plain, a.loss)
    assert largest_difference(gradients(checkpointed, b.loss), expected) < 1e-12
    for key, buffer in plain.named_buffers():
        assert torch.equal(checkpointed.get_buffer(key), buffer)
    b = checkpointed(batch)  # .backward() as well as torch.autograd.grad
    b.loss.backward()
    found = {name: p.grad for name, p in checkpointed.named_parameters()}
    assert largest_difference(found, expected) < 1e-12


def test_checkpointed_inner_steps_against_the_loop() -> None:
    model = maml(small_conv4(), checkpoint_inner=True, inner_steps=3, task_chunk=2)
    assert difference(model, episode(), steps=3) < TOLERANCE


def test_checkpointed_inner_steps_drop_the_same_units_again() -> None:
    backbone = small_conv4()
    net = nn.Sequential(backbone, nn.Dropout(0.5))
    net.out_features = backbone.out_features
    found = []
    for checkpoint_inner in (False, True):
        torch.manual_seed(0)
        model = maml(copy.deepcopy(net), inner_steps=2, checkpoint_inner=checkpoint_inner)
        batch = episode()
        torch.manual_seed(1)
        found.append(gradients(model, model(batch).loss))
    assert largest_difference(*found) < 1e-12


def kept_bytes(model: MAML, batch: Episode) -> int:
    """What a forward pass leaves in memory for the backward pass."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        out = model(batch)
    assert out.loss.requires_grad
    return sum(event.self_cpu_memory_usage for event in profile.events())


def test_checkpointed_inner_steps_grow_less_than_half_as_fast_in_memory() -> None:
    batch = episode()
    growth = {
        checkpoint_inner: [
            kept_bytes(maml(small_conv4(), inner_steps=steps, checkpoint_inner=checkpoint_inner), batch)
            for steps in (1, 3)
        ]
        for checkpoint_inner in (False, True)
    }
    (plain_one, plain_three), (one, three) = growth[False], growth[True]
    assert 0 < three - one < (plain_three - plain_one) / 2
    assert three < plain_one


@pytest.mark.parametrize(
    ("when", "first_order", "chunk"), [("before", False, None), ("before", True, 2), ("after", False, 2)]
)
def test_frozen_parameters_are_moved_by_no_loop(when: str, first_order: bool, chunk: int | None) -> None:
    """Frozen in the backbone's own constructor, or later; inner and outer loop leave them alone."""
    backbone, frozen = small_conv4(), "backbone.blocks.0.0.weight"
    if when == "before":
        backbone.blocks[0][0].weight.requires_grad_(False)
    model = maml(backbone, inner_steps=2, first_order=first_order, task_chunk=chunk)
    backbone.blocks[0][0].weight.requires_grad_(False)
    batch = episode()
    theirs = loss_by_loop(model, batch, steps=2, moves=lambda name: name != frozen, first_order=first_order)
    ours = model(batch).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    learned = {name: p for name, p in model.named_parameters() if name != frozen}
    found = [
        dict(zip(learned, torch.autograd.grad(loss, list(learned.values())), strict=True)) for loss in (ours, theirs)
    ]
    assert largest_difference(*found) < TOLERANCE
    for training in (True, False):
        state = model.train(training).adapt(batch.support_x, batch.support_y, ways=WAYS)
        assert torch.equal(state[frozen], backbone.blocks[0][0].weight)


def test_a_backbone_frozen_as_a_whole_leaves_the_head_to_adapt() -> None:
    model, batch = maml(small_conv4().requires_grad_(False)).eval(), episode()
    assert model.adapted == ["head.weight", "head.bias"]
    state = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
    assert [name for name, p in state.items() if p.ndim > initial(model)[name].ndim] == model.adapted


def test_nothing_left_to_adapt_is_an_error() -> None:
    model, batch = maml(small_conv4().requires_grad_(False), adapt="body"), episode()
    with pytest.raises(InputError, match=r"nothing moves in the inner loop: .* requires_grad=False"):
        model.adapt(batch.support_x, batch.support_y, ways=WAYS)


def test_statistics_of_the_support_set_serve_the_queries() -> None:
    """The loop: forward hooks take each layer's mean and variance from the adapted support set, by hand."""
    model = maml(small_conv4(), norm_statistics="support", inner_steps=2)

    def predict(model: MAML, params: Params, query_x: Tensor) -> Tensor:
        index = next(t for t in range(TASKS) if torch.equal(batch.query_x[t], query_x))
        z = batch.support_x[index]
        q = query_x
        for i in range(2):
            p = {key: params[f"backbone.blocks.{i}.{key}"] for key in ("0.weight", "1.weight", "1.bias")}
            z, q = (F.conv2d(x, p["0.weight"], padding=1) for x in (z, q))
            mean, var = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), correction=0, keepdim=True)
            scale, shift = p["1.weight"].view(1, -1, 1, 1), p["1.bias"].view(1, -1, 1, 1)
            z, q = (F.max_pool2d(F.relu((x - mean) / (var + 1e-5).sqrt() * scale + shift), 2) for x in (z, q))
        return F.linear(q.flatten(1), params["head.weight"], params["head.bias"])

    batch = episode()
    assert difference(model, batch, steps=2, predict=predict) < TOLERANCE


@pytest.mark.parametrize("training", [True, False])
def test_with_support_statistics_a_query_does_not_depend_on_the_others(training: bool) -> None:
    batch = episode()
    for statistics, apart in (("support", True), ("batch", False)):
        model = maml(small_conv4(), norm_statistics=statistics).train(training)
        state = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
        together = model.predict(state, batch.query_x)
        alone = torch.cat([model.predict(state, x) for x in batch.query_x.split(1, dim=1)], 1)
        assert torch.allclose(together, alone, rtol=1e-9, atol=1e-12) is apart
        assert model.transductive is not apart


def test_running_statistics_train_on_the_batch_and_test_on_the_average() -> None:
    model, batch = maml(small_conv4(), norm_statistics="running"), episode()
    assert difference(model, batch) < TOLERANCE  # in training: the batch's own, as the loop has
    model = maml(small_conv4(), norm_statistics="running")
    seen: list[Tensor] = []
    for x, y, query_x, _ in zip(*batch[:4], strict=True):
        params = adapted_by_loop(model, x, y, steps=1, rate=lambda name, step: 0.3)
        seen.append(F.conv2d(query_x, params["backbone.blocks.0.0.weight"], padding=1))
    layer = model.backbone.blocks[0][1]
    layer.running_mean.zero_(), layer.running_var.fill_(1)  # the loop moved them
    model(batch)
    means, variances = (
        torch.stack(s).mean(0)
        for s in ([z.mean((0, 2, 3)) for z in seen], [z.var((0, 2, 3), correction=0) for z in seen])
    )
    torch.testing.assert_close(layer.running_mean, 0.1 * means.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * variances.detach(), rtol=1e-9, atol=0)
    model.eval()
    before = {name: b.clone() for name, b in model.named_buffers()}
    state = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
    found = model.predict(state, batch.query_x)
    assert not model.transductive
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    for t in range(TASKS):  # batch norm in evaluation mode takes the running averages
        params = adapted_by_loop(model, batch.support_x[t], batch.support_y[t], steps=3, rate=lambda name, step: 0.3)
        torch.testing.assert_close(found[t], logits(model, params, batch.query_x[t]), rtol=1e-9, atol=1e-9)


# ---- properties ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", ["batch", "support", "running"])
def test_a_batch_of_tasks_is_the_tasks_one_by_one(statistics: str) -> None:
    model, batch = maml(small_conv4(), norm_statistics=statistics, inner_rate="per_parameter").eval(), episode()
    with torch.no_grad():
        together = model.predict(model.adapt(batch.support_x, batch.support_y, ways=WAYS), batch.query_x)
        for t in range(TASKS):
            one = Episode(*[part[t : t + 1] for part in batch])
            alone = model.predict(model.adapt(one.support_x, one.support_y, ways=WAYS), one.query_x)
            torch.testing.assert_close(alone[0], together[t], rtol=1e-9, atol=1e-9)


def test_the_last_state_of_adaptation_is_that_of_adapt() -> None:
    for statistics in ("batch", "support", "running"):
        model, batch = maml(small_conv4(), norm_statistics=statistics).eval(), episode()
        states = list(model.adaptation(batch.support_x, batch.support_y, ways=WAYS))
        last = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
        assert len(states) == model.eval_inner_steps + 1
        assert list(states[-1]) == list(last)
        assert all(torch.equal(states[-1][name], last[name]) for name in last)
        assert torch.equal(states[0]["head.weight"], model.head.weight)


def test_the_number_of_steps_is_another_at_test() -> None:
    model, batch = maml(small_conv4(), inner_steps=1, eval_inner_steps=3), episode()
    for training, steps in ((True, 1), (False, 3)):
        states = list(model.train(training).adaptation(batch.support_x, batch.support_y, ways=WAYS))
        assert len(states) == steps + 1


@pytest.mark.parametrize("statistics", ["batch", "support", "running"])
def test_no_inner_rate_changes_nothing(statistics: str) -> None:
    model, batch = maml(small_conv4(), inner_lr=0.0, norm_statistics=statistics).eval(), episode()
    states = list(model.adaptation(batch.support_x, batch.support_y, ways=WAYS))
    first, *others = [model.predict(state, batch.query_x) for state in states]
    assert len(others) == 3
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-12, atol=1e-12)
    for name, p in initial(model).items():
        assert torch.equal(states[-1][name][0], p)


def test_adaptation_lowers_the_support_loss() -> None:
    model, batch = maml(small_conv4(), eval_inner_steps=10, inner_lr=0.1).eval(), episode()
    losses = [
        F.cross_entropy(model.predict(state, batch.support_x).flatten(0, 1), batch.support_y.flatten()).item()
        for state in model.adaptation(batch.support_x, batch.support_y, ways=WAYS)
    ]
    assert losses[-1] < 0.7 * losses[0]


def test_adapting_leaves_no_trace_in_the_model() -> None:
    for statistics in ("batch", "support"):
        model, batch = maml(small_conv4(), norm_statistics=statistics), episode()
        before = copy.deepcopy(model.state_dict())
        model(batch).loss.backward()
        after = model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert all(m.statistics is None for m in norm.batch_norms(model).values())


def test_evaluation_needs_no_gradients() -> None:
    model, batch = maml(small_conv4()).eval(), episode()
    with torch.no_grad():
        state = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
        found = model.predict(state, batch.query_x)
    assert not found.requires_grad
    again = model.predict(model.adapt(batch.support_x, batch.support_y, ways=WAYS), batch.query_x)
    torch.testing.assert_close(found, again, rtol=1e-12, atol=1e-12)


def test_one_loss_for_the_optimiser() -> None:
    model, batch = maml(small_conv4()), episode()
    out = model(batch)
    assert out.loss.shape == ()
    assert out.logits.shape == (TASKS, WAYS * QUERIES, WAYS)
    out.loss.backward()
    assert all(p.grad is not None for p in model.parameters())


# ---- heads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
def test_a_zero_head_has_the_right_gradient(first_order: bool) -> None:
    model = maml(small_conv4(), head_init="zero", inner_steps=2, first_order=first_order)
    assert not any(name.startswith("head") for name, _ in model.named_parameters())
    assert difference(model, episode(), steps=2, first_order=first_order) < TOLERANCE


@pytest.mark.parametrize("rate", ["fixed", "per_layer_step"])
def test_a_zero_head_serves_any_number_of_ways(rate: str) -> None:
    model = maml(small_conv4(), head_init="zero", inner_rate=rate).eval()
    for ways in (2, WAYS, 7):
        batch = episode(ways=ways)
        states = list(model.adaptation(batch.support_x, batch.support_y, ways=ways))
        assert torch.equal(model.predict(states[0], batch.query_x), torch.zeros(TASKS, ways * QUERIES, ways))
        found = model.predict(states[-1], batch.query_x)
        assert found.shape == (TASKS, ways * QUERIES, ways)
        assert found.abs().max() > 0


def test_a_learned_head_serves_its_own_number_of_ways() -> None:
    model, batch = maml(small_conv4()).eval(), episode(ways=5)
    message = (
        r"ways=5, but this head was learned for ways=3; evaluate with ways=3, or train with algorithm\.head_init=zero"
    )
    with pytest.raises(InputError, match=message):
        model.adapt(batch.support_x, batch.support_y, ways=5)


def test_learned_rates_of_a_zero_head_are_for_its_number_of_ways() -> None:
    model, batch = maml(small_conv4(), head_init="zero", inner_rate="per_parameter").eval(), episode(ways=5)
    with pytest.raises(InputError, match=r"ways=5, but inner_rate=per_parameter learned .* for ways=3"):
        model.adapt(batch.support_x, batch.support_y, ways=5)


def test_head_of_the_authors() -> None:
    model = maml(conv4(filters=64), head_init="normal", ways=50)
    assert model.head.weight.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(model.head.bias, torch.zeros(50, dtype=torch.float64))


# ---- errors and the record --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapt": "norms"}, r"algorithm\.adapt=norms is unknown; choose all, head or body"),
        ({"inner_optimizer": "lion"}, r"algorithm\.inner_optimizer=lion is unknown; choose sgd or adam"),
        ({"inner_clip": 0.0}, r"algorithm\.inner_clip=0\.0 is not above 0"),
        ({"loss_reduction": "sum"}, r"algorithm\.loss_reduction=sum is unknown; choose mean or sum_over_shot"),
        ({"norm_statistics": "own"}, r"algorithm\.norm_statistics=own is unknown; choose batch, support or running"),
        ({"head_init": "ones"}, r"algorithm\.head_init=ones is unknown; choose default, normal or zero"),
        ({"inner_rate": "adaptive"}, "inner_rate=adaptive is unknown"),
        ({"inner_steps": 0}, r"algorithm\.inner_steps=0 is below 1"),
        ({"eval_inner_steps": -1}, r"algorithm\.eval_inner_steps=-1 is below 0"),
        ({"task_chunk": 0}, r"algorithm\.task_chunk=0 is below 1"),
        ({"task_chunk": -2}, r"algorithm\.task_chunk=-2 is below 1"),
        ({"head_init": "zero", "adapt": "body"}, r"algorithm\.head_init=zero with adapt=body learns nothing"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        maml(small_conv4(), **options)


@pytest.mark.parametrize(("optimizer", "clip"), [("adam", None), ("sgd", 0.05), ("adam", 0.05)])
def test_the_inner_optimiser_is_pytorchs(optimizer: str, clip: float | None) -> None:
    """Task by task, torch.optim and clip_grad_norm_ give the same weights; the meta-gradient runs through them."""
    options: dict[str, Any] = {"inner_optimizer": optimizer, "inner_clip": clip, "inner_steps": 3, "inner_lr": 0.01}
    model, batch = maml(small_conv4(norm="none"), eval_inner_steps=3, **options).eval(), episode()
    adapted = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
    for task in range(TASKS):
        params = {name: p.detach().clone().requires_grad_() for name, p in initial(model).items()}
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
        inner = kind(list(params.values()), lr=0.01)
        for _ in range(3):
            inner.zero_grad()
            F.cross_entropy(logits(model, params, batch.support_x[task]), batch.support_y[task]).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(list(params.values()), clip)
            inner.step()
        for name, p in params.items():  # PyTorch adds 1e-6 to the norm that it divides by
            torch.testing.assert_close(adapted[name][task], p.detach(), rtol=1e-4, atol=1e-6)
    found = gradcheck.meta_gradient_differences(model, batch)
    assert max(found.values()) < 1e-9


def test_norms_that_track_in_place_are_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    net.out_features = 72
    with pytest.raises(InputError, match=r"backbone layer '1' is torch\.nn\.BatchNorm2d"):
        maml(net)


def test_the_protocol_is_on_record() -> None:
    model = maml(small_conv4(), norm_statistics="support", first_order=True)
    assert model.protocol() == {
        "norm_statistics": "support",
        "inner_steps_eval": 3,
        "first_order": True,
        "loss_reduction": "mean",
        "inner_rates_eval": None,
    }
    learned = maml(small_conv4(), inner_rate="per_layer_step", inner_steps=2, eval_inner_steps=5)
    assert learned.protocol()["inner_rates_eval"] == "step 2's from there on"
    assert not model.double_backward
    assert maml(small_conv4()).double_backward
    assert not maml(small_conv4(norm="layer")).transductive  # nothing is shared between queries
