"""Conformance: every shipped algorithm keeps its contract, and planted faults are caught and named."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from composed import compose
from torch import Tensor, nn

from fewshot import assemble
from fewshot.algorithms.base import Algorithm, embed
from fewshot.episode import Batch, Episode, Episodes, StepOutput
from fewshot.errors import InputError
from fewshot.ops import norm
from fewshot.ops.similarities import class_means, squared_distances
from fewshot.testing import Finding, check_algorithm

SHIPPED = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "algorithm").glob("*.yaml"))
SHAPE = (1, 8, 8)
WAYS = 3


class Nearest(Algorithm):
    """A prototypical network, small. Its relatives below have a fault each."""

    fixed_features = True

    def __init__(self, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone or nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh())
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.stream = Episodes(tasks=2, ways=WAYS, shots=1, queries=1)

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        return class_means(embed(self.backbone, support_x), support_y, ways)

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return -squared_distances(embed(self.backbone, query_x), state) * self.factor


def findings(algorithm: Any, **sizes: int) -> dict[str, Finding]:
    found = check_algorithm(algorithm, image_shape=SHAPE, **sizes)
    return {finding.property: finding for finding in found}


def faults(algorithm: Any) -> dict[str, str]:
    return {name: f.note for name, f in findings(algorithm).items() if not f.ok}


# ---- what is shipped --------------------------------------------------------------------------------------

FEW_STEPS = {  # of iterations, which many steps would make long and sensitive to rounding
    "baseline": "algorithm.adapt_steps=3", "baseline_pp": "algorithm.adapt_steps=3",
    "tim": "algorithm.steps=3", "alpha_tim": "algorithm.steps=3",
    "transductive_finetuning": "algorithm.steps=3",
    "maml_pp": "algorithm.inner_steps=2 algorithm.eval_inner_steps=2",
    "proto_maml": "algorithm.inner_steps=2 algorithm.eval_inner_steps=2",
    "reptile": "algorithm.inner_steps=2 algorithm.eval_inner_steps=3",
}  # fmt: skip


@functools.cache
def shipped(name: str) -> Algorithm:
    net = ["backbone=mlp", "backbone.widths=[8,6]", "ways=3", "queries=2"]
    words = [*net, f"algorithm={name}", *FEW_STEPS.get(name, "").split()]
    context = {"image_shape": list(SHAPE), "train_classes": 4}
    return assemble.make_algorithm(compose("config", words).config, context, 0)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_algorithms_keep_their_contract(name: str) -> None:
    found = check_algorithm(shipped(name), image_shape=SHAPE, train_classes=4)
    assert [str(f) for f in found if not f.ok] == []
    assert len(found) == 16


def test_a_sound_one_has_no_fault_by_itself_or_made_by_a_function() -> None:
    for algorithm in (Nearest(), Nearest, lambda: Nearest(norm.convert(convolutional()))):
        assert faults(algorithm) == {}
        assert findings(algorithm, ways=5)["features"] == Finding("features", True, "")


def convolutional(*more: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *more, nn.Flatten(), nn.Linear(144, 5))


# ---- planted faults ---------------------------------------------------------------------------------------


class LeaksQueries(Nearest):
    """Moves the prototypes to the queries."""

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        z = embed(self.backbone, query_x)
        return -squared_distances(z, state + z.mean(1, keepdim=True)) * self.factor


class LikesTheFirstLabel(Nearest):
    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        logits = super().predict(state, query_x)
        return logits + torch.arange(logits.shape[-1]).eq(0) * 0.01


class MixesTasks(Nearest):
    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        means = super().adapt(support_x, support_y, ways=ways)
        return means + 0.01 * means.mean(0)


class Remembers(Nearest):
    """An average over all prototypes so far, in a plain attribute."""

    average: Tensor | None = None

    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        means = super().adapt(support_x, support_y, ways=ways)
        centre = means.mean(1, keepdim=True).detach()
        self.average = centre if self.average is None else 0.9 * self.average + 0.1 * centre
        return means + self.average


class HandsOnThroughSelf(Nearest):
    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        self.means = super().adapt(support_x, support_y, ways=ways)
        return self.means

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return super().predict(self.means, query_x)


class IgnoresWays(Nearest):
    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        return super().adapt(support_x, support_y, ways=WAYS)


class BreaksTheGradient(Nearest):
    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        return super().adapt(support_x, support_y, ways=ways).detach()

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return -squared_distances(embed(self.backbone, query_x).detach(), state) * self.factor


class GradientOfTheFirstTask(Nearest):
    def forward(self, batch: Batch) -> StepOutput:
        out = super().forward(batch)
        assert isinstance(batch, Episode)
        first = nn.functional.cross_entropy(out.logits[0], batch.query_y[0])
        return StepOutput(first, out.logits)


class ReadsTheOrder(Nearest):
    """Queries come class by class."""

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        logits = super().predict(state, query_x)
        tasks, queries, ways = logits.shape
        y = torch.arange(ways).repeat_interleave(queries // ways).repeat(tasks, 1)
        return nn.functional.one_hot(y, ways) + 0 * logits


class Reseeds(Nearest):
    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        torch.manual_seed(0)
        return super().adapt(support_x, support_y, ways=ways)


class StaysInTraining(Nearest):
    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        self.backbone.train()
        return super().predict(state, query_x)


class WritesIntoTheQueries(Nearest):
    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return super().predict(state, query_x.mul_(0.9))


class LearnsBesideTheStateDict(Nearest):
    """Running mean of the training's embeddings, no buffer of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, batch: Batch) -> StepOutput:
        assert isinstance(batch, Episode)
        self.seen.append(embed(self.backbone, batch.query_x).detach().mean((0, 1)))
        return super().forward(batch)

    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        z = embed(self.backbone, query_x)
        centre = torch.stack(self.seen).mean(0) if self.seen and not self.training else 0 * z[0, 0]
        return (z - centre) @ (state - centre).mT * self.factor


