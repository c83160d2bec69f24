"""The machine a run uses: allocator, threads, device, precision. Layer 0."""

import contextlib
import ctypes
import logging
import os
import sys

import torch

from fewshot.engine import cores
from fewshot.engine.processes import ALONE, Processes
from fewshot.errors import InputError

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # from glibc's malloc.h
_GIB = 1 << 30
log = logging.getLogger("fewshot")
PRECISIONS = ("fp32", "tf32", "bf16")


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed buffers for the next step instead of returning them to the kernel.

    Large activations are otherwise unmapped and faulted in again every step, which costs a CPU training step
    up to half its time. Does nothing and returns False where there is no glibc, or if
    FEWSHOT_ALLOCATOR=system is set. Call it before the first large tensor.
    """
    if os.environ.get("FEWSHOT_ALLOCATOR") == "system" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(what, _GIB) == 1 for what in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD, _M_TOP_PAD))


def threads_per_process(local_size: int) -> int:
    """One thread per core that this process may use, divided among the processes of this machine."""
    return max(1, cores.usable() // local_size)


def set_threads(wanted: int | None, local_size: int = 1) -> None:
    """So many threads of torch, one per core at most: a run's number may be another machine's. None: an equal part."""
    have = cores.usable()
    if wanted is not None and wanted > have:
        log.warning("threads=%d, but this process may use %d cores: it takes as many", wanted, have)
    torch.set_num_threads(min(wanted, have) if wanted else threads_per_process(local_size))


def pick_device(wanted: str, processes: Processes = ALONE) -> torch.device:
    """auto | cpu | cuda | cuda:<index> -> the device; asking for one that does not exist is the user's error.

    A CUDA device is returned with its index, which torch.cuda.set_device needs. With several processes each gets a CUDA
    device of its own, and the user may not name one.
    """
    if processes.size > 1 and wanted not in ("auto", "cpu", "cuda"):
        raise InputError(f"device={wanted} names one device for {processes.size} processes; use auto, cuda or cpu")
    have = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        wanted = "cuda" if have else "cpu"
    if processes.size > 1 and wanted == "cuda" and have:
        if processes.local_size > have:
            raise InputError(
                f"{processes.local_size} processes but {have} CUDA device(s) on this machine; "
                f"start one process per device, or use device=cpu"
            )
        wanted = f"cuda:{processes.local_rank}"
    try:
        device = torch.device(f"cuda:{wanted}" if wanted.isdigit() else wanted)
    except RuntimeError as error:
        raise InputError(f"device={wanted} is unknown; use auto, cpu, cuda or cuda:<index>") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device={wanted}: fewshot computes on cpu and cuda; use auto, cpu, cuda or cuda:<index>")
    if device.type == "cuda" and (device.index or 0) >= have:
        there = f"{have} CUDA device(s)" if have else "no CUDA device"
        raise InputError(f"device={wanted}, but this machine has {there}; use device=auto or device=cpu")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def has_matrix_units(device: torch.device) -> bool:
    """Whether bf16 products are fast on a device: a CPU with AMX, or CUDA from compute capability 8.0 on.

    False where PyTorch is too old to describe its CPU (`torch.cpu.get_capabilities`).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    return bool(capabilities and capabilities().get("amx_bf16"))


def pick_precision(wanted: str, device: torch.device, *, auto: str) -> str:
    """auto | fp32 | tf32 | bf16 -> the precision that is used on `device`: fp32, tf32 or bf16.

    auto: the meaning of `auto` where the device has matrix units; fp32 elsewhere. tf32 exists on CUDA only.
    """
    if wanted not in ("auto", *PRECISIONS):
        raise InputError(f"precision={wanted} is unknown; use auto, fp32, tf32 or bf16")
    units = has_matrix_units(device)
    if wanted == "auto":
        wanted = auto if units else "fp32"
    return "fp32" if wanted == "tf32" and not (units and device.type == "cuda") else wanted


def set_precision(precision: str) -> torch.dtype | None:
    """fp32 | tf32 | bf16: sets the matrix mode; returns the autocast dtype, None for no autocast."""
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """torch.autocast, or nothing where dtype is None."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def peak_memory_mb(device: torch.device) -> float:
    """Most memory used so far in MB: of the GPU's allocator, or of this process on a CPU; 0 where Windows runs it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS gives bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def describe(device: torch.device) -> str:
    """The device in words, for results."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:  # noqa: PTH123
        for line in file:
            if line.startswith("model name"):
                return f"cpu ({line.split(':', 1)[1].strip()})"
    return "cpu"
