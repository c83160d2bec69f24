"""One outer update: gradients, their mean over the processes, clipping, the optimiser. Layer 3."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.algorithms.base import Algorithm
from fewshot.engine.capture import Captured
from fewshot.engine.guard import FiniteGuard
from fewshot.engine.processes import ALONE, Processes
from fewshot.engine.runtime import autocast
from fewshot.episode import Batch
from fewshot.ops import random
from fewshot.ops.dropblock import step_counters


class OuterStep:
    """Calling it trains `algorithm` on one batch; nothing in it asks the device for a number.

    It is two fixed sequences of tensor operations, `_gradients` and `_move`, with the exchange between the
    processes in the middle; on CUDA each becomes a CUDA graph (`cuda_graph`, see engine.capture). The step's number
    and rate are therefore tensors. `window` sums loss and accuracy (percent) of the steps since it was last
    emptied; `guard` says whether all was finite.
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
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        buffers = list(algorithm.buffers())
        self.guard = FiniteGuard(optimizer, buffers, device)
        self._counters = step_counters(algorithm)
        self._statistics = [b for b in buffers if b.is_floating_point()]  # running statistics: a forward moves them
        self.window = torch.zeros(2, dtype=torch.float64, device=device)
        self._seen = torch.zeros_like(self.window)  # loss and accuracy of this step
        self.seed = torch.initial_seed()
        self._make_batch: Any = None
        self._halves: tuple[Callable[..., None], Callable[[], None]] = self._gradients, self._move
        if cuda_graph and self.guard.fused:
            self._prepare_capture()

    def __call__(self, batch: Batch, *, step: int, rate: float) -> None:
        """The update after `step` others, at `rate` times the optimiser's own rate."""
        self._seed(step)
        for group, own in zip(self.optimizer.param_groups, self.rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(own * rate)
            else:
                group["lr"] = own * rate
        self._make_batch = type(batch)
        gradients, move = self._halves
        gradients(*batch)
        if self.processes.size > 1:
            filled = [p.grad for p in self.parameters if p.grad is not None]
            self.processes.mean_([*filled, *self._statistics, self._seen])
        move()

    def _gradients(self, *tensors: Tensor) -> None:
        """Forward and backward on this process's part of the meta-batch; fills `.grad` and `_seen`."""
        batch = self._make_batch(*tensors)
        self.guard.keep_buffers()
        self.optimizer.zero_grad()
        with autocast(self.device, self.dtype):
            out = self.algorithm(batch)
        out.loss.backward()
        right = (out.logits.detach().argmax(-1) == batch.targets).double().mean() * 100
        self._seen.copy_(torch.stack([out.loss.detach().double(), right]))

    def _move(self) -> None:
        """Clip, and step where everything is finite. The means over processes are finite only if each part is."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.gradient_clip_value is not None:
            nn.utils.clip_grad_value_(self.parameters, self.gradient_clip_value)
        norm = nn.utils.get_total_norm(gradients)
        if self.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.gradient_clip, norm)
        self.guard.step(self._seen[0], norm)
        for counter in self._counters:
            counter += 1
        self.window += self._seen.masked_fill(self.guard.frozen.bool(), 0.0)

    def _prepare_capture(self) -> None:
        """A graph reads its rate from the device, and an optimiser has to know that it is in one."""
        for group, own in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = torch.full((), own, device=self.device)
            if "capturable" in group:
                group["capturable"] = True
        gradients = Captured(self._gradients, name="the outer gradient")
        self._halves = gradients, Captured(self._move, name="the optimiser's step", after=gradients)

    def _seed(self, step: int) -> None:
        """Step k (its dropout) draws from (seed, k, rank) only: a replay needs no state of a generator."""
        words = [str(step)] if self.processes.first else [str(step), str(self.processes.rank)]
        seed = random.key(self.seed, "step", *words)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 80 us
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

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
