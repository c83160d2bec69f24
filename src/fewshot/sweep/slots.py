"""How many jobs run at a time, and which GPU and how many threads each of them gets. Layer 7; no torch."""

import os
import subprocess
from contextlib import suppress
from typing import NamedTuple

from fewshot.engine.cores import usable as usable_cores


class Slot(NamedTuple):
    gpu: str | None  # value of CUDA_VISIBLE_DEVICES; None: unchanged
    threads: int


def plan(slots: int | None, device: str, threads: int | None) -> list[Slot]:
    """One slot per GPU; without GPUs one per core, or per `threads` cores.

    slots: how many instead; several may then share a GPU. threads: of each job; None: an equal part of the cores.
    """
    cards = visible_gpus() if device in ("auto", "cuda") else []
    cores = usable_cores()
    one_device = device not in ("auto", "cuda", "cpu")  # such as cuda:1: one job uses all of it
    number = slots or len(cards) or (1 if one_device else max(1, cores // (threads or 1)))
    each = threads or max(1, cores // number)
    return [Slot(cards[i % len(cards)] if cards else None, each) for i in range(number)]


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES, from nvidia-smi: asking torch would initialise CUDA in this process."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name not in ("", "-1")]
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
        return [str(i) for i, line in enumerate(li for li in listed.stdout.splitlines() if li.startswith("GPU "))]
    return []
