"""A fixed sequence of tensor operations as one CUDA graph. Layer 0.

A training step is thousands of small kernels, which take longer to launch than to run. A CUDA graph launches
them at once. What it holds must always do the same work on the same memory: no question to the device, no
number of Python's that changes from step to step.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger("fewshot")

WARMUP = 3  # plain calls first: libraries choose their algorithms, an optimiser makes its state
Function = Callable[..., None]
Replay = Callable[[], None]


class Captured:
    """Calls `function(*tensors)` plainly WARMUP times, then captures it once and replays it from there on.

    function: returns nothing, reads and writes tensors that stay where they are; those given are copied into
    buffers of its own first (on a GPU some microseconds, once per step). Where it cannot be captured it stays
    as it is, with one line in the log. record: makes the replay of a function; for tests on a CPU.
    """

    def __init__(self, function: Function, *, name: str, record: Callable[[Replay], Replay] | None = None) -> None:
        self.function, self.name = function, name
        self._record = record or cuda_graph
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None
        self._inputs: tuple[Tensor, ...] = ()
        self._calls = 0
        self._replay: Replay | None = None
        self._plain = False

    def __call__(self, *tensors: Tensor) -> None:
        if self._plain:
            self.function(*tensors)
            return
        if self._replay is None and self._calls < WARMUP:
            self._calls += 1
            self._aside(tensors)
            return
        if self._replay is None:
            self._inputs = tuple(t.clone() for t in tensors)
            self._replay = self._captured()
        for mine, given in zip(self._inputs, tensors, strict=True):
            mine.copy_(given)
        self._replay()

    def _aside(self, tensors: tuple[Tensor, ...]) -> None:
        """On a stream beside the current one, as CUDA asks before a capture."""
        if self._stream is None:
            self.function(*tensors)
            return
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self.function(*tensors)
        current.wait_stream(self._stream)

    def _captured(self) -> Replay:
        try:
            return self._record(lambda: self.function(*self._inputs))
        except RuntimeError as error:  # capture has run nothing: the plain call does what it would have done
            reason = " ".join(str(error).split("\n")[0].split())
            log.warning("%s cannot be captured in a CUDA graph and runs as it is (%s)", self.name, reason)
            self._plain = True
            return lambda: self.function(*self._inputs)


def cuda_graph(function: Replay) -> Replay:
    """Capture a function that takes nothing, without running it; what is returned runs it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads (NCCL's) may use the device
        function()
    return graph.replay
