"""Checkpoints: what is saved comes back, whatever happens in between."""

import errno
import math
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fewshot import checkpoint, stored_state
from fewshot.errors import FewshotError

FILES = ("state.safetensors", "state.json", "manifest.json")


def state_of(step: int) -> dict[str, Any]:
    return {"model": {"weight": torch.full((50, 7), float(step))}, "step": step}


def saved(folder: Path, *steps: int, best: int | None = None) -> Path:
    for step in steps:
        checkpoint.save(folder, step, state_of(step), best=step == best)
    return folder


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_every_kind_of_value_comes_back(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    state = {
        "dtypes": [torch.ones(2).to(d) for d in (torch.bfloat16, torch.float16, torch.float64, torch.int64)],
        "bool": torch.tensor([True, False]),
        "rng": torch.get_rng_state(),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "transposed": base.t(),
        "shared": {"rows": base[:2], "all": base, "again": base},
        "expanded": torch.ones(1, 3).expand(5, 3),
        "imaginary": torch.tensor([1 + 2j]).conj().imag,
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "plain": {"none": None, "yes": True, "int": 2**70, "float": 0.1, "text": "ä\n", "list": [1, [2]]},
        "non_finite": [math.inf, -math.inf, math.nan],
        "tuple": (0.9, (torch.ones(1), "x")),
        "int keys": {0: torch.zeros(1), 7: {"0": torch.ones(1), 0: torch.full((1,), 2.0)}},
        "same/name": torch.zeros(1),
        "same": {"name": torch.ones(1)},
        "nothing": {},
    }
    checkpoint.save(tmp_path, 0, state)
    step, loaded = checkpoint.load(tmp_path)
    assert step == 0
    assert equal(state, loaded)
    assert loaded["channels_last"].is_contiguous()
    loaded["shared"]["all"].zero_()  # writable, and no longer shared
    assert torch.equal(loaded["shared"]["again"], base)


def test_a_state_without_tensors(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, {"a": 1})
    assert checkpoint.load(tmp_path, 3) == (3, {"a": 1})


def test_parameters_come_back_as_plain_tensors_without_gradient(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, OrderedDict(weight=nn.Parameter(torch.ones(2))))
    weight = checkpoint.load(tmp_path)[1]["weight"]
    assert type(weight) is torch.Tensor
    assert not weight.requires_grad


@pytest.mark.gpu
def test_tensors_of_the_gpu_come_back_on_the_cpu(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"x": torch.arange(6.0, device="cuda").view(2, 3).t()})
    assert equal(checkpoint.load(tmp_path)[1]["x"], torch.arange(6.0).view(2, 3).t())


def test_adam_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    def training(resume: bool) -> torch.Tensor:
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
        for step in range(6):
            if resume and step == 3:
                state = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}
                checkpoint.save(tmp_path, step, state)
                net = nn.Linear(3, 2)
                optimizer = torch.optim.Adam(net.parameters(), lr=0.7)
                state = checkpoint.load(tmp_path)[1]
                checkpoint.load_into(net, state["model"])
                optimizer.load_state_dict(state["optimizer"])
            optimizer.zero_grad()
            net(torch.full((4, 3), float(step))).square().sum().backward()
            optimizer.step()
        return net.weight.detach()

    assert torch.equal(training(resume=True), training(resume=False))


@pytest.mark.parametrize("value", [{1.5: 0}, {None: 0}, {"a": object()}, {"a": {1, 2}}])
def test_what_json_cannot_hold_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="state"):
        checkpoint.save(tmp_path, 1, value)
    assert entries(tmp_path) == []


def test_keeps_the_last_two_and_the_best_and_sweeps_up(tmp_path: Path) -> None:
    for leftover in (".7-99999", ".5-old"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "state.json").write_text("{")
    (tmp_path / "notes.txt").write_text("mine")
    saved(tmp_path, 10, 20, 30, 40, best=20)
    assert entries(tmp_path) == ["20", "30", "40", "best", "last", "notes.txt"]
    assert checkpoint.steps(tmp_path) == [20, 30, 40]
    assert checkpoint.load(tmp_path, "best")[0] == 20
    assert checkpoint.load(tmp_path)[0] == 40
    assert checkpoint.load(tmp_path, 30)[0] == 30


def test_steps_of_a_future_that_a_resume_has_left_go(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20, 30, best=30)
    saved(tmp_path, 15)
    assert checkpoint.load(tmp_path)[0] == 15
    assert checkpoint.steps(tmp_path) == [15, 30]  # 30 is the best


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    checkpoint.save(tmp_path, 10, {"second": True}, best=True)
    assert checkpoint.load(tmp_path) == checkpoint.load(tmp_path, "best") == (10, {"second": True})
    assert entries(tmp_path) == ["10", "best", "last"]


