"""A sweep on a Ray that is started for it: four jobs, one fails, the same command runs that one alone."""

import importlib.util
import json
from pathlib import Path

import pytest
from command_line import QUIET, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`"),
]
PACE = {"RAY_worker_niceness": "0"}  # Ray's own 15 starves its workers beside whatever else the machine does
FAILS = """
import os
from fewshot.algorithms.protonet import ProtoNet

class Fails(ProtoNet):
    def forward(self, batch):
        if os.path.exists("broken"):
            raise RuntimeError("broken on purpose")
        return super().forward(batch)
"""


def test_a_sweep_of_four_of_which_one_fails(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FAILS)
    (tmp_path / "broken").touch()
    words = ["train", "-m", *QUIET, "hydra/launcher=ray", "hydra.launcher.init.num_cpus=2",
             "hydra.launcher.max_retries=0",
             "algorithm=protonet", "algorithm._target_=fewshot.algorithms.protonet.ProtoNet,mine.Fails", "seed=0,1",
             "name=four"]  # fmt: skip
    done = start(*words, cwd=tmp_path, **PACE)
    folder = tmp_path / "outputs" / "sweeps" / "four"
    assert done.code == 1, done.out + done.err
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["done", "done", "failed", "failed"]
    assert all("broken on purpose" in job["reason"] for job in jobs[2:])
    first = {path: path.read_bytes() for path in folder.glob("*/result.json")}
    assert len(first) == 2

    (tmp_path / "broken").unlink()
    done = start(*words, cwd=tmp_path, **PACE)
    assert done.code == 0, done.out + done.err
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["done"] * 4
    assert len(list(folder.glob("*/result.json"))) == 4
    assert all(path.read_bytes() == before for path, before in first.items()), "a finished job ran again"
