"""Allocator, device, precision: what is asked for, or an error that says what there is."""

import contextlib
import ctypes
from collections.abc import Iterator

import pytest
import torch

from fewshot.engine import runtime
from fewshot.errors import InputError

CPU = torch.device("cpu")


class Libc:
    """Stands for the C library; the test process keeps its own allocator settings."""

    def __init__(self, answer: int = 1) -> None:
        self.calls: dict[int, int] = {}
        self.answer = answer

    def mallopt(self, parameter: int, value: int) -> int:
        self.calls[parameter] = value
        return self.answer


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("FEWSHOT_ALLOCATOR", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    return monkeypatch


def test_freed_memory_is_kept_up_to_a_gibibyte(linux: pytest.MonkeyPatch) -> None:
    libc = Libc()
    linux.setattr(ctypes, "CDLL", lambda name: libc)
    assert runtime.keep_freed_memory()
    assert libc.calls == {-1: 1 << 30, -2: 1 << 30, -3: 1 << 30}  # malloc.h: trim, top pad, mmap


def test_the_allocator_is_left_alone_where_it_cannot_or_must_not_be_set(linux: pytest.MonkeyPatch) -> None:
    libc = Libc(answer=0)  # refused
    linux.setattr(ctypes, "CDLL", lambda name: libc)
    assert not runtime.keep_freed_memory()
    libc = Libc()
    linux.setenv("FEWSHOT_ALLOCATOR", "system")
    assert not runtime.keep_freed_memory()
    linux.delenv("FEWSHOT_ALLOCATOR")
    linux.setattr("sys.platform", "darwin")
    assert not runtime.keep_freed_memory()
    assert libc.calls == {}


def test_no_glibc_is_no_error(linux: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    linux.setattr(ctypes, "CDLL", missing)
    assert not runtime.keep_freed_memory()
    linux.setattr(ctypes, "CDLL", lambda name: object())  # musl has no mallopt
    assert not runtime.keep_freed_memory()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_devices_without_cuda() -> None:
    assert runtime.pick_device("auto") == runtime.pick_device("cpu") == CPU
    for wanted in ("cuda", "cuda:0", "0"):
        with pytest.raises(InputError, match=f"device={wanted}, but this machine has no CUDA device; use device=auto"):
            runtime.pick_device(wanted)


@pytest.mark.usefixtures("two_gpus")
def test_devices_with_two_gpus() -> None:
    assert runtime.pick_device("auto") == torch.device("cuda:0")
    assert runtime.pick_device("cpu") == CPU
    assert runtime.pick_device("1") == runtime.pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(InputError, match=r"device=cuda:2, but this machine has 2 CUDA device\(s\)"):
        runtime.pick_device("cuda:2")


@pytest.mark.parametrize("wanted", ["gpu", "cuda:x", ""])
def test_an_unknown_device(wanted: str) -> None:
    with pytest.raises(InputError, match=f"device={wanted} is unknown; use auto, cpu, cuda or cuda:<index>"):
        runtime.pick_device(wanted)


@pytest.fixture
def matrix_mode() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


@pytest.mark.usefixtures("matrix_mode")
@pytest.mark.parametrize(
    ("precision", "tf32", "dtype"), [("fp32", False, None), ("tf32", True, None), ("bf16", True, torch.bfloat16)]
)
def test_precision(precision: str, tf32: bool, dtype: torch.dtype | None) -> None:
    assert runtime.set_precision(precision) is dtype
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (tf32, tf32)


@pytest.mark.parametrize(
    ("wanted", "kind", "units", "auto", "expected"),
    [
        ("auto", "cpu", True, "bf16", "bf16"),
        ("auto", "cpu", False, "bf16", "fp32"),
        ("auto", "cpu", True, "tf32", "fp32"),
        ("auto", "cuda", True, "bf16", "bf16"),
        ("auto", "cuda", True, "tf32", "tf32"),
        ("auto", "cuda", False, "bf16", "fp32"),
        ("auto", "cuda", False, "tf32", "fp32"),
        ("tf32", "cpu", True, "bf16", "fp32"),
        ("tf32", "cuda", True, "bf16", "tf32"),
        ("tf32", "cuda", False, "bf16", "fp32"),
        ("bf16", "cpu", False, "tf32", "bf16"),
        ("fp32", "cuda", True, "bf16", "fp32"),
    ],
)
def test_what_a_precision_comes_to(
    monkeypatch: pytest.MonkeyPatch, wanted: str, kind: str, units: bool, auto: str, expected: str
) -> None:
    monkeypatch.setattr(runtime, "has_matrix_units", lambda device: units)
    assert runtime.pick_precision(wanted, torch.device(kind), auto=auto) == expected


def test_matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, there in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert runtime.has_matrix_units(torch.device("cuda")) is there
    for capabilities, there in (({"amx_bf16": True}, True), ({"amx_bf16": False}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert runtime.has_matrix_units(CPU) is there
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # older PyTorch
    assert runtime.has_matrix_units(CPU) is False


def test_an_unknown_precision() -> None:
    with pytest.raises(InputError, match="precision=fp16 is unknown; use auto, fp32, tf32 or bf16"):
        runtime.pick_precision("fp16", CPU, auto="tf32")


def test_autocast_only_where_a_type_is_given() -> None:
    assert isinstance(runtime.autocast(CPU, None), contextlib.nullcontext)
    a = torch.ones(2, 2)
    with runtime.autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
    assert (a @ a).dtype == torch.float32


def test_peak_memory_is_in_megabytes() -> None:
    assert 50 < runtime.peak_memory_mb(CPU) < 1e6  # torch alone is above 50 MB


def test_the_device_in_words() -> None:
    assert runtime.describe(CPU).startswith("cpu")
