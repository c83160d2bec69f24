"""Prototypical networks: prototypes are class means, distances squared, training in one joint forward."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewshot.algorithms.protonet import ProtoNet
from fewshot.backbones.conv4 import Conv4
from fewshot.episode import Episode, Episodes
from fewshot.errors import InputError

WAYS, SHOTS, QUERIES, TASKS = 3, 4, 5, 2


class Pixels(nn.Module):
    """The identity: an embedding whose prototypes can be seen."""

    out_features = 4

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def protonet(
    backbone: nn.Module | None = None, *, distance: str = "squared_euclidean", temperature: float = 10.0
) -> ProtoNet:
    stream = Episodes(tasks=TASKS, ways=WAYS, shots=SHOTS, queries=QUERIES)
    return ProtoNet(backbone or Pixels(), stream=stream, distance=distance, temperature=temperature)


def conv4(norm: str = "batch") -> Conv4:
    options: dict[str, Any] = {"norm_scale": True, "norm_eps": 1e-5, "activation": nn.ReLU()}
    return Conv4((1, 8, 8), filters=24, blocks=2, downsampling="pool", readout="flatten", norm=norm, **options)


def episode(image_shape: tuple[int, ...] = (1, 2, 2)) -> Episode:
    labels = torch.arange(WAYS)
    support_y, query_y = (labels.repeat_interleave(n).repeat(TASKS, 1) for n in (SHOTS, QUERIES))
    support_x, query_x = (torch.rand(*y.shape, *image_shape) for y in (support_y, query_y))
    return Episode(support_x, support_y, query_x, query_y, labels.repeat(TASKS, 1))


def test_prototypes_are_class_means() -> None:
    batch = episode()
    found = protonet().adapt(batch.support_x, batch.support_y, ways=WAYS)
    expected = batch.support_x.flatten(2).unflatten(1, (WAYS, SHOTS)).mean(2)
    torch.testing.assert_close(found, expected)


def test_the_order_of_the_support_set_does_not_matter() -> None:
    batch = episode()
    order = torch.stack([torch.randperm(WAYS * SHOTS) for _ in range(TASKS)])
    mixed_y = batch.support_y.gather(1, order)
    mixed_x = torch.stack([x[o] for x, o in zip(batch.support_x, order, strict=True)])
    model = protonet()
    expected = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
    torch.testing.assert_close(model.adapt(mixed_x, mixed_y, ways=WAYS), expected)


def test_classes_may_have_unequal_numbers_of_shots() -> None:
    x, y = torch.rand(1, 6, 1, 2, 2), torch.tensor([[0, 2, 2, 1, 2, 0]])
    found = protonet().adapt(x, y, ways=3)[0]
    flat = x[0].flatten(1)
    torch.testing.assert_close(found, torch.stack([flat[[0, 5]].mean(0), flat[3], flat[[1, 2, 4]].mean(0)]))


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("squared_euclidean", lambda z, c: -(torch.cdist(z, c) ** 2)),
        ("euclidean", lambda z, c: -torch.cdist(z, c)),
        ("cosine", lambda z, c: 7 * nn.functional.cosine_similarity(z[:, :, None], c[:, None], dim=-1)),
    ],
)
def test_logits_are_minus_the_distance(distance: str, expected: Any) -> None:
    model, batch = protonet(distance=distance, temperature=7.0).double(), episode()
    state = model.adapt(batch.support_x.double(), batch.support_y, ways=WAYS)
    query_x = batch.query_x.double()
    torch.testing.assert_close(model.predict(state, query_x), expected(query_x.flatten(2), state), rtol=1e-7, atol=1e-9)


def test_the_temperature_is_learned_for_cosine_only() -> None:
    batch, model = episode(), protonet(distance="cosine")
    model(batch).loss.backward()
    assert model.log_temperature.exp().item() == pytest.approx(10)
    assert model.log_temperature.grad.abs() > 0
    assert not list(protonet().parameters())


def test_training_loss_is_the_mean_negative_log_probability() -> None:
    model, batch = protonet(conv4("none")), episode((1, 8, 8))
    out = model(batch)
    logits = model.predict(model.adapt(batch.support_x, batch.support_y, ways=WAYS), batch.query_x)
    torch.testing.assert_close(out.logits, logits, rtol=1e-4, atol=1e-5)  # without batch norm the forwards may be apart
    log_p = logits.log_softmax(-1).gather(-1, batch.query_y[..., None])
    torch.testing.assert_close(out.loss, -log_p.mean())


def test_training_sends_support_and_query_through_one_forward() -> None:
    model, batch = protonet(conv4()), episode((1, 8, 8))
    sizes: list[int] = []
    model.backbone.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    model(batch)
    assert sizes == [TASKS * WAYS * (SHOTS + QUERIES)]
    layer, convolution = model.backbone.blocks[0][1], model.backbone.blocks[0][0]
    both = torch.cat([batch.support_x, batch.query_x], 1).flatten(0, 1)
    torch.testing.assert_close(
        layer.running_mean, 0.1 * convolution(both).mean((0, 2, 3)), rtol=1e-4, atol=1e-6
    )  # once


def test_joint_statistics_are_those_of_support_and_query_together() -> None:
    model, batch = protonet(conv4()), episode((1, 8, 8))
    moved = batch._replace(query_x=batch.query_x * 3 + 1)
    together = model(moved).logits
    apart = model.predict(model.adapt(moved.support_x, moved.support_y, ways=WAYS), moved.query_x)
    assert (together - apart).abs().max() > 0.1


def test_evaluation_is_inductive() -> None:
    model, batch = protonet(conv4()), episode((1, 8, 8))
    model(batch)  # moves the running statistics
    model.eval()
    before = {name: b.clone() for name, b in model.named_buffers()}
    state = model.adapt(batch.support_x, batch.support_y, ways=WAYS)
    together = model.predict(state, batch.query_x)
    order = torch.randperm(WAYS * QUERIES)
    torch.testing.assert_close(model.predict(state, batch.query_x[:, order]), together[:, order], rtol=1e-5, atol=1e-5)
    alone = torch.cat([model.predict(state, x) for x in batch.query_x.split(1, dim=1)], 1)
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert not model.transductive


def test_a_batch_of_tasks_is_the_tasks_one_by_one() -> None:
    model, batch = protonet(conv4()).eval(), episode((1, 8, 8))
    together = model.predict(model.adapt(batch.support_x, batch.support_y, ways=WAYS), batch.query_x)
    for t in range(TASKS):
        one = Episode(*[part[t : t + 1] for part in batch])
        alone = model.predict(model.adapt(one.support_x, one.support_y, ways=WAYS), one.query_x)
        torch.testing.assert_close(alone[0], together[t], rtol=1e-5, atol=1e-5)


def test_any_number_of_ways_after_training() -> None:
    x, y = torch.rand(1, 8, 1, 2, 2), torch.arange(8)[None]
    model = protonet().eval()
    found = model.predict(model.adapt(x, y, ways=8), x)
    assert torch.equal(found.argmax(-1), y)


def test_gradients_reach_every_parameter() -> None:
    model = protonet(conv4())
    model(episode((1, 8, 8))).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_unknown_distance() -> None:
    with pytest.raises(
        InputError, match=r"algorithm\.distance=manhattan is unknown; choose squared_euclidean, euclidean or cosine"
    ):
        protonet(distance="manhattan")


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_without_a_logarithm(temperature: float) -> None:
    with pytest.raises(InputError, match=f"algorithm.temperature={temperature} is not above 0"):
        protonet(distance="cosine", temperature=temperature)


def test_the_protocol_is_on_record() -> None:
    assert protonet(distance="cosine").protocol() == {"distance": "cosine", "norm_statistics": "running"}
