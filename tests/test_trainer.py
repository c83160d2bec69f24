"""The outer loop on a toy: it learns, resumes bit for bit, stops when told, and loses nothing to a NaN."""

import logging
import math
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot import checkpoint, schedules
from fewshot.algorithms.base import Algorithm
from fewshot.engine.guard import FiniteGuard
from fewshot.episode import Batch, Minibatch, Minibatches, StepOutput
from fewshot.errors import FewshotError, InputError
from fewshot.held_run import HeldRun
from fewshot.signals import Stopped, StopSignal
from fewshot.trainer import Trainer
from fewshot.training_state import TrainingProgress

CPU = torch.device("cpu")
OPTIMIZERS = {
    "adam fused": partial(torch.optim.Adam, lr=0.05, fused=True),
    "adam": partial(torch.optim.Adam, lr=0.05),
    "sgd fused": partial(torch.optim.SGD, lr=0.05, momentum=0.9, fused=True),
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
}


class Toy(Algorithm):
    """A linear classifier with all that a run must keep: weights, running statistics, dropout."""

    stream = Minibatches(batch_size=8)

    def __init__(self, *, dropout: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(dropout), nn.Linear(4, 3))

    def forward(self, batch: Batch) -> StepOutput:
        assert isinstance(batch, Minibatch)
        logits = self.net(batch.x)
        return StepOutput(F.cross_entropy(logits, batch.y), logits)


class Batches:
    """Batch k is a function of k; class c lies around the unit vector c. `at` runs as a batch is asked for."""

    def __init__(self, *, spoiled: tuple[int, ...] = (), at: Callable[[int], None] = lambda step: None) -> None:
        self.spoiled, self.at = spoiled, at

    def batch(self, k: int) -> Minibatch:
        self.at(k + 1)
        draw = torch.Generator().manual_seed(k)
        y = torch.randint(3, (8,), generator=draw)
        x = F.one_hot(y, 4) + 0.3 * torch.randn(8, 4, generator=draw)
        return Minibatch(x * math.nan if k + 1 in self.spoiled else x, y)


class Rows:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.steps: list[int] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows.append((step, dict(metrics)))

    def progress(self, step: int) -> None:
        self.steps.append(step)


class Bench:
    """A run folder with what a fit needs; each `fit` starts from a fresh algorithm, as a new process does."""

    def __init__(self, root: Path) -> None:
        self.folder = HeldRun.create(root / "toy", "a: 1\n", "identity")
        self.logger = Rows()
        self.stop = StopSignal()
        self.toy = Toy()
        self.scores: list[tuple[float, float]] | None = None  # (accuracy, loss) of each validation, by its order

    def validate(self) -> dict[str, float]:
        if self.scores is not None:
            accuracy, loss = self.scores.pop(0)
        else:
            batch = Batches().batch(10**6)
            with torch.no_grad():
                logits = self.toy.eval().net(batch.x)
            self.toy.train()
            accuracy = (logits.argmax(-1) == batch.y).double().mean().item() * 100
            loss = F.cross_entropy(logits, batch.y).item()
        return {"accuracy": accuracy, "accuracy_ci95": 1.0, "episodes": 5, "loss": loss}

    def fit(
        self, stream: Batches | None = None, *, toy: Toy | None = None, dtype: torch.dtype | None = None, **options: Any
    ) -> TrainingProgress:
        defaults = {
            "steps": 20, "optimizer": OPTIMIZERS["adam fused"],
            "schedule": schedules.cosine(steps=20, warmup=3, final=0.1),
            "gradient_clip": None, "gradient_clip_value": None, "log_every": 3, "val_every": 4, "patience": None,
            "checkpoint_every": 5, "test_checkpoint": "best", "cuda_graph": True, "profile": False,
        }  # fmt: skip
        self.toy = toy or Toy()
        torch.manual_seed(99 if checkpoint.steps(self.folder.checkpoints) else 11)  # a resumed run keeps its own
        return Trainer(**(defaults | options)).fit(
            self.toy, stream or Batches(), self.validate, folder=self.folder, loggers=[self.logger],
            context={"image_shape": [4]}, device=CPU, dtype=dtype, stop=self.stop,
        )  # fmt: skip

    def metrics(self) -> list[dict[str, Any]]:
        """All rows, without the keys that tell the time."""
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in self.folder.metrics.read()]

    def saved(self, which: str | int = "last") -> dict[str, Any]:
        return checkpoint.load(self.folder.checkpoints, which)[1]

    def step_of(self, which: str) -> int:
        return checkpoint.load(self.folder.checkpoints, which)[0]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "two")


