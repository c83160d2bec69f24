"""Nothing changes after the first value that is not finite, even if that is noticed only later. Layer 0."""

from collections.abc import Sequence

import torch
from torch import Tensor


class FiniteGuard:
    """Freezes an optimiser and restores buffers, by tensor operations alone: no step asks the device.

    A GPU would have to wait for the answer, so the loop reads the flag only where it waits anyway; until then
    `step` has changed nothing. Fused optimisers read the flag themselves; before any other it is read each step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, buffers: Sequence[Tensor], device: torch.device) -> None:
        self.optimizer, self.buffers, self.device = optimizer, list(buffers), device
        self.steps = torch.zeros((), dtype=torch.int64, device=device)  # steps done
        self.first_bad = torch.zeros_like(self.steps)  # the step at which something was first not finite
        self.frozen = torch.zeros((), device=device)  # 1 from that step on
        self.fused = all(group.get("fused") for group in optimizer.param_groups)
        if self.fused:  # other optimisers refuse to step where they find these
            vars(optimizer).update(grad_scale=None, found_inf=self.frozen)
        self._kept = self._values()

    def keep_buffers(self) -> None:
        """Before a step's forward changes the buffers: keep a copy, of the last step before the first bad one."""
        if self.buffers:
            self._kept.copy_(torch.where(self.frozen.bool(), self._kept, self._values()))

    def step(self, *values: Tensor) -> None:
        """A step of the optimiser, unless one of these scalars, or one of an earlier step, is not finite."""
        bad = ~torch.isfinite(torch.stack([value.detach().double() for value in values])).all()
        self.steps += 1
        self.first_bad.copy_(torch.where(bad & (self.frozen == 0), self.steps, self.first_bad))
        self.frozen.masked_fill_(bad, 1.0)
        if self.fused or not self.frozen:
            self.optimizer.step()

    def bad_step(self, *, wait: bool) -> int | None:
        """The first step at which a value was not finite, if any; weights, optimiser and buffers are then as
        before it. A GPU is asked only if `wait` is true."""
        if not (wait or self.device.type == "cpu") or not self.frozen:
            return None
        for buffer, values in zip(self.buffers, self._kept.split([b.numel() for b in self.buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))
        bad = int(self.first_bad)
        if bad == 1:
            self.optimizer.state.clear()  # fused SGD creates its momenta before it sees that it is frozen
        return bad

    def _values(self) -> Tensor:
        return torch.cat([torch.empty(0, device=self.device), *[b.detach().flatten() for b in self.buffers]])