class TracesAtOtherWays(Nearest):
    def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
        return super().adapt(support_x, support_y, ways=ways).view(len(support_x), WAYS, 6)


class GivesEmbeddings(Nearest):
    def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
        return embed(self.backbone, query_x)


PLANTED: list[tuple[type[Algorithm], str, str]] = [
    (LeaksQueries, "transductive", "transductive=False, but the prediction for a query depends on the other queries"),
    (LikesTheFirstLabel, "label order", "which label a class gets changes its predictions"),
    (MixesTasks, "tasks apart", "the prediction for a task depends on the other tasks of its batch"),
    (Remembers, "no memory", "the same episode gets other predictions after another one: something is kept"),
    (HandsOnThroughSelf, "no memory", "predict goes by the last support set, not by the state that it is given"),
    (IgnoresWays, "other ways", "ways=2: predict gave logits of shape (3, 6, 3); expected (3, 6, 2), that is tasks"),
    (BreaksTheGradient, "gradient", "the gradient of the loss does not reach backbone.1.weight, backbone.1.bias"),
    (GradientOfTheFirstTask, "gradient apart", "the gradient of a batch is not the mean of its parts'"),
    (ReadsTheOrder, "query order", "predictions depend on the order of the queries, which tells their classes"),
    (Reseeds, "no traces", "evaluation mode change the state of the random generator"),
    (StaysInTraining, "no traces", "evaluation mode change the training mode of a module"),
    (WritesIntoTheQueries, "no traces", "evaluation mode change query_x"),
    (LearnsBesideTheStateDict, "state dict", "something learned is not in it"),
    (TracesAtOtherWays, "other ways", "ways=2: RuntimeError: shape '[3, 3, 6]' is invalid"),
    (GivesEmbeddings, "runs", "ways=3: predict gave logits of shape (3, 9, 6); expected (3, 9, 3)"),
]


