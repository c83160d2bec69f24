"""Relation networks: pairs of maps joined and compared one by one, with the papers' two ways of batch norm."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_data import Identity

from fewshot.algorithms.relation import RelationNet
from fewshot.episode import Episode, Episodes
from fewshot.errors import InputError
from fewshot.ops.norm import BatchNorm
from fewshot.testing import check_algorithm

WAYS, SHOTS, QUERIES, TASKS = 3, 2, 2, 2


class Maps(nn.Module):
    """A convolution and batch norm whose flattened map knows its shape."""

    def __init__(self, channels: int = 4, size: int = 6) -> None:
        super().__init__()
        self.map_shape = (channels, size, size)
        self.out_features = channels * size * size
        self.convolution, self.norm = nn.Conv2d(1, channels, 3, padding=1), BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolution(x))).flatten(1)


def relation(backbone: nn.Module | None = None, **options: Any) -> RelationNet:
    defaults: dict[str, Any] = {"class_map": "sum", "filters": 5, "hidden": 8, "padding": 1,
                                "norm_statistics": "running"}  # fmt: skip
    stream = Episodes(tasks=TASKS, ways=WAYS, shots=SHOTS, queries=QUERIES)
    return RelationNet(backbone or Maps(), stream=stream, **(defaults | options)).double()


def episode(*shape: int) -> Episode:
    labels = torch.arange(WAYS)
    y = [labels.repeat_interleave(n).repeat(TASKS, 1) for n in (SHOTS, QUERIES)]
    x = [torch.rand(*labels.shape, *(shape or (1, 6, 6)), dtype=torch.float64) for labels in y]
    return Episode(x[0], y[0], x[1], y[1], labels.repeat(TASKS, 1))


def batch_norm(layer: BatchNorm, x: Tensor, *, batch: bool) -> Tensor:
    stored = (None, None) if batch else (layer.running_mean, layer.running_var)
    return F.batch_norm(x, *stored, layer.weight, layer.bias, training=batch, eps=layer.eps)


def scores(model: RelationNet, batch: Episode, *, batch_statistics: bool, class_map: str = "sum") -> Tensor:
    """(1) and (2) for each task by itself: the pairs of a task joined and sent through g together."""
    net, g = model.backbone, model.relation
    logits = []
    for support_x, support_y, query_x in zip(batch.support_x, batch.support_y, batch.query_x, strict=True):
        maps = [F.relu(batch_norm(net.norm, net.convolution(x), batch=batch_statistics)) for x in (support_x, query_x)]
        of_class = [maps[0][support_y == k] for k in range(WAYS)]
        classes = torch.stack([m.sum(0) if class_map == "sum" else m.mean(0) for m in of_class])
        pairs = torch.stack([torch.cat([m, q]) for q in maps[1] for m in classes])  # [P*N, 2c, h, w]
        for layer, convolution in enumerate((g.first, g.second)):
            pairs = F.relu(batch_norm(g.norms[layer], convolution(pairs), batch=batch_statistics))
            pairs = F.max_pool2d(pairs, 2) if min(pairs.shape[2:]) > 1 else pairs
        logits.append(g.score(F.relu(g.hidden(pairs.flatten(1)))).view(-1, WAYS))
    return torch.stack(logits)


@pytest.mark.parametrize("class_map", ["sum", "mean"])
@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_scores_are_those_of_joined_maps(class_map: str, statistics: str) -> None:
    model, batch = relation(class_map=class_map, norm_statistics=statistics), episode()
    model(batch)  # moves the running statistics
    model.eval()
    found = model.predict(model.adapt(batch.support_x, batch.support_y, ways=WAYS), batch.query_x)
    expected = scores(model, batch, batch_statistics=statistics == "batch", class_map=class_map)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert model.transductive == (statistics == "batch")
    assert model.fixed_features == (statistics == "running")


def test_with_the_batchs_statistics_it_keeps_an_algorithms_contract() -> None:
    findings = {f.property: f for f in check_algorithm(relation(norm_statistics="batch"), image_shape=(1, 6, 6))}
    assert [str(f) for f in findings.values() if not f.ok] == []
    assert findings["transductive"].note == "stated; queries are judged together"


def test_training_is_on_the_squared_error_of_the_relations() -> None:
    model, batch = relation(), episode()
    one = Episode(*[part[:1] for part in batch])  # one task, whose statistics are the batch's
    out = model(one)
    expected = scores(model, one, batch_statistics=True)
    torch.testing.assert_close(out.logits, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(out.loss, F.mse_loss(expected.sigmoid(), F.one_hot(one.query_y, WAYS).double()))
    out.loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in model.parameters())


def test_classes_may_have_unequal_numbers_of_shots() -> None:
    x, y = torch.rand(1, 6, 4, dtype=torch.float64), torch.tensor([[0, 2, 2, 1, 2, 0]])
    for class_map, over in (("sum", torch.sum), ("mean", torch.mean)):
        found = relation(Identity(4), class_map=class_map).adapt(x, y, ways=3)[0]
        expected = torch.stack([over(x[0, rows], 0) for rows in ([0, 5], [3], [1, 2, 4])])
        torch.testing.assert_close(found, expected[..., None, None])


def test_a_network_is_asked_for_its_map_and_any_other_embedding_is_one_position() -> None:
    model, batch = relation(Identity(7)), episode(7)
    behind = nn.Sequential(Maps())
    behind.out_features = 4 * 6 * 6
    assert relation(behind).map_shape == (4, 6, 6)
    assert model.map_shape == (7, 1, 1)
    assert model(batch).logits.shape == (TASKS, WAYS * QUERIES, WAYS)


def test_a_map_that_the_convolutions_use_up() -> None:
    with pytest.raises(InputError, match=r"map of 6x6 is too small for algorithm\.padding=0; use padding=1"):
        relation(padding=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_map": "max"}, r"algorithm\.class_map=max is unknown; choose sum or mean"),
        ({"norm_statistics": "support"}, r"algorithm\.norm_statistics=support is unknown; choose running or batch"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        relation(**options)


def test_batch_statistics_need_norms_that_keep_none() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    net.out_features = 32
    relation(net)
    with pytest.raises(InputError, match="layer '1'"):
        relation(net, norm_statistics="batch")


def test_the_protocol_is_on_record() -> None:
    assert relation(norm_statistics="batch").protocol() == {
        "class_map": "sum",
        "map": [4, 6, 6],
        "norm_statistics": "batch",
    }
