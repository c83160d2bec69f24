"""Run folders of version 0.1, made by that version: evaluated to the same number in every episode, and reported."""

import os
from pathlib import Path

import numpy as np
import pytest
from command_line import only, result, succeed

HERE = Path(__file__).parent
DATA = Path(os.environ.get("FEWSHOT_DATA") or HERE.parents[1] / "shared" / "data")
RUNS = sorted((HERE / "version_0_1").iterdir())


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_evaluated_to_the_same_numbers(tmp_path: Path, run: Path) -> None:
    if "omniglot" in run.name and not (DATA / "omniglot-py").exists():
        pytest.skip("Omniglot is not in FEWSHOT_DATA, nor in ../shared/data")
    succeed("evaluate", f"run={run}", "threads=1", f"data_dir={DATA}", cwd=tmp_path)
    again = only(tmp_path / "outputs" / "evaluate")
    with np.load(run / "episodes" / "test.npz") as theirs, np.load(again / "episodes" / "test.npz") as ours:
        assert set(ours) == set(theirs)
        for name in theirs:
            assert np.array_equal(ours[name], theirs[name]), name
    before, after = result(run), result(again)
    for key in ("name", "algorithm", "dataset", "split", "ways", "shots", "queries", "seed"):
        assert after[key] == before[key], key
    assert {key: after["test"][key] for key in before["test"]} == pytest.approx(before["test"], rel=1e-6)
    assert after["protocol"].items() >= before["protocol"].items()
    assert after["backbone"]["name"] == {"maml": "conv4", "protonet": "mlp"}[before["algorithm"]]


def test_evaluated_under_a_protocol_that_it_did_not_have(tmp_path: Path) -> None:
    (run,) = [run for run in RUNS if "glyphs" in run.name]
    words = ("evaluation.query_balance=dirichlet", "queries=1", "evaluation.episodes=4", "threads=1")
    succeed("evaluate", f"run={run}", *words, cwd=tmp_path)
    again = result(only(tmp_path / "outputs" / "evaluate"))
    assert (again["protocol"]["query_balance"], again["test"]["episodes"]) == ("dirichlet(2), 5 in all", 4)


def test_reported(tmp_path: Path) -> None:
    out = succeed("report", str(HERE / "version_0_1"), cwd=tmp_path).out
    for run in RUNS:
        test = result(run)["test"]
        assert f"{test['accuracy']:.2f} ± {test['accuracy_ci95']:.2f}" in out