def timeless(state: Any) -> Any:
    """A saved state without what tells the time."""
    if isinstance(state, dict):
        return {k: timeless(v) for k, v in state.items() if k not in ("seconds", "data_seconds")}
    return state


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def assert_same_run(a: Bench, b: Bench) -> None:
    """Weights, statistics, optimiser, progress and rows are equal to the last bit."""
    assert a.metrics() == b.metrics()
    assert equal(timeless(a.saved()), timeless(b.saved()))
    assert equal(timeless(a.saved("best")), timeless(b.saved("best")))
    assert equal(dict(a.toy.state_dict()), dict(b.toy.state_dict()))


class Killed(BaseException):
    """The end of a process, as far as this one can have it."""


def kill_at(step: int) -> Callable[[int], None]:
    def at(k: int) -> None:
        if k == step:
            raise Killed

    return at


# ---- it learns, and says so ---------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loss_falls(bench: Bench, optimizer: str) -> None:
    now = bench.fit(steps=60, optimizer=OPTIMIZERS[optimizer], schedule=schedules.constant(), log_every=10)
    losses = [row["train/loss"] for row in bench.metrics() if "train/loss" in row]
    assert len(losses) == 6
    assert losses[-1] < 0.6 * losses[0]
    assert now.step == 60
    assert now.best is not None
    assert now.best["accuracy"] > 70


def test_rows_hold_the_mean_since_the_last_row(bench: Bench) -> None:
    toy = Toy(dropout=0.0)
    bench.fit(toy=toy, steps=7, optimizer=partial(torch.optim.SGD, lr=0.0), schedule=schedules.constant(), val_every=0)
    losses, right = [], []
    for k in range(6):
        batch = Batches().batch(k)
        out = toy(batch)
        losses.append(out.loss.item())
        right.append((out.logits.argmax(-1) == batch.y).double().mean().item() * 100)
    rows = bench.metrics()
    assert [row["step"] for row in rows] == [3, 6]
    for row, part in zip(rows, (slice(0, 3), slice(3, 6)), strict=True):
        assert row["train/loss"] == pytest.approx(sum(losses[part]) / 3, rel=1e-6)
        assert row["train/accuracy"] == pytest.approx(sum(right[part]) / 3)
    assert set(rows[0]) == {"step", "train/loss", "train/accuracy", "train/lr"}


def test_rates_follow_the_schedule(bench: Bench) -> None:
    bench.fit(steps=5, log_every=1, val_every=0, schedule=schedules.decay(every=2, gamma=0.5))
    assert [row["train/lr"] for row in bench.metrics()] == pytest.approx([0.05, 0.05, 0.025, 0.025, 0.0125])


def test_rows_go_to_the_file_and_to_every_logger(bench: Bench) -> None:
    bench.fit()
    rows = bench.metrics()
    assert [row["step"] for row in rows] == [3, 4, 6, 8, 9, 12, 15, 16, 18, 20]
    assert [row["step"] for row in rows if "val/accuracy" in row] == [4, 8, 12, 16, 20]
    assert [step for step, _ in bench.logger.rows] == [row["step"] for row in rows]
    for row, (_, logged) in zip(bench.folder.metrics.read(), bench.logger.rows, strict=True):
        assert row == {"step": row["step"], **logged}
    assert {k for row in rows for k in row if k.startswith("val/")} == {"val/accuracy", "val/accuracy_ci95", "val/loss"}
    assert bench.logger.steps == list(range(1, 21))


def test_the_last_step_is_validated_and_saved(bench: Bench) -> None:
    bench.fit(steps=7, val_every=5, checkpoint_every=5)
    assert [row["step"] for row in bench.metrics() if "val/loss" in row] == [5, 7]
    assert bench.step_of("last") == 7


def test_without_validation(bench: Bench) -> None:
    now = bench.fit(val_every=0)
    assert now.best is None
    assert not any("val/loss" in row for row in bench.metrics())
    assert bench.step_of("last") == 20
    with pytest.raises(FewshotError, match="best"):
        bench.step_of("best")


