"""What a few steps cost, on record whatever the length of the run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fewshot.engine.profiler import LARGEST, StepProfiler


@pytest.mark.parametrize(("planned", "done"), [(1, 1), (3, 3), (20, 20), (20, 7)])
def test_costs_are_per_step(tmp_path: Path, planned: int, done: int) -> None:
    a = torch.ones(50, 50)
    profiler = StepProfiler(tmp_path / "profile", planned)
    for _ in range(done):
        a @ a
        a @ a
        profiler.step()
    profiler.close()
    costs = json.loads((tmp_path / "profile" / "costs.json").read_text())
    assert {cost["operation"]: cost["calls"] for cost in costs}["aten::mm"] == 2
    assert len(costs) <= LARGEST
    assert [cost["ms"] for cost in costs] == sorted((cost["ms"] for cost in costs), reverse=True)
    assert sum(cost["percent"] for cost in costs) <= 100 + 1e-6
    assert json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]


def test_a_run_that_stops_before_has_nothing_to_show(tmp_path: Path) -> None:
    profiler = StepProfiler(tmp_path / "profile", 20)
    profiler.step()
    profiler.close()
    assert not (tmp_path / "profile").exists()


@pytest.mark.slow
def test_the_profiler_says_nothing(tmp_path: Path) -> None:
    """Its library writes on stderr unless it is told not to, before it starts."""
    script = """
import torch
from pathlib import Path
from fewshot.engine.profiler import StepProfiler
p = StepProfiler(Path("profile"), 1)
p.step()
"""
    environment = {key: value for key, value in os.environ.items() if key != "KINETO_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "profile" / "trace.json").exists()
