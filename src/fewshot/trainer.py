"""The one outer loop. Layer 3."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fewshot import checkpoint
from fewshot.algorithms.base import Algorithm
from fewshot.errors import FewshotError, InputError
from fewshot.loggers.base import Logger
from fewshot.ops import random
from fewshot.ops.runtime import autocast
from fewshot.ops.schedules import Schedule
from fewshot.run_folder import RunFolder
from fewshot.sampler import BatchStream
from fewshot.signals import Stopped, StopSignal

log = logging.getLogger("fewshot")
Validate = Callable[[], Mapping[str, float]]  # accuracy, accuracy_ci95, episodes, loss
Row = dict[str, Any]


@dataclass
class Progress:
    """Everything about a run besides weights and optimiser that a checkpoint must hold."""

    step: int = 0
    best: dict[str, float] | None = None  # step, accuracy, accuracy_ci95, episodes, loss of the best validation
    stale: int = 0  # validations since then
    seconds: float = 0.0
    data_seconds: float = 0.0
    window: list[float] = field(default_factory=lambda: [0.0, 0.0])  # sums of loss and accuracy since the last row


class Trainer:
    """Trains any Algorithm on its stream: outer steps, validation, checkpoints, stop conditions.

    steps: outer updates. optimizer: a function of the parameters. schedule: factor on its rate by step.
    gradient_clip, gradient_clip_value: largest norm, largest entry of the outer gradient; null for none.
    val_every: steps between validations, 0 for none. patience: validations without a better one before
    stopping early, null for never. checkpoint_every: steps between checkpoints. log_every: steps per row of
    metrics. test_checkpoint: best | last, the one that is tested.
    """

    def __init__(
        self, *, steps: int, optimizer: Callable[..., torch.optim.Optimizer], schedule: Schedule,
        gradient_clip: float | None, gradient_clip_value: float | None, log_every: int, val_every: int,
        patience: int | None, checkpoint_every: int, test_checkpoint: str,
    ) -> None:  # fmt: skip
        for key, value, least in (("steps", steps, 0), ("log_every", log_every, 1), ("val_every", val_every, 0),
                                  ("checkpoint_every", checkpoint_every, 1)):  # fmt: skip
            if value < least:
                raise InputError(f"trainer.{key}={value} is below {least}")
        for key, limit in (("gradient_clip", gradient_clip), ("gradient_clip_value", gradient_clip_value),
                           ("patience", patience)):  # fmt: skip
            if limit is not None and limit <= 0:
                raise InputError(f"trainer.{key}={limit} is not above 0; use null for none")
        if test_checkpoint not in ("best", "last"):
            raise InputError(f"trainer.test_checkpoint={test_checkpoint} is unknown; choose best or last")
        self.steps, self.make_optimizer, self.schedule = steps, optimizer, schedule
        self.gradient_clip, self.gradient_clip_value = gradient_clip, gradient_clip_value
        self.log_every, self.val_every, self.patience = log_every, val_every, patience
        self.checkpoint_every, self.test_checkpoint = checkpoint_every, test_checkpoint

    def fit(
        self, algorithm: Algorithm, stream: BatchStream, validate: Validate, *, folder: RunFolder,
        loggers: Sequence[Logger], context: Mapping[str, Any], device: torch.device,
        dtype: torch.dtype | None, stop: StopSignal,
    ) -> Progress:  # fmt: skip
        """Train to the end, from the folder's last checkpoint where there is one; returns where it ended.

        context: what the algorithm was told of its data; kept in every checkpoint.
        Raises Stopped after a signal (state saved), FewshotError when the loss is not finite (state before
        that step saved, so that `resume` replays it).
        """
        run = _Run(self, algorithm, folder, context, device, dtype)
        run.restore()
        now = run.now
        algorithm.train()
        while now.step < self.steps and not self._out_of_patience(now):
            run.update(stream)
            stopping = stop.received  # asked once: what comes after this line stops the next step
            logs, ends = now.step % self.log_every == 0, now.step == self.steps
            validates = bool(self.val_every) and (now.step % self.val_every == 0 or ends)
            saves = now.step % self.checkpoint_every == 0 or ends or stopping is not None
            if (bad := run.bad_step(wait=logs or validates or saves)) is not None:
                run.save(step=bad - 1)
                raise FewshotError(
                    f"loss or gradient is not finite at step {bad}; the state before it is saved and "
                    f"resume={folder.path} replays it; lower trainer.optimizer.lr or algorithm.inner_lr, "
                    f"or set trainer.gradient_clip=10"
                )
            row = run.train_row() if logs else {}
            improved = False
            if validates:
                row |= (result := {f"val/{k}": v for k, v in validate().items() if k != "episodes"})
                improved = self._note_validation(now, result)
            if row:
                folder.append_metrics({"step": now.step, **row})
                for logger in loggers:
                    logger.log(now.step, row)
            for logger in loggers:
                logger.progress(now.step)
            if improved or saves:
                run.save(best=improved)
            if stopping is not None and not ends:
                raise Stopped(stopping, f"stopped at step {now.step} of {self.steps}; saved in {folder.path}")
        if self._out_of_patience(now):
            run.save()
            log.info("stopped early at step %d: %d validations without a better one", now.step, now.stale)
        return now

    def _note_validation(self, now: Progress, result: Mapping[str, float]) -> bool:
        """Update best; higher accuracy wins, at equal accuracy the lower loss. Not finite is never best."""
        accuracy, loss = result["val/accuracy"], result["val/loss"]
        better = math.isfinite(loss) and (
            now.best is None or (accuracy, -loss) > (now.best["accuracy"], -now.best["loss"])
        )
        if better:
            now.best = {"step": now.step} | {k.removeprefix("val/"): v for k, v in result.items()}
        now.stale = 0 if better else now.stale + 1
        return better

    def _out_of_patience(self, now: Progress) -> bool:
        return self.patience is not None and now.stale >= self.patience


class _Run:
    """The moving parts of one `fit`."""

    def __init__(
        self, trainer: Trainer, algorithm: Algorithm, folder: RunFolder, context: Mapping[str, Any],
        device: torch.device, dtype: torch.dtype | None,
    ) -> None:  # fmt: skip
        self.trainer, self.algorithm, self.folder, self.context = trainer, algorithm, folder, context
        self.device, self.dtype = device, dtype
        self.parameters = [p for p in algorithm.parameters() if p.requires_grad]
        self.optimizer = trainer.make_optimizer(self.parameters)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.now = Progress()
        self.window = torch.zeros(2, dtype=torch.float64, device=device)
        self.first_bad = torch.zeros((), device=device)  # step at which something was first not finite
        self.frozen = torch.zeros((), device=device)  # 1 from then on
        self.can_freeze = all(group.get("fused") for group in self.optimizer.param_groups)
        self.buffers = list(algorithm.buffers())  # running statistics: a step's forward moves them
        self.kept = torch.empty(0)
        self.seed = torch.initial_seed()

    def update(self, stream: BatchStream) -> None:
        """One outer step."""
        now, trainer = self.now, self.trainer
        self._keep_buffers()
        self._seed_step()
        start = time.perf_counter()
        batch = stream.batch(now.step)
        drawn = time.perf_counter()
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * trainer.schedule(now.step)
        with autocast(self.device, self.dtype):
            out = self.algorithm(batch)
        self.optimizer.zero_grad()
        out.loss.backward()
        if trainer.gradient_clip_value is not None:
            nn.utils.clip_grad_value_(self.parameters, trainer.gradient_clip_value)
        norm = nn.utils.clip_grad_norm_(self.parameters, trainer.gradient_clip or math.inf)
        self._freeze_unless(torch.isfinite(norm) & torch.isfinite(out.loss.detach()))
        if self.can_freeze or not self.frozen:
            self.optimizer.step()
        now.step += 1
        right = (out.logits.detach().argmax(-1) == batch.targets).double().mean() * 100
        seen = torch.stack([out.loss.detach().double(), right])
        self.window += torch.where(self.frozen.bool(), 0.0, seen)
        now.data_seconds += drawn - start
        now.seconds += time.perf_counter() - start

    def bad_step(self, *, wait: bool) -> int | None:
        """The first step at which a value was not finite, if any; a GPU is asked only where `wait` allows it."""
        if not (wait or self.device.type == "cpu") or not self.frozen:
            return None
        for buffer, values in zip(self.buffers, self.kept.split([b.numel() for b in self.buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))
        if self.first_bad == 1:
            self.optimizer.state.clear()  # fused SGD makes its momenta before it sees that it is frozen
        return int(self.first_bad)

    def _seed_step(self) -> None:
        """Step k (its dropout) draws from (seed, k) only: a replay needs no state of a generator."""
        seed = random.key(self.seed, "step", str(self.now.step))
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 80 us
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    def _keep_buffers(self) -> None:
        """Copies of the buffers as they were before the step, or before the first step that went wrong."""
        if self.buffers:
            values = torch.cat([b.detach().flatten() for b in self.buffers])
            self.kept = torch.where(self.frozen.bool(), self.kept, values) if len(self.kept) else values

    def _freeze_unless(self, finite: Tensor) -> None:
        """From the first value that is not finite the optimiser does nothing, without asking the device."""
        bad = (~finite).to(self.frozen.dtype)
        self.first_bad += (1 - self.frozen) * bad * (self.now.step + 1)
        self.frozen = torch.maximum(self.frozen, bad)
        if self.can_freeze:  # what fused optimisers read; others refuse to step where it is there
            vars(self.optimizer).update(grad_scale=None, found_inf=self.frozen)

    def train_row(self) -> Row:
        loss, accuracy = (self.window / self.trainer.log_every).tolist()
        self.window.zero_()
        spent = self.now.seconds
        return {"train/loss": loss, "train/accuracy": accuracy, "train/lr": self.optimizer.param_groups[0]["lr"],
                "time/seconds": spent}  # fmt: skip

    def save(self, *, best: bool = False, step: int | None = None) -> None:
        self.now.window = self.window.tolist()
        state: dict[str, Any] = {
            "model": self.algorithm.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.now) | ({"step": step} if step is not None else {}),
            "context": dict(self.context),
            "seed": self.seed,
        }
        checkpoint.save(self.folder.checkpoints, state["progress"]["step"], state, best=best)

    def restore(self) -> None:
        if not checkpoint.steps(self.folder.checkpoints):
            self.folder.truncate_metrics(0)
            return
        step, state = checkpoint.load(self.folder.checkpoints)
        checkpoint.prune(self.folder.checkpoints, step)  # a kill may have come before a save's own
        checkpoint.load_into(self.algorithm, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.now = Progress(**state["progress"])
        self.window.copy_(torch.tensor(self.now.window, dtype=torch.float64))
        self.seed = state["seed"]
        self.folder.truncate_metrics(step)
