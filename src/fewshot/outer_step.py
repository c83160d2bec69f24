"""One outer update: a batch, gradients, their mean over the processes, clipping, the optimiser. Layer 3."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm
from fewshot.engine.capture import Captured
from fewshot.engine.guard import FiniteGuard
from fewshot.engine.processes import ALONE, Processes
from fewshot.engine.runtime import autocast
from fewshot.episode import Batch, check_step
from fewshot.ops import random
from fewshot.ops.dropblock import step_counters
from fewshot.streams import BatchStream, BlockStream, SizedStream

log = logging.getLogger("fewshot")


class OuterStep:
    """Calling it trains `algorithm` on one batch; nothing in it asks the device for a number.

    It is two fixed sequences of tensor operations, `gradients_of` and `clip_and_step`, with the exchange between
    the processes in the middle; on CUDA each becomes a CUDA graph (`cuda_graph`, see engine.capture), or both
    together with the batch one (`DrawnStep`). The step's number and learning rate are therefore tensors. `window`
    holds the sums of loss and accuracy (percent) of the steps since it was last emptied; `guard` says whether all
    was finite.
    """

    def __init__(
        self, algorithm: Algorithm, optimizer: torch.optim.Optimizer, *, gradient_clip: float | None,
        gradient_clip_value: float | None, device: torch.device, dtype: torch.dtype | None = None,
        processes: Processes = ALONE, cuda_graph: bool = False,
    ) -> None:  # fmt: skip
        self.algorithm, self.optimizer, self.processes = algorithm, optimizer, processes
        self.gradient_clip, self.gradient_clip_value = gradient_clip, gradient_clip_value
        self.device, self.dtype = device, dtype
        self.parameters = [p for p in algorithm.parameters() if p.requires_grad]
        self.learning_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._factor = 1.0  # on them
        self.guard = FiniteGuard(optimizer, list(algorithm.buffers()), device)
        self.step_counters = step_counters(algorithm)
        state = algorithm.state_dict()  # a buffer that it does not name is a constant; a forward moves the others
        self.running_statistics = [b for n, b in algorithm.named_buffers() if n in state and b.is_floating_point()]
        self.window = torch.zeros(2, dtype=torch.float64, device=device)
        self.measured = torch.zeros_like(self.window)  # loss and accuracy of this step
        self.seed = torch.initial_seed()
        self.batch_type: Any = None  # Episode or Minibatch; a CUDA graph is given its tensors only
        self.compute_gradients: Callable[..., None] = self._compute_gradients
        self.apply_gradients: Callable[[], None] = self.clip_and_step
        self.captured = cuda_graph and self.guard.fused
        if self.captured:
            self._use_cuda_graphs()

    def __call__(self, batch: Batch, *, step: int, rate: float) -> None:
        """The update after `step` others, at `rate` times the optimiser's own learning rate."""
        self.prepare(step, rate)
        self.batch_type = type(batch)
        self.compute_gradients(*batch)
        self.average_over_processes()
        self.apply_gradients()

    def prepare(self, step: int, rate: float) -> None:
        """What is told to the device before a step."""
        self._seed_generators(step)
        self._set_learning_rate(rate)

    def _seed_generators(self, step: int) -> None:
        """Step k (its dropout) draws from (seed, k, rank) only: a replay needs no state of a generator."""
        words = [str(step)] if self.processes.first else [str(step), str(self.processes.rank)]
        seed = random.key(self.seed, "step", *words)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 80 us
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    def _set_learning_rate(self, factor: float) -> None:
        if factor == self._factor:  # a constant rate needs no kernel
            return
        self._factor = factor
        for group, own in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(own * factor)
            else:
                group["lr"] = own * factor

    def _compute_gradients(self, *tensors: Tensor) -> None:
        self.gradients_of(self.batch_type(*tensors))

    def gradients_of(self, batch: Batch) -> None:
        """Forward and backward on this process's part of the meta-batch; fills `.grad` and `measured`."""
        self.guard.keep_buffers()
        self.optimizer.zero_grad()
        with autocast(self.device, self.dtype):
            out = self.algorithm(batch)
        check_step(f"{type(self.algorithm).__name__}.forward", out, batch)
        out.loss.backward()
        right = (out.logits.detach().argmax(-1) == batch.targets).double().sum()
        accuracy = 100 * right / (batch.targets >= 0).sum()  # padding has the label -1
        self.measured.copy_(torch.stack([out.loss.detach().double(), accuracy]))

    def average_over_processes(self) -> None:
        """The mean is finite only where each process's part is, so that all of them come to the same decision."""
        if self.processes.size > 1:
            gradients = [p.grad for p in self.parameters if p.grad is not None]
            self.processes.mean_([*gradients, *self.running_statistics, self.measured])

    def clip_and_step(self) -> None:
        """Clip, and step where everything is finite."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.gradient_clip_value is not None:
            nn.utils.clip_grad_value_(self.parameters, self.gradient_clip_value)
        norm = nn.utils.get_total_norm(gradients)
        if self.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.gradient_clip, norm)
        self.guard.step(self.measured[0], norm)
        for counter in self.step_counters:
            counter += 1
        self.window += self.measured.masked_fill(self.guard.frozen.bool(), 0.0)

    def stay_plain(self) -> None:
        """Capture nothing: for batches whose shapes change."""
        self.captured = False
        self.compute_gradients, self.apply_gradients = self._compute_gradients, self.clip_and_step

    def _use_cuda_graphs(self) -> None:
        """A graph reads its learning rate from the device, and an optimiser has to know that it is in one."""
        for group, own in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = torch.full((), own, device=self.device)
            if "capturable" in group:
                group["capturable"] = True
        gradients = Captured(self._compute_gradients, name="the outer gradient")
        self.compute_gradients = gradients
        self.apply_gradients = Captured(self.clip_and_step, name="the optimiser's step", after=gradients)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs to go on: the same whatever device and number of processes it was made with."""
        optimizer = self.optimizer.state_dict()
        groups = [group | {"lr": float(group["lr"])} for group in optimizer["param_groups"]]
        return {"model": self.algorithm.state_dict(), "optimizer": optimizer | {"param_groups": groups},
                "seed": self.seed}  # fmt: skip

    def load(self, state: Mapping[str, Any], *, step: int, window: list[float]) -> None:
        """Go on after `step` steps; options of the optimiser stay those of this configuration and device."""
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        for parameter, own in self.optimizer.state.items():  # fused optimisers ignore strides: the same order of axes
            moved = {k: v for k, v in own.items() if k != "step" and v is not None and v.shape == parameter.shape}
            own.update({k: torch.empty_like(parameter).copy_(v) for k, v in moved.items()})
        for group, own in zip(self.optimizer.param_groups, options, strict=True):
            group.update(own)
        self.seed = state["seed"]
        self.guard.steps.fill_(step)
        self.window.copy_(torch.tensor(window, dtype=torch.float64))


