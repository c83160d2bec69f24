"""One process asks nobody; how several meet is in tests/test_distributed.py."""

import pytest
import torch

from fewshot.engine import processes, runtime
from fewshot.engine.processes import ALONE, Processes
from fewshot.errors import InputError


def test_alone_everything_is_as_it_is() -> None:
    assert processes.size() == 1
    assert processes.join() is ALONE
    assert ALONE.first
    assert ALONE.agree(None) is None
    assert ALONE.agree(15) == 15
    assert ALONE.broadcast({"a": 1}) == {"a": 1}
    assert ALONE.gather("a") == ["a"]
    tensor = torch.ones(3)
    ALONE.mean_([tensor])
    assert torch.equal(tensor, torch.ones(3))
    assert processes.reports_end(failed=True)
    assert not torch.distributed.is_initialized()


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="WORLD_SIZE=2 without 'RANK'; start several processes by torchrun"):
        processes.join()


def test_without_a_failure_the_first_one_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, expected in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert processes.reports_end(failed=False) is expected


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_each_process_gets_a_gpu_of_its_own() -> None:
    second = Processes(3, 4, 1, 2)  # of two machines
    assert runtime.pick_device("auto", second) == runtime.pick_device("cuda", second) == torch.device("cuda:1")
    assert runtime.pick_device("cpu", second) == torch.device("cpu")
    with pytest.raises(InputError, match="device=cuda:1 names one device for 4 processes; use auto, cuda or cpu"):
        runtime.pick_device("cuda:1", second)
    with pytest.raises(InputError, match=r"4 processes but 2 CUDA device\(s\) on this machine; start one process per"):
        runtime.pick_device("auto", Processes(3, 4, 3, 4))


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)))
    assert [runtime.threads_per_process(n) for n in (1, 2, 4, 8)] == [6, 3, 1, 1]
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    for wanted, of in ((None, 2), (4, 2), (5000, 1)):  # thousands of threads would keep a machine from all else
        runtime.set_threads(wanted, of)
    assert taken == [3, 4, 6]