@pytest.mark.parametrize(("faulty", "name", "message"), PLANTED, ids=[faulty.__name__ for faulty, *_ in PLANTED])
def test_a_planted_fault_is_named(faulty: type[Algorithm], name: str, message: str) -> None:
    found = faults(faulty())
    assert message in found[name]
    assert "\n" not in found[name]


def test_what_only_training_does_is_checked_too() -> None:
    """Spectral norm and stochastic depth are idle in evaluation; under vmap training stops in them."""
    from torchvision.ops import StochasticDepth

    from fewshot.algorithms.maml import MAML

    class Body(nn.Module):
        out_features = 4

        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.first, self.layer, self.last = nn.Flatten(), layer, nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(self.first(x)))

    def maml(layer: nn.Module) -> MAML:
        options: Any = {
            "inner_lr": 0.1, "inner_rate": "fixed", "inner_steps": 1, "eval_inner_steps": 1, "first_order": False,
            "adapt": "all", "adapt_norm": True, "loss_reduction": "mean", "norm_statistics": "batch",
            "head_init": "zero", "task_chunk": None, "checkpoint_inner": False,
        }  # fmt: skip
        stream = Episodes(tasks=2, ways=WAYS, shots=1, queries=1)
        return MAML(Body(layer), ways=WAYS, stream=stream, **options)

    assert faults(maml(nn.Dropout(0.5))) == {}
    spectral = faults(maml(nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64))))
    assert "(in layer backbone.layer" in spectral["training"]
    assert set(spectral) <= {"training", "gradient", "state dict"}
    depth = faults(maml(StochasticDepth(0.5, "batch")))
    assert depth == {} or "(in layer backbone.layer (StochasticDepth))" in depth["training"]


def test_batch_norm_that_never_stops_counting_is_no_fixed_feature() -> None:
    found = faults(Nearest(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5, track_running_stats=False))))
    assert "the embedding of an image depends on the other images" in found["features"]
    assert "depends on the other queries" in found["transductive"]


def test_sizes_that_cannot_be_served_are_said_in_a_line() -> None:
    class OneShotOnly(Nearest):
        def adapt(self, support_x: Tensor, support_y: Tensor, *, ways: int) -> Tensor:
            if support_x.shape[1] // ways > 2:
                raise InputError("shots=4, but this one serves 1 or 2")
            return super().adapt(support_x, support_y, ways=ways)

    found = findings(OneShotOnly())["other shots"]
    assert found == Finding("other shots", True, "refused: shots=4, but this one serves 1 or 2")
    assert str(found) == "ok     other shots: refused: shots=4, but this one serves 1 or 2"


def test_what_does_not_run_is_not_examined_further() -> None:
    class Untyped(Nearest):
        def predict(self, state: Tensor, query_x: Tensor) -> Any:
            return None

    (found,) = check_algorithm(Untyped(), image_shape=SHAPE)
    assert str(found) == "FAILED runs: predict gave a NoneType; expected a tensor [T, N*Q, N]"


def test_float32_where_float64_is_not_possible() -> None:
    class Single(Nearest):
        def predict(self, state: Tensor, query_x: Tensor) -> Tensor:
            return super().predict(state, query_x) @ torch.eye(state.shape[1])

    found = findings(Single())
    assert [f for f in found.values() if not f.ok] == []
    assert "compared in float32, since float64 raises RuntimeError" in found["runs"].note


def test_the_algorithm_and_the_random_numbers_stay_as_they_are() -> None:
    algorithm = Nearest().train()
    weights, state = [p.clone() for p in algorithm.parameters()], torch.get_rng_state()
    check_algorithm(algorithm, image_shape=SHAPE)
    assert all(torch.equal(a, b) for a, b in zip(algorithm.parameters(), weights, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert algorithm.training and algorithm.factor.dtype == torch.float32 and algorithm.factor.grad is None
