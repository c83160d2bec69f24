"""One outer update: parts add up to the whole, nothing in it asks the device, and a replay does the same work.

Without a GPU a replay is that of a `Tape`: see tape.py.
"""

import copy
import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from composed import compose
from tape import Tape, on_tape
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot import assemble, checkpoint
from fewshot.algorithms.base import Algorithm
from fewshot.datasets.base import ImageSet
from fewshot.engine import capture
from fewshot.engine.processes import Processes
from fewshot.episode import Batch, Episode, StepOutput
from fewshot.evaluation import evaluate
from fewshot.ops.dropblock import DropBlock
from fewshot.outer_step import DrawnStep, OuterStep
from fewshot.sampler import EpisodeSampler
from fewshot.streams import BatchStream, BlockStream, stream

CPU = torch.device("cpu")
ADAM = functools.partial(torch.optim.Adam, lr=0.01, fused=True)
SGD = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=True)
# Large eps: where a gradient is nothing but rounding (a bias in front of a norm), Adam makes whole steps of it.
CALM_ADAM = functools.partial(torch.optim.Adam, lr=0.01, eps=1e-2, fused=True)
MODELS = {
    "maml": ["algorithm=maml", "algorithm.stream.tasks=4"],
    "maml running": ["algorithm=maml", "algorithm.stream.tasks=4", "algorithm.norm_statistics=running",
                     "algorithm.inner_steps=2", "algorithm.task_chunk=2"],
    "maml checkpointed": ["algorithm=maml", "algorithm.stream.tasks=4", "algorithm.inner_steps=2",
                          "algorithm.checkpoint_inner=true"],
    "metasgd": ["algorithm=metasgd", "algorithm.stream.tasks=4", "algorithm.norm_statistics=support"],
    "protonet": ["algorithm=protonet", "algorithm.stream.tasks=2", "train_ways={low:2,high:3}",
                 "train_shots={low:1,high:3}"],
    "baseline": ["algorithm=baseline", "algorithm.stream.batch_size=8", "algorithm.adapt_steps=3"],
}  # fmt: skip
DRAWN = "proto_maml of drawn sizes"  # of which no step is captured
ALSO_DRAWN = {DRAWN: ["algorithm=proto_maml", "algorithm.inner_steps=1", "algorithm.stream.tasks=2",
                      "train_ways={low:2,high:3}", "train_shots={low:1,high:3}"]}  # fmt: skip


@functools.cache
def configured(model: str) -> dict[str, Any]:
    net = ["backbone=conv4", "backbone.blocks=2", "backbone.filters=4"]
    return compose("config", ["ways=3", "queries=2", *net, *(MODELS | ALSO_DRAWN)[model]]).config


def make(model: str, images: ImageSet, *, dropout: float = 0.0) -> Algorithm:
    config = configured(model)
    algorithm = assemble.make_algorithm(config, assemble.data_context(config, images), 0)
    network = getattr(algorithm.backbone, "network", algorithm.backbone)  # behind its normalisation
    network.blocks.append(nn.Dropout(dropout))
    return algorithm


def draws(algorithm: Algorithm, images: ImageSet, **options: Any) -> Any:
    defaults = {"seed": 0, "within_groups": False, "device": CPU, "padded": algorithm.unequal_tasks}
    return stream(algorithm.stream, images, "train", **(defaults | options))


def outer(algorithm: Algorithm, optimizer: Callable[..., Any] = ADAM, **options: Any) -> OuterStep:
    defaults = {"gradient_clip": None, "gradient_clip_value": None, "device": CPU}
    torch.manual_seed(5)
    return OuterStep(algorithm.train(), optimizer(algorithm.parameters()), **(defaults | options))


@pytest.fixture
def images(make_blobs: Callable[..., ImageSet]) -> ImageSet:
    return make_blobs(classes=15)


def double(batch: Batch) -> Batch:
    return type(batch)(*[t.double() if t.is_floating_point() else t for t in batch])  # type: ignore[arg-type]