def test_a_checkpoint_put_aside_counts_until_its_successor_is_there(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    (tmp_path / "10").rename(tmp_path / ".10-old")  # killed between the two renames
    assert equal(checkpoint.load(tmp_path), (10, state_of(10)))
    saved(tmp_path, 20)
    assert checkpoint.steps(tmp_path) == [10, 20]
    saved(tmp_path, 10)
    assert entries(tmp_path) == ["10", "last"]


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "flipped":
        path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    elif how == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[:-1], "empty": b"", "garbage": b"\x80" * len(data)}[how])


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "garbage", "missing"])
@pytest.mark.parametrize("file", FILES)
def test_damage_falls_back_with_a_warning(tmp_path: Path, file: str, how: str, logged: Callable[[], list[str]]) -> None:
    saved(tmp_path, 10, 20, best=20)
    damage(tmp_path / "20" / file, how)
    assert equal(checkpoint.load(tmp_path), (10, state_of(10)))
    (warning,) = logged()
    assert "20: " in warning
    assert "using step 10" in warning
    with pytest.raises(FewshotError, match=r"checkpoint 'best' of .* is damaged \(20: .*\); use checkpoint=last"):
        checkpoint.load(tmp_path, "best")
    with pytest.raises(FewshotError, match="checkpoint '20' of"):
        checkpoint.load(tmp_path, 20)
    damage(tmp_path / "10" / file, how)
    with pytest.raises(FewshotError, match=r"no intact checkpoint in .*: 20: .*; 10: .*; start a new run") as caught:
        checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_every_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"x": torch.ones(2), "n": 5})
    right = checkpoint.load(tmp_path)
    for file in FILES:
        data = (tmp_path / "1" / file).read_bytes()
        for at in range(len(data)):
            (tmp_path / "1" / file).write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
            try:
                assert equal(checkpoint.load(tmp_path), right), (file, at)  # a blank of the manifest, say
                assert file == "manifest.json"
            except FewshotError as error:
                assert "no intact checkpoint" in str(error), (file, at)
        (tmp_path / "1" / file).write_bytes(data)


def test_a_short_file_that_starts_like_a_pickle_is_damage(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20)
    for head in (b"\x80", b"\x80\x02", b"\x80\x02\x00\x00\x00\x00\x00\x00{}"):
        (tmp_path / "20" / "state.safetensors").write_bytes(head)
        assert checkpoint.load(tmp_path)[0] == 10


def test_pointers(tmp_path: Path) -> None:
    with pytest.raises(FewshotError, match=r"no intact checkpoint in .*: it holds none"):
        checkpoint.load(tmp_path / "absent")
    assert checkpoint.steps(tmp_path / "absent") == []
    saved(tmp_path, 10, 20)
    with pytest.raises(FewshotError, match=r"no checkpoint 'best' in .*; use 'last' or one of \[10, 20\]"):
        checkpoint.load(tmp_path, "best")
    with pytest.raises(FewshotError, match=r"no checkpoint '15' in .*one of \[10, 20\]"):
        checkpoint.load(tmp_path, 15)
    (tmp_path / "last").write_text("10")  # killed before the pointer moved
    assert checkpoint.load(tmp_path)[0] == 10
    damage(tmp_path / "10" / "state.json", "empty")
    assert checkpoint.load(tmp_path)[0] == 20
    for text in ("", "\0\0", "20 "):
        (tmp_path / "last").write_text(text)
        assert checkpoint.load(tmp_path)[0] == 20
    (tmp_path / "last").unlink()
    assert checkpoint.load(tmp_path)[0] == 20


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("writer", ["pickle", "torch", "legacy"])
@pytest.mark.parametrize("place", ["state", "hashed", "other file", "no folder"])
def test_pickles_are_refused_and_nothing_in_them_runs(tmp_path: Path, writer: str, place: str) -> None:
    folder = saved(tmp_path / "checkpoints", 10, 20)
    target = folder / "20" / "state.safetensors"
    target.unlink()
    if place == "other file":
        target = target.with_name("state.pt")
    elif place == "no folder":
        shutil.rmtree(folder / "20")
        target = folder / "20"
    trap = {"model": Planted(tmp_path / "planted")}
    if writer == "pickle":
        target.write_bytes(pickle.dumps(trap))
    else:
        torch.save(trap, target, _use_new_zipfile_serialization=writer == "torch")
    if place == "hashed":
        files = {name: (folder / "20" / name).read_bytes() for name in FILES[:2]}
        (folder / "20" / "manifest.json").write_bytes(stored_state.manifest(20, files))
    for which in ("last", 20):
        with pytest.raises(FewshotError, match=rf"{target.name} is a pickle, .*: refused"):
            checkpoint.load(folder, which)
    assert not (tmp_path / "planted").exists()


def test_another_format_is_named_and_not_stepped_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 10)
    monkeypatch.setattr(stored_state, "FORMAT", 2)
    saved(tmp_path, 20)
    monkeypatch.undo()
    with pytest.raises(FewshotError, match="20 has format 2, this version of fewshot reads 1"):
        checkpoint.load(tmp_path)


def test_a_moved_folder_with_an_odd_name(tmp_path: Path) -> None:
    saved(tmp_path / "run [a] *" / "checkpoints", 10, 20, 30)
    (tmp_path / "run [a] *").rename(tmp_path / "Läufe, 中文 run")
    folder = tmp_path / "Läufe, 中文 run" / "checkpoints"
    assert equal(checkpoint.load(folder), (30, state_of(30)))
    assert checkpoint.steps(saved(folder, 40)) == [30, 40]


