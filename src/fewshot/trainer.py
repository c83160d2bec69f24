"""The one outer loop. Layer 3."""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from fewshot.algorithms.base import Algorithm
from fewshot.engine.processes import ALONE, Processes
from fewshot.engine.profiler import StepProfiler
from fewshot.errors import FewshotError, check_above, check_choice, check_least
from fewshot.held_run import HeldRun
from fewshot.loggers.base import Logger
from fewshot.optimizer import make_optimizer
from fewshot.outer_step import DrawnStep, OuterStep
from fewshot.schedules import Schedule
from fewshot.signals import Stopped, StopSignal
from fewshot.streams import BatchStream
from fewshot.training_state import TrainingProgress, TrainingState

log = logging.getLogger("fewshot")
Validate = Callable[[], Mapping[str, float]]  # accuracy, accuracy_ci95, episodes, loss


class Trainer:
    """Trains any Algorithm on its stream: outer steps, validation, checkpoints, stop conditions.

    steps: outer updates. optimizer: a function of the parameters. schedule: factor on its rate by step.
    decay_norms, rate_factors: which parameters decay, which move faster, as `optimizer.make_optimizer` has it.
    gradient_clip, gradient_clip_value: largest norm, largest entry of the outer gradient; null for none.
    val_every: steps between validations, 0 for none. patience: validations without a better one before
    stopping early, null for never. checkpoint_every: steps between checkpoints. log_every: steps per row of
    metrics. test_checkpoint: best | last, the one that is tested. keep_best: how many checkpoints are kept of the
    best validations, for evaluation.ensemble. cuda_graph: on CUDA, launch each step as CUDA
    graphs where it can be captured. profile: trace a few steps into the run folder.
    """

    def __init__(
        self, *, steps: int, optimizer: Callable[..., torch.optim.Optimizer], schedule: Schedule,
        gradient_clip: float | None, gradient_clip_value: float | None, log_every: int, val_every: int,
        patience: int | None, checkpoint_every: int, test_checkpoint: str, cuda_graph: bool, profile: bool,
        decay_norms: bool = True, rate_factors: Mapping[str, float] | None = None, keep_best: int = 1,
    ) -> None:  # fmt: skip
        check_least("trainer", 0, steps=steps, val_every=val_every)
        check_least("trainer", 1, log_every=log_every, checkpoint_every=checkpoint_every, keep_best=keep_best)
        check_above("trainer", 0, gradient_clip=gradient_clip, gradient_clip_value=gradient_clip_value,
                    patience=patience)  # fmt: skip
        check_choice("trainer.test_checkpoint", test_checkpoint, ("best", "last"))
        self.steps, self.make_optimizer, self.schedule = steps, optimizer, schedule
        self.decay_norms, self.rate_factors = decay_norms, rate_factors
        self.gradient_clip, self.gradient_clip_value = gradient_clip, gradient_clip_value
        self.log_every, self.val_every, self.patience = log_every, val_every, patience
        self.checkpoint_every, self.test_checkpoint = checkpoint_every, test_checkpoint
        self.cuda_graph, self.profile, self.keep_best = cuda_graph, profile, keep_best

    def optimizer_of(self, algorithm: Algorithm) -> torch.optim.Optimizer:
        """A new optimiser of the algorithm's trainable parameters; InputError where there are none, or the parts of
        the model that the options name are not there."""
        return make_optimizer(
            self.make_optimizer, algorithm, decay_norms=self.decay_norms, rate_factors=self.rate_factors
        )

    def fit(
        self, algorithm: Algorithm, stream: BatchStream, validate: Validate, *, folder: HeldRun,
        loggers: Sequence[Logger], context: Mapping[str, Any], device: torch.device,
        dtype: torch.dtype | None, stop: StopSignal, processes: Processes = ALONE,
    ) -> TrainingProgress:  # fmt: skip
        """Train to the end, from the folder's last checkpoint where there is one; returns where it ended.

        context: what the algorithm was told of its data; kept in every checkpoint. processes: those that share
        this run; each draws its part of the batch, all call this and go through the same steps, the first one
        reads and writes the folder.
        Raises Stopped after a signal (state saved), FewshotError when the loss is not finite (state before
        that step saved, so that `resume` replays it).
        """
        run = _Run(self, algorithm, stream, folder, context, device, dtype, processes)
        run.restore()
        algorithm.train()
        with run.profiler():
            while run.progress.step < self.steps and not self._out_of_patience(run.progress):
                run.update()
                self._after_step(run, validate, loggers, stop)
        if self._out_of_patience(run.progress):
            run.save()
            log.info(
                "stopped early at step %d: %d validations without a better one", run.progress.step, run.progress.stale
            )
        return run.progress

    def _after_step(self, run: "_Run", validate: Validate, loggers: Sequence[Logger], stop: StopSignal) -> None:
        """Whatever is due, in this order: check, validate, log, save, stop."""
        progress = run.progress
        stopping = run.processes.agree(stop.received)  # asked once: what comes after this line stops the next step
        logs, ends = progress.step % self.log_every == 0, progress.step == self.steps
        validates = bool(self.val_every) and (progress.step % self.val_every == 0 or ends)
        saves = progress.step % self.checkpoint_every == 0 or ends or stopping is not None
        run.check_finite(wait=logs or validates or saves)
        row = run.train_row() if logs else {}
        improved = keeps = False
        if validates:
            row |= (result := {f"val/{k}": v for k, v in validate().items() if k != "episodes"})
            improved = progress.update_best(result, keep=self.keep_best)
            keeps = progress.step in [best["step"] for best in progress.kept]
        if row:
            run.append_metrics(row)
            for logger in loggers:
                logger.log(progress.step, row)
        for logger in loggers:
            logger.progress(progress.step)
        if keeps or saves:
            run.save(best=improved)
        if stopping is not None and not ends:
            raise Stopped(stopping, f"stopped at step {progress.step} of {self.steps}; saved in {run.folder.path}")

    def _out_of_patience(self, progress: TrainingProgress) -> bool:
        return self.patience is not None and progress.stale >= self.patience