# ---- parts of a batch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", ["maml", "maml running", "metasgd"])
def test_the_mean_over_processes_is_the_gradient_of_all_tasks(images: ImageSet, model: str, parts: int) -> None:
    """MAML's statistics are per task, so that N processes with T/N tasks compute what one with T does."""

    def after(part: int, parts: int) -> tuple[Tensor, Tensor]:
        algorithm = make(model, images).double().train()
        batch = double(draws(algorithm, images, part=part, parts=parts).batch(3))
        assert isinstance(batch, Episode)
        assert len(batch.query_y) == 4 // parts
        algorithm(batch).loss.backward()
        gradients = [p.grad.flatten() for p in algorithm.parameters() if p.grad is not None]
        return torch.cat(gradients), torch.cat([b.flatten() for b in algorithm.buffers()])

    whole, whole_buffers = after(0, 1)
    each = [after(part, parts) for part in range(parts)]
    gradient = torch.stack([g for g, _ in each]).mean(0)
    assert whole.norm() > 1e-3
    assert (gradient - whole).norm() <= 1e-12 * whole.norm()
    torch.testing.assert_close(torch.stack([b for _, b in each]).mean(0), whole_buffers, rtol=1e-12, atol=1e-14)


def test_constants_of_a_network_are_not_averaged(make_blobs: Callable[..., ImageSet]) -> None:
    """The normalisation's mean and std are the same everywhere, and a sum of equal numbers may be rounded."""

    class Two(Processes):
        def mean_(self, tensors: Sequence[Tensor]) -> None:
            for tensor in tensors:
                tensor.fill_(7.0)

    images = replace(make_blobs(classes=15), mean=[0.1], std=[0.3])
    algorithm = make("maml running", images)
    step = outer(algorithm, SGD, processes=Two(size=2))
    step(draws(algorithm, images).batch(0), step=0, rate=1.0)
    buffers = dict(algorithm.named_buffers())
    assert {name for name in buffers if name not in algorithm.state_dict()} == {"backbone.mean", "backbone.std"}
    assert buffers.pop("backbone.mean").item() == pytest.approx(0.1)
    assert buffers.pop("backbone.std").item() == pytest.approx(0.3)
    assert buffers and all((b == 7).all() for b in buffers.values() if b.is_floating_point())


SLOW = {"maml checkpointed": pytest.mark.slow}  # the same graph as MAML's, each inner step computed twice
CASES = [*(pytest.param(m, ADAM, marks=SLOW.get(m, ())) for m in MODELS), ("protonet", SGD)]


# ---- a stop in between --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "optimizer"), [*CASES, (DRAWN, ADAM)])
def test_going_on_from_a_checkpoint_is_as_if_never_stopped(
    images: ImageSet, tmp_path: Path, model: str, optimizer: Callable[..., Any]
) -> None:
    """To the last bit, also where weights lie channels last and a checkpoint's tensors do not."""
    at_once = make(model, images)
    step = outer(at_once, optimizer)
    batches = draws(at_once, images)
    for k in range(4):
        if k == 2:
            checkpoint.save(tmp_path, k, step.state())
        step(batches.batch(k), step=k, rate=1.0)

    resumed = make(model, images)
    later = outer(resumed, optimizer)
    _, state = checkpoint.load(tmp_path)
    checkpoint.load_into(resumed, state["model"])
    later.load(state, step=2, window=[0.0, 0.0])
    for k in range(2, 4):
        later(batches.batch(k), step=k, rate=1.0)
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, at_once.state_dict()[name]), name


# ---- what depends on the number of training steps ------------------------------------------------------------


def dropping(model: str, images: ImageSet) -> tuple[Algorithm, DropBlock]:
    """With a DropBlock that drops more from step to step, from the first step's 0 on."""
    algorithm = make(model, images)
    layer = DropBlock(rate=0.5, size=1, ramp=8)
    algorithm.backbone.blocks.append(layer)  # type: ignore[union-attr, operator]
    return algorithm, layer


@pytest.mark.parametrize("model", ["maml running", "maml checkpointed", "protonet"])
def test_a_training_step_counts_once_whatever_its_forwards(images: ImageSet, model: str) -> None:
    """Support and query, inner steps, chunks, a forward computed again, tasks under vmap; an evaluation: never."""
    algorithm, layer = dropping(model, images)
    step, batches = outer(algorithm), draws(algorithm, images)
    sampler = EpisodeSampler(images, "val", ways=3, shots=1, queries=2, seed=0)
    for k in range(2):
        step(batches.batch(k), step=k, rate=1.0)
        evaluate(algorithm, sampler, episodes=2, tasks=2)
        assert layer.steps == k + 1


