"""A fixed sequence of tensor operations as one CUDA graph. Layer 0.

A training step is thousands of small kernels, which take longer to launch than to run. A CUDA graph launches
them at once. What it holds must always do the same work on the same memory: no question to the device, no
number of Python's that changes from step to step.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from fewshot.errors import first_line

log = logging.getLogger("fewshot")

WARMUP = 3  # plain calls first: libraries choose their algorithms, an optimiser makes its state
Replay = Callable[[], None]


class Captured:
    """Calls `function(*tensors)` plainly WARMUP times, then captures it once and replays it from there on.

    function: returns nothing, reads and writes tensors that stay where they are; those given are copied into
    buffers of its own first (on a GPU some microseconds, once per step), which have the shapes of the capture:
    ValueError for others. Where it cannot be captured it stays as it is (`plain`), with one line in the log, whose
    end is `otherwise`. after: the one whose results this one reads from where they were at its capture; if that one
    stayed plain they move, and this one stays plain as well.
    """

    def __init__(
        self, function: Callable[..., None], *, name: str, after: "Captured | None" = None,
        otherwise: str = "runs as it is",
    ) -> None:  # fmt: skip
        self.function, self.name, self.after, self.otherwise = function, name, after, otherwise
        self.plain = False
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None
        self._inputs: tuple[Tensor, ...] = ()
        self._calls = 0
        self._replay: Replay | None = None

    def __call__(self, *tensors: Tensor) -> None:
        self._calls += 1
        if self._calls <= WARMUP:
            self._aside(tensors)
            return
        if self._calls == WARMUP + 1:
            self._capture(tensors)
        if self._replay is None:
            self.function(*tensors)
            return
        self._copy_inputs(tensors)
        self._replay()

    def _copy_inputs(self, tensors: tuple[Tensor, ...]) -> None:
        captured, given = ([tuple(t.shape) for t in ts] for ts in (self._inputs, tensors))
        if captured != given:  # copy_ would repeat a smaller batch
            raise ValueError(f"{self.name} was captured for tensors of shapes {captured}; these are {given}")
        for mine, tensor in zip(self._inputs, tensors, strict=True):
            mine.copy_(tensor)

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

    def _capture(self, tensors: tuple[Tensor, ...]) -> None:
        self.plain = self.after is not None and self.after.plain
        if self.plain:
            return
        self._inputs = tuple(t.clone() for t in tensors)
        try:
            self._replay = cuda_graph(lambda: self.function(*self._inputs))
        except RuntimeError as error:  # nothing has run: a plain call follows
            what = first_line(error)
            log.warning("%s cannot be captured in a CUDA graph and %s (%s)", self.name, self.otherwise, what)
            self.plain = True


def cuda_graph(function: Replay) -> Replay:
    """Capture a function that takes nothing, without running it; what is returned runs it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads (NCCL's) may use the device
        function()
    return graph.replay
