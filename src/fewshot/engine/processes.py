"""The processes of one run, as torchrun starts them: the rank of this one, and what all of them agree on. Layer 0.

In a run of one process nothing is sent. torch is imported late: the command line calls `reports_end` before it needs
anything else of this file.
"""

import atexit
import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fewshot.errors import FewshotError, InputError

if TYPE_CHECKING:
    from torch import Tensor

_failed = False  # this process has ended with an error and does not wait for the others


class PeerLost(FewshotError):
    """Another process of the run has ended while this one was waiting for it."""


class Processes:
    """This process among those of its run: `rank` of `size`, and `local_rank` of `local_size` on its machine.

    Every method is called by all processes, in the same order. Raises PeerLost where one of them has ended.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def agree(self, signum: int | None) -> int | None:
        """The signal that any of them has received; the highest number where there are several."""
        if self.size == 1:
            return signum
        import torch

        flag = torch.tensor(signum or 0)  # on the CPU: a GPU is not asked
        with _together():
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return int(flag) or None

    def mean_(self, tensors: "Sequence[Tensor]") -> None:
        """Each tensor becomes its mean over the processes, in place: one message per type of number.

        All processes get the same bits: each entry is summed once and sent to all.
        """
        if self.size == 1:
            return
        import torch

        for dtype in sorted({t.dtype for t in tensors}, key=str):
            own = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.detach().flatten() for t in own])
            with _together():
                torch.distributed.all_reduce(flat)
            flat /= self.size
            parts = flat.split([t.numel() for t in own])
            means = [values.view_as(t) for t, values in zip(own, parts, strict=True)]
            torch._foreach_copy_([t.detach() for t in own], means)

    def broadcast(self, value: Any) -> Any:
        """The first process's value, in all processes: tensors on the CPU and plain values, nested in any way."""
        if self.size == 1:
            return value
        import torch

        box = [value if self.first else None]
        with _together():
            torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        import torch

        values: list[Any] = [None] * self.size
        with _together():
            torch.distributed.all_gather_object(values, value)
        return values


ALONE = Processes()


def size() -> int:
    """How many processes this run has, from the environment that torchrun sets; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> Processes:
    """Connect to the other processes of the run, if torchrun started any. All but the first print nothing from now on.

    GPU tensors are sent by NCCL, all else by gloo. Raises FewshotError where they cannot connect.
    """
    if size() == 1:
        return ALONE
    import logging
    import warnings

    import torch

    try:
        words = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        found = Processes(*[int(os.environ[word]) for word in words])
    except (KeyError, ValueError) as error:
        raise InputError(f"WORLD_SIZE={size()} without {error}; start several processes by torchrun") from error
    if not found.first:
        logging.getLogger("fewshot").setLevel(logging.CRITICAL)
        warnings.simplefilter("ignore")
    gpus = torch.cuda.is_available() and torch.distributed.is_nccl_available()
    try:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    except (RuntimeError, ValueError) as error:
        raise FewshotError(f"process {found.rank} of {found.size} cannot meet the others ({error})") from error
    atexit.register(_leave)
    return found


def reports_end(*, failed: bool) -> bool:
    """Whether this process prints how the run ended: one line for all of them.

    After an error it is the process in which it occurred first, since the others end because of it or by the same
    error; otherwise the first one. A process that failed does not wait for the others at its end.
    """
    global _failed
    if size() == 1:
        return True
    if not failed:
        return os.environ.get("RANK") == "0"
    _failed = True
    from datetime import timedelta

    import torch

    place = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0"))
    attempt = [os.environ.get(f"TORCHELASTIC_{word}", "") for word in ("RUN_ID", "RESTART_COUNT")]
    try:  # torchrun keeps this store: it exists before the processes are connected and after one has died
        store = torch.distributed.TCPStore(*place, is_master=False, timeout=timedelta(seconds=10))
        return bool(store.add("/".join(["fewshot failed", *attempt]), 1) == 1)
    except (RuntimeError, ValueError):
        return os.environ.get("RANK") == "0"


def _leave() -> None:
    """Wait for the others before leaving: torchrun ends all when one has left, and the first has the most to finish."""
    import torch

    with contextlib.suppress(RuntimeError):
        if not _failed:
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(
            "another process of this run has ended without a word (killed, or out of memory); "
            "the same command goes on from the last checkpoint"
        ) from error