@pytest.mark.parametrize("model", ["maml running", "protonet"])
def test_a_stop_in_between_keeps_the_counter(images: ImageSet, tmp_path: Path, model: str) -> None:
    at_once, _ = dropping(model, images)
    step, batches = outer(at_once), draws(at_once, images)
    for k in range(4):
        if k == 2:
            checkpoint.save(tmp_path, k, step.state())
        step(batches.batch(k), step=k, rate=1.0)
    resumed, layer = dropping(model, images)
    later = outer(resumed)
    _, state = checkpoint.load(tmp_path)
    checkpoint.load_into(resumed, state["model"])
    later.load(state, step=2, window=[0.0, 0.0])
    assert layer.steps == 2
    for k in range(2, 4):
        later(batches.batch(k), step=k, rate=1.0)
    assert_equal(at_once.state_dict(), resumed.state_dict())


def test_a_step_that_is_not_finite_does_not_count(images: ImageSet) -> None:
    algorithm, layer = dropping("protonet", images)
    _, step = trained(algorithm, images, steps=7, spoiled=5)
    assert step.guard.bad_step(wait=True) == 5
    assert layer.steps == 4


# ---- nothing asks the device --------------------------------------------------------------------------------


class Asking(TorchDispatchMode):
    """Remembers what would make a GPU and this process wait for each other."""

    WAITS = ("_local_scalar_dense", "lift_fresh", "nonzero", "equal", "is_nonzero", "masked_select", "item", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.WAITS:
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "ask", [bool, Tensor.item, lambda x: x[x > 0], lambda x: torch.tensor(1.0), lambda x: x.new_tensor(0.0)]
)
def test_what_asks_is_noticed(ask: Callable[[Tensor], Any]) -> None:
    with Asking() as mode:
        ask(torch.ones(()))
    assert mode.asked


@pytest.mark.parametrize(
    ("model", "within_groups"), [*((m, False) for m in (*MODELS, DRAWN)), *((m, True) for m in ("protonet", DRAWN))]
)
def test_a_step_asks_nothing(images: ImageSet, model: str, within_groups: bool) -> None:
    algorithm, _ = dropping(model, images)
    algorithm.backbone.blocks.append(nn.Dropout(0.3))  # type: ignore[union-attr, operator]
    step = outer(algorithm, gradient_clip=1.0, gradient_clip_value=0.5)
    batches = draws(algorithm, images, within_groups=within_groups)
    for k in (0, 63, 64):  # two blocks of draws, and several epochs
        with Asking() as mode:
            step(batches.batch(k), step=k, rate=0.5)
        assert mode.asked == [], k


@pytest.mark.parametrize("model", [pytest.param(m, marks=SLOW.get(m, ())) for m in MODELS])
def test_an_evaluation_asks_nothing_before_its_end(images: ImageSet, model: str) -> None:
    algorithm = make(model, images)
    sampler = EpisodeSampler(images, "val", ways=3, shots=1, queries=2, seed=0)
    mode = Asking()
    asked: list[int] = []
    with mode:
        evaluate(
            algorithm, sampler, episodes=6, tasks=2, every_step=True, before_batch=lambda: asked.append(len(mode.asked))
        )
    assert asked == [0, 0, 0]


# ---- captured and plain steps agree -------------------------------------------------------------------------


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    return on_tape(monkeypatch)


class Spoiled(BlockStream):
    """A stream of which one batch is nothing but nan."""

    def __init__(self, stream: BlockStream, step: int) -> None:
        self.stream, self.step, self.block, self.source = stream, step, stream.block, stream.source
        self.draw = stream.draw

    def gather(self, drawn: Any, k: int | Tensor) -> Batch:
        factor = torch.where(torch.as_tensor(k == self.step - 1), math.nan, 1.0)
        batch = self.stream.gather(drawn, k)
        return type(batch)(*[t * factor if t.is_floating_point() else t for t in batch])


