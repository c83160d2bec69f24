"""A CUDA graph without a GPU: operations that are recorded and done again on the same memory.

What a capture would bake in (a step's number, a rate, a tensor that moves) shows on it as well.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot.engine import capture
from fewshot.ops import tasks


class Tape(TorchDispatchMode):
    """Records operations and their tensors; `replay` does them again on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [r.alias_info for r in func._schema.returns]
        if not given or any(alias is None or alias.is_write for alias in given):  # a view stays what it is
            fresh = bool(given) and all(alias is None for alias in given)
            leaves, _ = torch.utils._pytree.tree_flatten(out)
            self.done.append((func, args, kwargs or {}, [t for t in leaves if fresh and isinstance(t, Tensor)]))
        return out

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, outs in self.done:
                leaves, _ = torch.utils._pytree.tree_flatten(func(*args, **kwargs))
                for old, new in zip(outs, [t for t in leaves if isinstance(t, Tensor)] if outs else [], strict=True):
                    old.copy_(new)


def on_tape(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Captures go to a tape. Recording runs the operations, which a capture does not: the first replay is that.

    Indices are drawn for two batches at a time, so that the fourth draw, of batches 6 and 7, is captured as well.
    """
    tapes: list[Tape] = []

    def record(function: capture.Replay) -> capture.Replay:
        with Tape() as tape, monkeypatch.context() as patch:
            patch.setattr(tasks, "_capturing", lambda tensor: True)
            function()
        tapes.append(tape)
        first = [True]
        return lambda: first.clear() if first else tape.replay()

    monkeypatch.setattr(capture, "cuda_graph", record)
    monkeypatch.setattr("fewshot.streams.BLOCK", 2)
    return tapes