class _Run(TrainingState):
    """One `fit` under way: what the folder keeps of it, and what makes a step of it."""

    def __init__(
        self, trainer: Trainer, algorithm: Algorithm, stream: BatchStream, folder: HeldRun,
        context: Mapping[str, Any], device: torch.device, dtype: torch.dtype | None, processes: Processes,
    ) -> None:  # fmt: skip
        optimizer = trainer.optimizer_of(algorithm)
        outer_step = OuterStep(
            algorithm, optimizer, gradient_clip=trainer.gradient_clip,
            gradient_clip_value=trainer.gradient_clip_value, device=device, dtype=dtype, processes=processes,
            cuda_graph=trainer.cuda_graph and device.type == "cuda",
        )  # fmt: skip
        super().__init__(algorithm, outer_step, folder, context, processes)
        self.trainer, self.drawn_step = trainer, DrawnStep(outer_step, stream)
        self._traced: StepProfiler | None = None

    def update(self) -> None:
        """One outer step."""
        progress = self.progress
        start = time.perf_counter()
        rate = self.trainer.schedule(progress.step)
        progress.data_seconds += self.drawn_step(step=progress.step, rate=rate)
        progress.step += 1
        progress.seconds += time.perf_counter() - start
        if self._traced is not None:
            self._traced.step()

    def check_finite(self, *, wait: bool) -> None:
        """Ends the run where a step was not finite. A GPU works off its queue here, so this is the steps' time too."""
        start = time.perf_counter()
        bad = self.outer_step.guard.bad_step(wait=wait)
        self.progress.seconds += time.perf_counter() - start
        if bad is not None:
            self.save(step=bad - 1)
            raise FewshotError(
                f"loss or gradient is not finite at step {bad}; the state before it is saved and "
                f"resume={self.folder.path} replays it; lower trainer.optimizer.lr or algorithm.inner_lr, "
                f"or set trainer.gradient_clip=10"
            )

    def train_row(self) -> dict[str, Any]:
        """The means of loss and accuracy since the last row, the rate of the last step, and the time so far."""
        loss, accuracy = (self.outer_step.window / self.trainer.log_every).tolist()
        self.outer_step.window.zero_()
        rate = self.outer_step.learning_rates[0] * self.trainer.schedule(self.progress.step - 1)
        return {"train/loss": loss, "train/accuracy": accuracy, "train/lr": rate, "time/seconds": self.progress.seconds}

    def profiler(self) -> contextlib.AbstractContextManager[object]:
        """The profiler of the coming steps, if one is wanted."""
        left = self.trainer.steps - self.progress.step
        if self.trainer.profile and self.processes.first and left > 0:
            self._traced = StepProfiler(self.folder.path / "profile", left)
            return contextlib.closing(self._traced)
        return contextlib.nullcontext()