class Numbered:
    """The batches of a stream by their numbers alone, as a user's own stream may give them."""

    def __init__(self, stream: BatchStream) -> None:
        self.batch = stream.batch


def trained(
    algorithm: Algorithm, images: ImageSet, *, steps: int = 10, device: torch.device = CPU, spoiled: int | None = None,
    given: bool = False, **options: Any,
) -> tuple[dict[str, Tensor], OuterStep]:  # fmt: skip
    """Weights and buffers after some steps, with a rate and dropout of their own in each.

    given: batches are drawn outside and given to the step.
    """
    step = outer(algorithm.to(device), gradient_clip=0.5, device=device, **options)
    batches = draws(algorithm, images.on(device), device=device)
    batches = batches if spoiled is None else Spoiled(batches, spoiled)
    drawn_step = DrawnStep(step, batches)
    for k in range(steps):
        if given:
            step(batches.batch(k), step=k, rate=1 / (k + 1))
        else:
            drawn_step(step=k, rate=1 / (k + 1))
    return {name: t.detach().clone() for name, t in algorithm.state_dict().items()}, step


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name, value in a.items():
        assert torch.equal(b[name], value), name


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Up to rounding: a captured rate is a float32, and a GPU adds in any order."""
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("model", "optimizer"), CASES)
def test_a_replayed_step_does_the_same_to_the_last_bit(
    images: ImageSet, taped: list[Tape], model: str, optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, gradients and optimiser in one, against the parts one by one with batches from outside."""
    dropout = 0.0 if model == "maml checkpointed" else 0.3
    replayed, step = trained(make(model, images, dropout=dropout), images, optimizer=optimizer, cuda_graph=True)
    graphs = 1 if model == "baseline" else 2  # the step; where the episodes' block of two ends, the draw
    assert len(taped) == graphs
    monkeypatch.setattr(capture, "WARMUP", 10)  # all of them
    plain, by_hand = trained(
        make(model, images, dropout=dropout), images, optimizer=optimizer, cuda_graph=True, given=True
    )
    assert len(taped) == graphs
    assert_equal(plain, replayed)
    assert torch.equal(by_hand.window, step.window)
    assert by_hand.guard.steps == step.guard.steps == 10


@pytest.mark.parametrize("model", ["protonet", "baseline"])
def test_a_replayed_draw_gives_the_streams_batches(images: ImageSet, taped: list[Tape], model: str) -> None:
    """Over many blocks and epochs, each with a permutation of its own, and from the middle of one on."""
    algorithm = make(model, images)
    batches = draws(algorithm, images)
    drawn_step = DrawnStep(outer(algorithm, cuda_graph=True), batches)
    seen: list[Tensor] = []
    drawn_step.step.gradients_of = lambda batch: seen.append(batch[0].clone())
    drawn_step.step.clip_and_step = lambda: None
    for k in range(3, 5 * batches.block + 4, max(1, batches.block - 1)):
        drawn_step._draw_if_due(k)
        drawn_step._batch_and_step()
        assert torch.equal(seen.pop(), batches.batch(k)[0]), k
    assert len(taped) == 1