def test_load_into_names_what_differs() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    good = {key: torch.ones_like(value) for key, value in net.state_dict().items()}
    checkpoint.load_into(net, good)
    assert torch.equal(net.state_dict()["1.weight"], torch.ones(1, 2))
    bad = {
        "0.weight": torch.zeros(4, 3),
        "0.bias": good["0.bias"],
        **{f"x{i}": torch.ones(1) for i in range(7)},
    }
    with pytest.raises(FewshotError) as caught:
        checkpoint.load_into(net, bad)
    assert str(caught.value) == (
        "the checkpoint does not fit this Sequential: missing: 1.weight, 1.bias; not in the model: x0, x1, "
        "x2, x3, x4 and 2 more; other shape: 0.weight [4, 3], model [2, 3]; "
        "use the configuration it was trained with"
    )
    assert torch.equal(net.state_dict()["0.weight"], torch.ones(2, 3))  # untouched


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    disk = tmp_path / "tiny disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_the_old_checkpoint(tiny_disk: Path) -> None:
    folder = saved(tiny_disk / "checkpoints", 10)
    with pytest.raises(FewshotError) as caught:
        checkpoint.save(folder, 20, {"x": torch.zeros(100_000)}, best=True)
    message = str(caught.value)
    assert f"cannot save checkpoint 20 on {tiny_disk}: {os.strerror(errno.ENOSPC)} (400" in message
    assert "earlier checkpoints are kept" in message
    assert entries(folder) == ["10", "last"]
    assert equal(checkpoint.load(folder), (10, state_of(10)))
    assert checkpoint.steps(saved(folder, 20)) == [10, 20]


def test_a_file_that_may_not_grow_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(FewshotError, match=rf"on /.*: {os.strerror(errno.EFBIG)} \(\d+ bytes needed, \d+ free"):
            checkpoint.save(tmp_path, 20, state_of(20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert entries(tmp_path) == ["10", "last"]
    assert equal(checkpoint.load(tmp_path), (10, state_of(10)))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FewshotError, match=f"cannot save checkpoint 1 on /.*: {os.strerror(errno.ENOTDIR)}"):
        checkpoint.save(tmp_path / "file" / "checkpoints", 1, {})


KILLED = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import torch
from fewshot import checkpoint

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
random.seed(seed)
torch.set_num_threads(1)

def state(step): return {"x": [torch.full((30, 40), float(step)) for _ in range(3)], "step": step}

def check(least, most):
    step, loaded = checkpoint.load(folder)
    assert least <= step <= most, (step, least, most)
    assert loaded["step"] == step and all((x == step).all() for x in loaded["x"]), loaded
    return step

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid

# Dies in the middle of endless saving, at a random moment. What it reported as saved must be there.
start = time.perf_counter()
checkpoint.save(folder, 0, state(0))
window, at = 5 * (time.perf_counter() - start), 0
for kill in range(15):
    read, write = os.pipe()
    def work():
        for step in range(at, 10**9):  # the step it resumed from first: that is replaced
            checkpoint.save(folder, step, state(step), best=step % 7 == 3)
            os.write(write, b"%d\\n" % step)
    pid = child(work)
    os.close(write)
    time.sleep(random.uniform(0, window))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(read, "rb") as reports:
        reported = [int(line) for line in reports.read().split()]
    at = check(reported[-1] if reported else at, (reported[-1] if reported else at - 1) + 1)
    if (folder / "best").exists():
        assert checkpoint.load(folder, "best")[0] % 7 == 3
assert at > 0

# Dies at each call by which a save changes the disk, in turn: new step, then the same step again.
for saving in (20, 10):
    for fatal in range(1, 100):
        shutil.rmtree(folder)
        checkpoint.save(folder, 10, state(10))
        def work():
            calls = []
            def dying(real):
                def call(*arguments, **options):
                    calls.append(real)
                    if len(calls) == fatal:
                        os._exit(9)
                    return real(*arguments, **options)
                return call
            for name in ("fsync", "rename", "mkdir", "unlink", "rmdir"):
                setattr(os, name, dying(getattr(os, name)))
            checkpoint.save(folder, saving, state(saving), best=True)
        died = os.waitstatus_to_exitcode(os.waitpid(child(work), 0)[1]) == 9
        check(10, saving)
        checkpoint.save(folder, 30, state(30))
        check(30, 30)
        assert checkpoint.load(folder, checkpoint.steps(folder)[0])
        hidden = [name for name in os.listdir(folder) if name.startswith(".")]
        assert hidden == ([] if (folder / str(saving)).exists() or (folder / "10").exists() else [".10-old"])
        if not died:
            break
    assert 10 < fatal < 90, fatal
print("fine")
"""


def test_a_process_killed_while_saving_leaves_an_intact_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "checkpoints"), str(random.randrange(1 << 30))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "fine\n", (command[-1], done.stderr)