def test_no_steps_at_all(bench: Bench) -> None:
    before = Toy().state_dict()
    assert bench.fit(steps=0).step == 0
    assert equal(dict(bench.toy.state_dict()), dict(before))


def test_autocast_reaches_the_forward(bench: Bench) -> None:
    seen: list[torch.dtype] = []
    toy = Toy()
    toy.net[2].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    bench.fit(toy=toy, steps=1, val_every=0, dtype=torch.bfloat16)
    assert seen == [torch.bfloat16]
    assert toy.net[2].weight.dtype == torch.float32


def test_the_cost_is_on_record(bench: Bench) -> None:
    now = bench.fit()
    assert 0 < now.data_seconds < now.seconds
    times = [row["time/seconds"] for row in bench.folder.metrics.read() if "time/seconds" in row]
    assert times == sorted(times)
    assert times[-1] <= now.seconds


def test_a_profile_changes_nothing(bench: Bench, other: Bench) -> None:
    bench.fit()
    other.fit(profile=True)
    assert_same_run(bench, other)
    assert {path.name for path in (other.folder.path / "profile").iterdir()} == {"trace.json", "costs.json"}
    assert not (bench.folder.path / "profile").exists()


# ---- gradients are clipped ----------------------------------------------------------------------------------


def change(bench: Bench, **options: Any) -> Tensor:
    """What one plain gradient step at rate 1 does to the weights; batch norm's are at their starting values."""
    toy = Toy(dropout=0.0)
    before = nn.utils.parameters_to_vector(toy.parameters()).detach().clone()
    plain = partial(torch.optim.SGD, lr=1.0)
    bench.fit(toy=toy, steps=1, optimizer=plain, schedule=schedules.constant(), val_every=0, **options)
    return before - nn.utils.parameters_to_vector(toy.parameters()).detach()


def test_clipping_by_norm_keeps_the_direction(tmp_path: Path) -> None:
    free, clipped, loose = (change(Bench(tmp_path / str(clip)), gradient_clip=clip) for clip in (None, 0.01, 1000.0))
    assert free.norm() > 0.1
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), rtol=1e-3, atol=1e-5)
    assert torch.equal(loose, free)


def test_clipping_by_value_bounds_every_entry(tmp_path: Path) -> None:
    free = change(Bench(tmp_path / "free"))
    clipped = change(Bench(tmp_path / "clipped"), gradient_clip_value=0.05)
    assert free.abs().max() > 0.1
    torch.testing.assert_close(clipped, free.clamp(-0.05, 0.05), rtol=1e-4, atol=1e-6)


# ---- resume equals no interruption --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kills", "optimizer"),
    [((1, 5, 6, 13, 20), "adam fused"), *(((4, 6, 7, 19), name) for name in OPTIMIZERS)],
)
def test_a_killed_run_goes_on_to_the_last_bit(
    bench: Bench, other: Bench, kills: tuple[int, ...], optimizer: str
) -> None:
    options = {"optimizer": OPTIMIZERS[optimizer]}
    bench.fit(**options)
    for step in kills:
        with pytest.raises(Killed):
            other.fit(Batches(at=kill_at(step)), **options)
    other.fit(**options)
    assert_same_run(bench, other)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_run_with_groups_of_parameters_goes_on_to_the_last_bit(
    bench: Bench, other: Bench, optimizer: str
) -> None:
    make = partial(OPTIMIZERS[optimizer], weight_decay=0.1)
    options = {"optimizer": make, "decay_norms": False, "rate_factors": {"net.2": 0.5}}
    bench.fit(**options)
    for step in (4, 13):
        with pytest.raises(Killed):
            other.fit(Batches(at=kill_at(step)), **options)
    other.fit(**options)
    assert_same_run(bench, other)
    assert [group["lr"] > 0 for group in bench.saved()["optimizer"]["param_groups"]] == [True, True, True]


def test_dropout_matters_in_these_tests(bench: Bench, other: Bench) -> None:
    bench.fit()
    other.fit(toy=Toy(dropout=0.0))
    assert not torch.equal(bench.toy.net[2].weight, other.toy.net[2].weight)


def test_steps_have_dropout_of_their_own(bench: Bench) -> None:
    masks: list[Tensor] = []
    toy = Toy(dropout=0.5)
    toy.net[1].register_forward_hook(lambda module, args, out: masks.append(out == 0))
    bench.fit(toy=toy, steps=6, val_every=0)
    assert len({mask.numpy().tobytes() for mask in masks}) == 6