def test_a_replayed_step_drops_more_from_step_to_step(
    images: ImageSet, taped: list[Tape], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter is read from the device: a number of Python's would stay what it was at the capture."""
    (algorithm, layer), (by_hand, _) = dropping("protonet", images), dropping("protonet", images)
    replayed, _ = trained(algorithm, images, cuda_graph=True)
    assert len(taped) == 2
    assert layer.steps == 10
    monkeypatch.setattr(capture, "WARMUP", 10)
    plain, _ = trained(by_hand, images, cuda_graph=True)
    assert_equal(plain, replayed)


@pytest.mark.parametrize("parts", [True, False])
def test_between_processes_the_exchange_is_no_part_of_a_graph(
    images: ImageSet, taped: list[Tape], monkeypatch: pytest.MonkeyPatch, parts: bool
) -> None:
    """Two processes of the same data: the mean is their own gradient, replayed in two graphs or not at all."""

    class Alike(Processes):
        def mean_(self, tensors: Sequence[Tensor]) -> None:
            asked.append(len(tensors))

    def refuse(function: capture.Replay) -> capture.Replay:
        raise RuntimeError("not here")

    asked: list[int] = []
    alone, _ = trained(make("maml", images), images, cuda_graph=True)
    taped.clear()
    if not parts:
        monkeypatch.setattr(capture, "cuda_graph", refuse)
    two, _ = trained(make("maml", images), images, cuda_graph=True, processes=Alike(size=2))
    assert len(taped) == (3 if parts else 0)  # the draw, gradients, optimiser
    assert len(asked) == 10
    assert_equal(alone, two)


@pytest.mark.parametrize("spoiled", [3, 4, 7])
def test_a_replayed_step_freezes_at_what_is_not_finite(images: ImageSet, taped: list[Tape], spoiled: int) -> None:
    _, step = trained(make("protonet", images), images, cuda_graph=True, steps=9, spoiled=spoiled)
    before, _ = trained(make("protonet", images), images, cuda_graph=True, steps=spoiled - 1)
    assert step.guard.bad_step(wait=True) == spoiled
    assert_equal(before, dict(step.algorithm.state_dict()))


def test_what_cannot_be_captured_runs_as_it_is(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[str]]
) -> None:
    def refuse(function: capture.Replay) -> capture.Replay:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(capture, "cuda_graph", refuse)
    plain, _ = trained(make("protonet", images), images, optimizer=CALM_ADAM)
    captured, _ = trained(make("protonet", images), images, optimizer=CALM_ADAM, cuda_graph=True)
    assert_close(plain, captured)
    reason = "(operation not permitted when stream is capturing)"
    assert logged() == [
        f"the outer step with its data cannot be captured in a CUDA graph and is captured without them {reason}",
        f"the outer gradient cannot be captured in a CUDA graph and runs as it is {reason}",
    ]  # the optimiser's step follows without a word: gradients now move in memory


def test_steps_of_changing_size_are_not_captured(
    images: ImageSet, taped: list[Tape], logged: Callable[[], list[str]]
) -> None:
    """Each is the step of its size typed, by the same optimiser, and one line says why."""
    graphs, step = trained(make(DRAWN, images), images, cuda_graph=True, optimizer=CALM_ADAM, steps=6)
    assert taped == [] and step.guard.steps == 6
    assert logged() == ["the sizes of episodes are drawn for each step: steps are not captured in a CUDA graph"]
    typed = make(DRAWN, images)
    by_hand, sized = outer(typed, CALM_ADAM, gradient_clip=0.5), draws(typed, images)
    for k in range(6):
        ways, shots, queries = sized.size(k)
        typed.stream = replace(typed.stream, ways=ways, shots=shots, queries=queries)
        by_hand(draws(typed, images).batch(k), step=k, rate=1 / (k + 1))
    assert_close(dict(typed.state_dict()), graphs)


def test_a_stream_of_ones_own_is_drawn_outside_the_graph(
    images: ImageSet, taped: list[Tape], logged: Callable[[], list[str]]
) -> None:
    replayed, _ = trained(make("protonet", images), images, cuda_graph=True)
    algorithm = make("protonet", images)
    step = outer(algorithm, gradient_clip=0.5, cuda_graph=True)
    taped.clear()
    drawn_step = DrawnStep(step, Numbered(draws(algorithm, images)))
    for k in range(10):
        drawn_step(step=k, rate=1 / (k + 1))
    assert len(taped) == 2  # gradients, optimiser
    assert_equal(replayed, dict(algorithm.state_dict()))
    assert logged() == ["Numbered is no BlockStream: its batches are made outside the CUDA graph"]


def test_dropout_in_checkpointed_steps_is_not_captured(
    images: ImageSet, taped: list[Tape], caplog: pytest.LogCaptureFixture
) -> None:
    plain, _ = trained(make("maml checkpointed", images, dropout=0.3), images, optimizer=CALM_ADAM, steps=6)
    with caplog.at_level(logging.WARNING, "fewshot"):
        not_captured, _ = trained(
            make("maml checkpointed", images, dropout=0.3), images, optimizer=CALM_ADAM, cuda_graph=True, steps=6
        )
    assert taped == []
    assert_close(plain, not_captured)
    assert "(checkpoint_inner has to draw its dropout twice alike)" in caplog.text


