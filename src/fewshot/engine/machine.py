"""What a run computes on: device, processes and precision. Layer 0."""

from typing import NamedTuple, Self

import torch

from fewshot.engine import runtime
from fewshot.engine.processes import ALONE, Processes, join


class Machine(NamedTuple):
    """The device of this process and the other processes of the run."""

    device: torch.device
    processes: Processes = ALONE
    precision: str = "fp32"
    dtype: torch.dtype | None = None  # of autocast

    @classmethod
    def start(cls, device: str, threads: int | None) -> Self:
        """Allocator, the other processes of the run, threads and device; before the first large tensor.

        device: auto | cpu | cuda | cuda:<index>. threads: of the CPU; None: one per core of this process.
        """
        runtime.keep_freed_memory()
        processes = join()
        runtime.set_threads(threads, processes.local_size)
        picked = runtime.pick_device(device, processes)
        if picked.type == "cuda":
            torch.cuda.set_device(picked)
        return cls(picked, processes)

    def at(self, precision: str, *, auto: str) -> Self:
        """This machine set to a precision that the first process's device has. auto: the meaning of `auto` there."""
        picked = self.processes.broadcast(runtime.pick_precision(precision, self.device, auto=auto))
        return self._replace(precision=picked, dtype=runtime.set_precision(picked))
