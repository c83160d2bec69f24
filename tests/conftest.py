"""What several test files share: a fixed seed, small data sets in memory, and one trained run.

pytest's own process, which hands the tests out, reads this file, too: torch is imported late.
"""

import fcntl
import gc
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fewshot.datasets.base import ImageSet

gc.set_threshold(20_000)  # Python's 700 take a tenth of the time in a process that has imported torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    import torch

    interpreted = os.environ.get("TRITON_INTERPRET") == "1"  # tests/ops/test_fused_norm.py
    if item.get_closest_marker("gpu") and not (torch.cuda.is_available() or interpreted):
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small tensors: a second thread does no work, and where another process holds its core all wait for it."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def usual_hangup() -> None:
    """`nohup` has SIGHUP ignored, and fewshot leaves it so: the tests mean the terminal that closes."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Each test draws the same numbers whatever ran before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """A test that leaves the root logger's level or handlers changed fails: later tests would read what others log."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    yield
    after = root.level, list(root.handlers)
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    assert after == before


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """logged() -> the messages of fewshot's own logger in this test so far; what other packages log is not ours."""
    return lambda: [record.getMessage() for record in caplog.records if record.name == "fewshot"]


@pytest.fixture
def make_images() -> "Callable[..., ImageSet]":
    """A data set whose images tell their row: pixels (row % 256, row // 256, 0, 255) of a 2x2 image."""
    import torch

    from fewshot.datasets.base import ImageSet

    def make(
        sizes: Sequence[int],
        *,
        splits: Mapping[str, Sequence[int]] | None = None,
        groups: Sequence[str] | None = None,
        **options: Any,
    ) -> "ImageSet":
        rows = torch.arange(sum(sizes))
        pixels = torch.stack([rows % 256, rows // 256, 0 * rows, 0 * rows + 255], 1)
        return ImageSet(
            name="tiny",
            images=pixels.to(torch.uint8).view(-1, 1, 2, 2),
            offsets=torch.tensor([0, *sizes]).cumsum(0),
            class_names=[f"class{c}" for c in range(len(sizes))],
            groups=list(groups or ["all"] * len(sizes)),
            splits=splits or {"train": range(len(sizes))},
            **options,
        )

    return make


@pytest.fixture
def make_blobs() -> "Callable[..., ImageSet]":
    from toy_data import blobs

    return blobs


@pytest.fixture(autouse=True, scope="session")
def surroundings(pytestconfig: pytest.Config) -> Iterator[None]:
    """Prepared data is kept between test sessions; no key and no settings of the user's W&B are found, and the key that
    signs runs is the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(pytestconfig.cache.mkdir("state")))  # type: ignore[union-attr]
        if "FEWSHOT_CACHE" not in os.environ:
            patch.setenv("FEWSHOT_CACHE", str(pytestconfig.cache.mkdir("fewshot")))  # type: ignore[union-attr]
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        yield


@pytest.fixture(scope="session")
def cifar100(surroundings: None) -> str:
    """A data_dir with CIFAR-100 in its official binary layout, unpacked once into the cache folder."""
    shared = Path(os.environ.get("FEWSHOT_DATA") or Path(__file__).parents[2] / "shared" / "data") / "cifar100"
    if not (shared / "unpack.py").exists():
        pytest.skip("CIFAR-100 is not in FEWSHOT_DATA, nor in ../shared/data")
    folder = Path(os.environ["FEWSHOT_CACHE"]) / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "cifar-100-binary" / "coarse_label_names.txt").exists():  # what is written last
            subprocess.run([sys.executable, str(shared / "unpack.py"), str(folder)], check=True, capture_output=True)
    return str(folder)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a small MAML run that the console script made, W&B included; not to be written to. The processes
    of a test session share one."""
    from command_line import TINY, only, start

    here = tmp_path_factory.mktemp("trained")
    if worker_id != "master":
        here = tmp_path_factory.getbasetemp().parent / "trained"
        here.mkdir(exist_ok=True)
    with (here / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (here / "stdout").exists():
            done = start("train", *TINY, cwd=here)
            assert done.code == 0, done.err
            (here / "stderr").write_text(done.err)
            (here / "stdout").write_text(done.out)  # last: the run is whole
    return only(here / "outputs" / "train")
