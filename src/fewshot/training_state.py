"""A training as its folder keeps it: weights, optimiser and progress, saved and found again. Layer 3."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fewshot import checkpoint
from fewshot.algorithms.base import Algorithm
from fewshot.engine.processes import Processes
from fewshot.errors import FewshotError
from fewshot.held_run import HeldRun
from fewshot.outer_step import OuterStep

log = logging.getLogger("fewshot")


@dataclass
class TrainingProgress:
    """Everything about a run besides weights and optimiser that a checkpoint must hold."""

    step: int = 0
    best: dict[str, float] | None = None  # step, accuracy, accuracy_ci95, episodes, loss of the best validation
    kept: list[dict[str, float]] = field(default_factory=list)  # step, accuracy, loss of the best ones, the best first
    stale: int = 0  # validations since the best
    seconds: float = 0.0
    data_seconds: float = 0.0
    window: list[float] = field(default_factory=lambda: [0.0, 0.0])  # sums of loss and accuracy since the last row

    def update_best(self, result: Mapping[str, float], *, keep: int) -> bool:
        """Whether this validation is the best; updates `best`, `kept` and `stale`.

        Higher accuracy wins, at equal accuracy the lower loss. Not finite is never best.
        """
        accuracy, loss = result["val/accuracy"], result["val/loss"]
        better = math.isfinite(loss) and (
            self.best is None or (accuracy, -loss) > (self.best["accuracy"], -self.best["loss"])
        )
        if better:
            self.best = {"step": self.step} | {k.removeprefix("val/"): v for k, v in result.items()}
        if math.isfinite(loss):
            row = {"step": self.step, "accuracy": accuracy, "loss": loss}
            self.kept = sorted([*self.kept, row], key=lambda row: (-row["accuracy"], row["loss"]))[:keep]
        self.stale = 0 if better else self.stale + 1
        return better


class TrainingState:
    """algorithm: what is trained, by `outer_step`, which has the optimiser. context: what the algorithm was told of its
    data, kept in every checkpoint. All processes hold one; the first alone reads and writes the folder.
    """

    def __init__(
        self, algorithm: Algorithm, outer_step: OuterStep, folder: HeldRun, context: Mapping[str, Any],
        processes: Processes,
    ) -> None:  # fmt: skip
        self.algorithm, self.outer_step, self.folder, self.context = algorithm, outer_step, folder, context
        self.processes, self.progress = processes, TrainingProgress()

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """A row of metrics.jsonl."""
        if self.processes.first:
            self.folder.metrics.append({"step": self.progress.step, **row})

    def save(self, *, best: bool = False, step: int | None = None) -> None:
        """A checkpoint. best: it is the best so far. step: whose state this is, where not the progress's own."""
        if not self.processes.first:
            return
        self.folder.require_there()
        self.progress.window = self.outer_step.window.tolist()
        progress = vars(self.progress) | ({"step": step} if step is not None else {})
        self._require_finite_weights(progress["step"])
        record = {"progress": progress, "context": dict(self.context), "metrics": self.folder.metrics.digest}
        state = self.outer_step.state() | record
        checkpoint.save(self.folder.checkpoints, progress["step"], state, best=best)

    def restore(self) -> None:
        """All processes go on from the checkpoint that the first one finds; fresh weights come from the seed."""
        state = self.processes.broadcast(self._stored() if self.processes.first else None)
        if state is None:
            return
        checkpoint.load_into(self.algorithm, state["model"])
        self.progress = TrainingProgress(**state["progress"])
        self.outer_step.load(state, step=self.progress.step, window=self.progress.window)

    def _require_finite_weights(self, step: int) -> None:
        """FewshotError before weights are stored that no resume could go on from: an update may overflow unseen."""
        if all(p.isfinite().all() for p in self.algorithm.parameters()):
            return
        saved = checkpoint.steps(self.folder.checkpoints)
        last = f"the last checkpoint is of step {saved[-1]}" if saved else "there is no checkpoint"
        raise FewshotError(
            f"the weights are not finite after step {step}: an update has overflowed ({last}); "
            "lower trainer.optimizer.lr or algorithm.inner_lr, or set trainer.gradient_clip=10"
        )

    def _stored(self) -> dict[str, Any] | None:
        """The last checkpoint, the folder tidied to it; None where there is none yet."""
        if not checkpoint.steps(self.folder.checkpoints):
            self.folder.metrics.truncate(0)
            return None
        step, state = checkpoint.load(self.folder.checkpoints)
        checkpoint.prune(self.folder.checkpoints, step, state)  # a kill may have come before a save's own
        metrics = self.folder.metrics
        metrics.truncate(step)
        if state.get("metrics", metrics.digest) != metrics.digest:
            log.warning("%s: rows up to step %d are missing, doubled or changed, and stay so", metrics.path, step)
        self._require_best(step, state["progress"])
        return state

    def _require_best(self, step: int, progress: dict[str, Any]) -> None:
        """FewshotError where the best checkpoint so far is damaged, which else the test would find; where it was
        removed, the best of what comes counts."""
        folder, best = self.folder.checkpoints, progress["best"]
        present = checkpoint.steps(folder)
        progress["kept"] = [row for row in progress.get("kept", ()) if row["step"] in present]
        if best is None or best["step"] == step:
            return
        if best["step"] in present:
            checkpoint.load(folder, best["step"])
            return
        log.warning("%s has no checkpoint of its best step %d; the best of the coming steps counts, else the last is "
                    "tested", folder, best["step"])  # fmt: skip
        progress["best"] = None