class DrawnStep:
    """Batch k of `stream`, then the outer step: where it can be captured, both as one CUDA graph.

    A graph holds no number of Python's: the batch's own is a tensor that counts up in the graph, and the indices of
    a block of batches lie at a fixed place, where another graph draws them when the next block begins. Between
    processes the graph ends at the gradients. Streams that are no BlockStream, and those whose gathering cannot be
    captured (a transform that asks the device) or whose images lie in the host's memory, give their batches to the
    step from outside. Where the sizes of episodes change from step to step nothing is captured: a graph for each size
    would hold the memory of a step each.
    """

    def __init__(self, step: OuterStep, stream: BatchStream) -> None:
        self.step, self.stream = step, stream
        self._whole: Captured | None = None
        if step.captured and isinstance(stream, SizedStream):
            log.warning("the sizes of episodes are drawn for each step: steps are not captured in a CUDA graph")
            step.stay_plain()
        elif step.captured and not isinstance(stream, BlockStream):
            log.warning("%s is no BlockStream: its batches are made outside the CUDA graph", type(stream).__name__)
        elif step.captured and isinstance(stream, BlockStream) and stream.source.on_device:
            self._use_cuda_graphs(stream)

    def __call__(self, *, step: int, rate: float) -> float:
        """The update after `step` others; returns the seconds that the host spent on its batch.

        What is drawn and gathered within a graph takes none of them.
        """
        begin = time.perf_counter()
        if self._whole is None or self._whole.plain:
            batch = self.stream.batch(step)
            drawn = time.perf_counter()
            self.step(batch, step=step, rate=rate)
            return drawn - begin
        self._draw_if_due(step)
        drawn = time.perf_counter()
        self.step.prepare(step, rate)
        self._whole()
        if self.step.processes.size > 1:
            self.step.average_over_processes()
            self._apply()
        return drawn - begin

    def _use_cuda_graphs(self, stream: BlockStream) -> None:
        self._blocks, self._number, self._next = stream, -1, 0
        self._k = torch.zeros(1, dtype=torch.int64, device=stream.source.device)  # of the coming batch
        self._drawn = stream.draw(self._k[0])
        self._draw = Captured(self._draw_block, name="the draw of indices")
        otherwise = "is captured without them"
        self._whole = Captured(self._batch_and_step, name="the outer step with its data", otherwise=otherwise)
        self._apply = Captured(self.step.clip_and_step, name="the optimiser's step", after=self._whole)

    def _draw_if_due(self, step: int) -> None:
        if step != self._next:  # the first one of a run that goes on
            self._k.fill_(step)
        number, self._next = step // self._blocks.block, step + 1
        if number != self._number:
            self._draw(self._k[0])
            self._number = number

    def _draw_block(self, k: Tensor) -> None:
        for mine, t in zip(self._drawn, self._blocks.draw(k // self._blocks.block), strict=True):
            mine.copy_(t)

    def _batch_and_step(self) -> None:
        self.step.gradients_of(self._blocks.gather(self._drawn, self._k))
        if self.step.processes.size == 1:
            self.step.clip_and_step()
        self._k += 1
