"""How many jobs run at a time, and what each has."""

import os
import stat
from pathlib import Path

import pytest

from fewshot.sweep.slots import Slot, plan, visible_gpus


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight cores, two GPUs that nvidia-smi lists."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    script = tmp_path / "nvidia-smi"
    script.write_text('#!/bin/sh\necho "GPU 0: NVIDIA H100 (UUID: GPU-a)"\necho "GPU 1: NVIDIA H100 (UUID: GPU-b)"\n')
    script.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_one_job_per_gpu_with_its_part_of_the_cores() -> None:
    assert plan(None, "auto", None) == [Slot("0", 4), Slot("1", 4)]
    assert plan(None, "cuda", 1) == [Slot("0", 1), Slot("1", 1)]
    assert plan(3, "auto", None) == [Slot("0", 2), Slot("1", 2), Slot("0", 2)]
    assert plan(None, "cuda:1", None) == [Slot(None, 8)]


def test_one_job_per_core_or_per_threads() -> None:
    assert plan(None, "cpu", None) == [Slot(None, 1)] * 8
    assert plan(None, "cpu", 4) == [Slot(None, 4)] * 2
    assert plan(None, "cpu", 16) == [Slot(None, 16)]
    assert plan(3, "cpu", None) == [Slot(None, 2)] * 3
    assert plan(20, "cpu", None) == [Slot(None, 1)] * 20


def test_the_gpus_that_the_user_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-b")
    assert plan(None, "auto", None) == [Slot("3", 4), Slot("GPU-b", 4)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert plan(None, "auto", None) == [Slot(None, 1)] * 8
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "/nowhere")
    assert visible_gpus() == []
