"""How many jobs run at a time, and what each of them has of the machine. Layer 7; no torch."""

import os
import subprocess
from contextlib import suppress
from typing import NamedTuple


class Slot(NamedTuple):
    gpu: str | None  # what CUDA_VISIBLE_DEVICES is to be; None: as it is
    threads: int


def plan(slots: int | None, device: str, threads: int | None) -> list[Slot]:
    """One slot per GPU, without GPUs one per core, or per `threads` cores. `slots` sets their number; several then
    share a GPU, and each has its part of the cores unless `threads` says otherwise."""
    cards = visible_gpus() if device in ("auto", "cuda") else []
    cores = len(os.sched_getaffinity(0))
    one_device = device not in ("auto", "cuda", "cpu")  # cuda:1: what is asked for is in use with one job
    number = slots or len(cards) or (1 if one_device else max(1, cores // (threads or 1)))
    each = threads or max(1, cores // number)
    return [Slot(cards[i % len(cards)] if cards else None, each) for i in range(number)]


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES, without waking a GPU up: nvidia-smi lists them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name not in ("", "-1")]
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
        return [str(i) for i, line in enumerate(li for li in listed.stdout.splitlines() if li.startswith("GPU "))]
    return []