def test_a_torn_row_and_rows_after_the_checkpoint_are_dropped(bench: Bench, other: Bench) -> None:
    bench.fit()
    with pytest.raises(Killed):
        other.fit(Batches(at=kill_at(10)))  # saved at 5 and 8; a row at 9
    assert other.metrics()[-1]["step"] == 9
    with (other.folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "train/lo')
    other.fit()
    assert_same_run(bench, other)


def test_a_finished_run_has_nothing_left_to_do(bench: Bench) -> None:
    bench.fit()
    before, rows = bench.saved(), bench.metrics()
    now = bench.fit(Batches(at=kill_at(21)))
    assert now.step == 20
    assert equal(bench.saved(), before)
    assert bench.metrics() == rows
    assert equal(dict(bench.toy.state_dict()), before["model"])


def test_another_model_is_refused(bench: Bench) -> None:
    bench.fit()
    toy = Toy()
    toy.net[2] = nn.Linear(4, 5)
    with pytest.raises(
        FewshotError, match=r"does not fit this Toy: other shape: net\.2\.weight \[3, 4\], model \[5, 4\]"
    ):
        bench.fit(toy=toy)


def test_checkpoints_hold_the_context(bench: Bench) -> None:
    bench.fit(steps=1)
    assert bench.saved()["context"] == {"image_shape": [4]}


# ---- best, last, early stopping -----------------------------------------------------------------------------


def test_best_is_the_highest_accuracy_and_then_the_lowest_loss(bench: Bench) -> None:
    bench.scores = [(50, 1.0), (70, 0.9), (70, 0.8), (70, 0.8), (60, 0.1)]
    now = bench.fit()
    assert now.best == {"step": 12, "accuracy": 70, "accuracy_ci95": 1.0, "loss": 0.8}
    assert (bench.step_of("best"), bench.step_of("last")) == (12, 20)
    assert not equal(bench.saved("best")["model"], bench.saved()["model"])
    assert now.stale == 2


def test_what_is_not_finite_is_never_best(bench: Bench) -> None:
    bench.scores = [(90, math.nan), (50, 1.0), (95, math.inf), (40, 1.0), (99, math.nan)]
    now = bench.fit()
    assert now.best is not None
    assert now.best["step"] == bench.step_of("best") == 8


def test_early_stopping_counts_validations_without_a_better_one(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.scores = [(50, 1.0), (40, 1.0), (60, 1.0), (60, 1.0), (60, 1.1), (99, 0.1)]
    with caplog.at_level(logging.INFO, "fewshot"):
        now = bench.fit(steps=40, patience=2)
    assert "stopped early at step 20: 2 validations without a better one" in caplog.text
    assert now.step == bench.step_of("last") == 20
    assert bench.step_of("best") == 12
    assert bench.fit(steps=40, patience=2).step == 20  # and stays stopped
    assert bench.scores == [(99, 0.1)]


def test_patience_survives_an_interruption(bench: Bench) -> None:
    bench.scores = [(50, 1.0), (40, 1.0), (40, 1.0)]
    with pytest.raises(Killed):
        bench.fit(Batches(at=kill_at(11)), patience=2, checkpoint_every=2)
    assert bench.fit(patience=2, checkpoint_every=2).step == 12


# ---- signals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(bench: Bench, other: Bench, signum: int) -> None:
    bench.fit()
    with other.stop, pytest.raises(Stopped, match="stopped at step 7 of 20; saved in") as raised:
        other.fit(Batches(at=lambda step: os.kill(os.getpid(), signum) if step == 7 else None))
    assert raised.value.signum == signum
    assert other.step_of("last") == 7
    other.stop = StopSignal()
    other.fit()
    assert_same_run(bench, other)


def test_a_signal_in_the_last_step_does_not_unfinish_the_run(bench: Bench) -> None:
    with bench.stop:
        now = bench.fit(Batches(at=lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 20 else None))
    assert now.step == bench.step_of("last") == 20


def test_a_signal_at_any_moment_leaves_what_the_message_says(bench: Bench) -> None:
    class Late(StopSignal):
        """The signal comes right after the first look at it, the earliest at which it could be missed."""

        looks = 0

        @property
        def received(self) -> int | None:
            self.looks += 1
            return signal.SIGTERM if self.looks > 1 else None

        @received.setter
        def received(self, value: int | None) -> None: ...

    bench.stop = Late()
    with pytest.raises(Stopped, match="stopped at step 2 of 20"):
        bench.fit()
    assert bench.step_of("last") == 2


# ---- not finite ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "optimizer"),
    [*((bad, name) for bad in (1, 9, 10, 20) for name in ("adam fused", "sgd")), (10, "adam"), (10, "sgd fused")],
)
def test_a_nan_stops_and_the_state_before_it_is_saved(bench: Bench, other: Bench, bad: int, optimizer: str) -> None:
    options = {"optimizer": OPTIMIZERS[optimizer]}
    bench.fit(**options)
    for _ in range(2):  # the resumed run replays it
        with pytest.raises(FewshotError, match=f"not finite at step {bad}; the state before it is saved and resume="):
            other.fit(Batches(spoiled=(bad,)), **options)
        assert other.step_of("last") == bad - 1
        state = other.saved()
        assert state["progress"]["step"] == bad - 1
        assert all(value.isfinite().all() for value in state["model"].values())
    if bad > 4:
        best = other.step_of("best")
        assert best <= bad - 1
        assert all(value.isfinite().all() for value in other.saved("best")["model"].values())
    assert all(row["step"] < bad for row in other.metrics())
    other.fit(**options)  # as if it had never been
    assert_same_run(bench, other)


def test_an_update_that_overflows_is_never_stored(bench: Bench) -> None:
    """The loss and the gradient of the last step are finite: nothing but the weights tells."""
    options = {
        "optimizer": partial(torch.optim.SGD, lr=3e38, weight_decay=100.0),
        "schedule": schedules.constant(),
        "val_every": 0,
    }
    with pytest.raises(FewshotError, match=r"weights are not finite after step 1: .* \(there is no checkpoint\)"):
        bench.fit(steps=1, **options)
    assert not checkpoint.steps(bench.folder.checkpoints)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gradient_that_is_not_finite_stops_as_well(bench: Bench, optimizer: str) -> None:
    class Steep(Toy):
        def forward(self, batch: Batch) -> StepOutput:
            loss, logits = super().forward(batch)
            return StepOutput(loss + (0 * self.net[2].weight.sum()).sqrt(), logits)  # 0, with an infinite slope

    toy = Steep()
    before = {name: p.detach().clone() for name, p in toy.named_parameters()}
    with pytest.raises(FewshotError, match="loss or gradient is not finite at step 1"):
        bench.fit(toy=toy, optimizer=OPTIMIZERS[optimizer])
    assert equal({name: p.detach() for name, p in toy.named_parameters()}, before)


@pytest.fixture
def rarely_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is read as on a GPU: only where something is logged, validated or saved."""
    read = FiniteGuard.bad_step
    monkeypatch.setattr(FiniteGuard, "bad_step", lambda guard, *, wait: read(guard, wait=True) if wait else None)


@pytest.mark.usefixtures("rarely_asked")
@pytest.mark.parametrize(
    ("spoiled", "optimizer"), [*(((4, 6), name) for name in OPTIMIZERS), ((11,), "adam fused"), ((11,), "sgd")]
)
def test_a_nan_that_is_noticed_late_has_frozen_everything(
    bench: Bench, other: Bench, spoiled: tuple[int, ...], optimizer: str
) -> None:
    options = {"optimizer": OPTIMIZERS[optimizer], "log_every": 10, "val_every": 10, "checkpoint_every": 10}
    bench.fit(**options)
    steps: list[int] = []
    with pytest.raises(FewshotError, match=f"not finite at step {spoiled[0]};"):
        other.fit(Batches(spoiled=spoiled, at=steps.append), **options)
    assert steps[-1] == (20 if spoiled[0] > 10 else 10)
    assert other.step_of("last") == spoiled[0] - 1
    other.fit(**options)
    assert_same_run(bench, other)


@pytest.mark.usefixtures("rarely_asked")
def test_a_signal_does_not_hide_a_nan(bench: Bench) -> None:
    def at(step: int) -> None:
        if step == 6:
            bench.stop.received = signal.SIGTERM

    with pytest.raises(FewshotError, match="not finite at step 4"):
        bench.fit(Batches(spoiled=(4,), at=at), log_every=10, val_every=10, checkpoint_every=10)
    assert bench.step_of("last") == 3


# ---- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, r"trainer\.steps=-1 is below 0"),
        ({"log_every": 0}, r"trainer\.log_every=0 is below 1"),
        ({"val_every": -1}, r"trainer\.val_every=-1 is below 0"),
        ({"checkpoint_every": 0}, r"trainer\.checkpoint_every=0 is below 1"),
        ({"gradient_clip": -1.0}, r"trainer\.gradient_clip=-1\.0 is not above 0"),
        ({"gradient_clip_value": 0.0}, r"trainer\.gradient_clip_value=0\.0 is not above 0"),
        ({"patience": 0}, r"trainer\.patience=0 is not above 0"),
        ({"test_checkpoint": "newest"}, r"trainer\.test_checkpoint=newest is unknown; choose best or last"),
    ],
)
def test_options_that_cannot_be(bench: Bench, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench.fit(**options)


def test_a_damaged_best_checkpoint_is_found_at_resume_and_there_is_a_way_out(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.scores = [(90.0, 0.1), (50.0, 1.0), (50.0, 1.0)]
    bench.fit(steps=12)
    best = bench.folder.checkpoints / "4"
    (bench.folder.checkpoints / "best").write_text("12\n")  # a lost pointer does not matter
    assert bench.step_of("best") == 4
    state = best / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    with pytest.raises(FewshotError, match=rf"is damaged .*; to go on training without it, remove {best}"):
        bench.fit(steps=20)
    shutil.rmtree(best)
    bench.scores = [(40.0, 1.0), (60.0, 1.0)]
    progress = bench.fit(steps=20)
    assert progress.best is not None
    assert (progress.best["step"], progress.best["accuracy"]) == (20, 60.0)
    assert "has no checkpoint of its best step 4; the best of the coming steps counts" in caplog.text


@pytest.mark.parametrize("damage", [lambda lines: lines[1:], lambda lines: lines[:2] + lines, lambda lines: lines[::2]])
def test_rows_that_are_missing_or_doubled_are_said_at_resume(
    bench: Bench, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    bench.fit(steps=10)
    bench.folder.metrics.close()
    path = bench.folder.metrics.path
    path.write_text("".join(damage(path.read_text().splitlines(keepends=True))))
    caplog.clear()
    bench.fit(steps=12)
    assert "rows up to step 10 are missing, doubled or changed, and stay so" in caplog.text


def test_a_folder_that_is_moved_while_it_trains_ends_the_run(bench: Bench) -> None:
    class Moving(Batches):
        def batch(self, k: int) -> Minibatch:
            if k == 7:
                bench.folder.path.rename(bench.folder.path.with_name("moved"))
            return super().batch(k)

    with pytest.raises(FewshotError, match="was moved or deleted while its run wrote in it; put it back, and the same"):
        bench.fit(Moving())
    assert not bench.folder.path.exists()
    assert checkpoint.steps(bench.folder.path.with_name("moved") / "checkpoints") == [4, 5]


def test_the_best_checkpoints_are_kept_and_a_resumed_run_goes_on_with_them(bench: Bench, other: Bench) -> None:
    scores = [(50.0, 1.0), (70.0, 1.0), (60.0, 1.0), (70.0, 0.5), (10.0, math.nan), (65.0, 1.0)]
    options = {"steps": 6, "val_every": 1, "checkpoint_every": 6, "keep_best": 3}
    bench.scores = list(scores)
    assert [row["step"] for row in bench.fit(**options).kept] == [4, 2, 6]
    assert checkpoint.steps(bench.folder.checkpoints) == [2, 4, 6] and bench.step_of("best") == 4
    weights = [state["model"] for state in checkpoint.load_best(bench.folder.checkpoints, 3)]
    assert [
        torch.equal(a["net.2.weight"], bench.saved(s)["model"]["net.2.weight"])
        for a, s in zip(weights, (4, 2, 6), strict=True)
    ] == [True] * 3
    with pytest.raises(InputError, match=r"ensemble=4, but the best checkpoints that .* has kept are 3; lower it, or"):
        checkpoint.load_best(bench.folder.checkpoints, 4)
    other.scores = list(scores)

    def stop(step: int) -> None:
        other.stop.received = signal.SIGTERM if step == 3 else None

    with pytest.raises(Stopped):
        other.fit(Batches(at=stop), **options)
    other.stop.received = None
    assert [row["step"] for row in other.fit(**options).kept] == [4, 2, 6]
