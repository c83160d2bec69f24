"""The closing table of a run, and a report's table in a narrow terminal."""

import json
from pathlib import Path
from typing import Any

import pytest

from fewshot.cli.report import columns_that_fit
from fewshot.cli.show import result_table, unusual_protocol
from fewshot.report.table import Table

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def stored(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_the_accuracy_stands_last_and_the_network_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    network = {"name": "conv4_[32]", "parameters": 28896, "image_size": [1, 28, 28]}
    result_table(stored("maml_omniglot_5w1s_fast") | {"backbone": network}, Path("outputs/x"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["folder", "outputs/x"]
    assert "network        conv4_[32], 28,896 weights, images of 1x28x28" in lines
    assert lines[-2].startswith("task           5-way 1-shot on omniglot test, ")
    assert lines[-1] == "test accuracy  99.03 ± 0.39 %: reproduced"


def test_inner_steps_stand_before_the_accuracy(capsys: pytest.CaptureFixture[str], trained: Path) -> None:
    """Of the run that all tests share: after 0 to 3 steps, the last of which is the accuracy."""
    found = json.loads((trained / "result.json").read_text())
    result_table(found, trained)
    *_, inner, _task, last = capsys.readouterr().out.splitlines()
    label, said = inner.split("  ", 1)
    values = said.split(" %")[0].split(", ")
    assert (label, len(values)) == ("inner steps", 4)
    assert float(values[-1]) == pytest.approx(found["test"]["accuracy"], abs=0.05)
    assert last.startswith("test accuracy")


def test_of_the_protocol_only_what_is_not_as_usual() -> None:
    assert unusual_protocol(stored("glyphs_maml_5w1s")["protocol"]) == {"transductive": True}
    assert unusual_protocol(stored("glyphs_protonet_5w1s")["protocol"]) == {}
    assert unusual_protocol(stored("protocol_trained_support")["protocol"]) == {
        "norm_statistics": "support", "queries_per_class": 1, "rotations": "task", "checkpoint_rule": "last",
        "inner_steps_eval": 10, "split": "random", "loss_reduction": "sum_over_shot",
    }  # fmt: skip


@pytest.mark.parametrize(("width", "count"), [(200, 4), (52, 4), (51, 3), (41, 3), (40, 2), (10, 2)])
def test_columns_that_have_room(width: int, count: int) -> None:
    """The first column may wrap after 24 letters, the others may not."""
    rows = [["an algorithm whose name is long", "98.61 ± 0.21", "x", "seeds 012"]]
    assert columns_that_fit(Table(["algorithm", "accuracy %", "k", "z"], rows), width) == count