def test_an_optimiser_that_cannot_freeze_is_not_captured(images: ImageSet, taped: list[Tape]) -> None:
    trained(make("protonet", images), images, optimizer=functools.partial(torch.optim.Adam, lr=0.01), cuda_graph=True)
    assert taped == []


def test_a_checkpoint_does_not_tell_whether_steps_were_captured(images: ImageSet, taped: list[Tape]) -> None:
    saved = {}
    for graph in (False, True):
        _, step = trained(make("protonet", images), images, optimizer=CALM_ADAM, steps=5, cuda_graph=graph)
        saved[graph] = step.state()
    groups = [saved[graph]["optimizer"]["param_groups"][0] for graph in (False, True)]
    assert [type(group["lr"]) for group in groups] == [float, float]
    ends = []
    for graph, origin in ((False, True), (True, False), (False, False)):
        algorithm = make("protonet", images)
        state = copy.deepcopy(saved[origin])  # as a file is
        algorithm.load_state_dict(state["model"])
        step = outer(algorithm, CALM_ADAM, gradient_clip=0.5, cuda_graph=graph)
        step.load(state, step=5, window=[0.0, 0.0])
        drawn_step = DrawnStep(step, draws(algorithm, images))
        for k in range(5, 10):
            drawn_step(step=k, rate=1 / (k + 1))
        ends.append(dict(algorithm.state_dict()))
    whole, _ = trained(make("protonet", images), images, optimizer=CALM_ADAM)
    for end in ends:
        assert_close(whole, end)


# ---- the same on a GPU --------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize(("model", "optimizer"), [*((model, CALM_ADAM) for model in MODELS), ("protonet", SGD)])
def test_captured_and_plain_steps_agree_on_a_gpu(
    images: ImageSet, model: str, optimizer: Any, logged: Callable[[], list[str]]
) -> None:
    ends, dropout = [], 0.0 if "checkpointed" in model else 0.3  # which it could not draw twice alike in a graph
    for graph in (False, True):
        ends.append(trained(make(model, images, dropout=dropout), images, device=torch.device("cuda"),
                            optimizer=optimizer, cuda_graph=graph)[0])  # fmt: skip
    assert logged() == []  # nothing fell back
    assert_close(*ends)


@pytest.mark.gpu
@pytest.mark.parametrize("spoiled", [3, 4, 7])
def test_a_captured_step_freezes_on_a_gpu(images: ImageSet, spoiled: int) -> None:
    options = {"device": torch.device("cuda"), "cuda_graph": True}
    _, step = trained(make("protonet", images), images, steps=9, spoiled=spoiled, **options)
    assert step.guard.bad_step(wait=True) == spoiled


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")  # PyTorch's, once
def test_steps_do_not_wait_for_the_gpu(images: ImageSet) -> None:
    device = torch.device("cuda")
    for graph in (False, True):
        algorithm = make("maml", images).to(device)
        batches = draws(algorithm, images.on(device), device=device)
        step = DrawnStep(outer(algorithm, device=device, cuda_graph=graph), batches)
        for k in range(70):
            torch.cuda.set_sync_debug_mode("error" if k > capture.WARMUP else "default")
            step(step=k, rate=1.0)
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_an_algorithm_that_asks_falls_back_on_a_gpu(images: ImageSet, caplog: pytest.LogCaptureFixture) -> None:
    class Asks(Algorithm):
        def __init__(self, inner: Algorithm) -> None:
            super().__init__()
            self.inner, self.stream = inner, inner.stream

        def forward(self, batch: Batch) -> StepOutput:
            out = self.inner(batch)
            assert out.loss.item() > 0
            return out

    device = torch.device("cuda")
    plain, _ = trained(make("baseline", images), images, device=device, optimizer=CALM_ADAM)
    asking, _ = trained(Asks(make("baseline", images)), images, device=device, cuda_graph=True, optimizer=CALM_ADAM)
    assert "cannot be captured" in caplog.text
    assert_close(plain, {name.removeprefix("inner."): t for name, t in asking.items()})
