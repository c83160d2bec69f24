"""Seeds and episodes are two sources of chance, and a report keeps them apart."""

import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fewshot.report import groups
from fewshot.report.charts import draw_curves
from fewshot.report.runs import RunRecord
from fewshot.report.settings import axes, labels, on_axis, value_of
from fewshot.report.tables import by_cell

Make = Callable[..., RunRecord]


def test_runs_that_differ_only_in_seed_are_one_group(make_run: Make) -> None:
    runs = [make_run(algorithm=a, shots=k, seed=s) for a in ("maml", "protonet") for k in (1, 5) for s in (1, 0)]
    found = groups.grouped([*runs, make_run(seed=5, finished=False)])
    assert [(g.result["algorithm"], g.result["shots"], g.seeds) for g in found] == [
        ("maml", 1, [0, 1]), ("maml", 5, [0, 1]), ("protonet", 1, [0, 1]), ("protonet", 5, [0, 1]),
    ]  # fmt: skip
    assert labels(found) == ["maml", "maml", "protonet", "protonet"]


def test_spread_over_seeds_and_interval_over_episodes(make_run: Make) -> None:
    runs = [make_run(seed=s) for s in range(3)]
    (group,) = groups.grouped(runs)
    means = [run.result["test"]["accuracy"] for run in runs]
    assert group.accuracy == pytest.approx(sum(means) / 3)
    assert group.spread == pytest.approx(statistics.stdev(means))
    each = np.mean([np.load(run.path / "episodes" / "test.npz")["accuracy"] for run in runs], 0)
    assert group.ci95 == pytest.approx(1.959963984540054 * each.std(ddof=1) / math.sqrt(len(each)))


def test_one_seed_has_its_runs_interval_and_no_spread(make_run: Make) -> None:
    run = make_run()
    (group,) = groups.grouped([run])
    assert (group.ci95, group.spread) == (run.result["test"]["accuracy_ci95"], None)


def test_seeds_tested_on_other_episodes_have_no_common_interval(make_run: Make) -> None:
    (group,) = groups.grouped([make_run(seed=0), make_run(seed=1, episodes_from=9)])
    assert group.ci95 is None
    assert group.spread is not None


def test_seeds_with_other_inner_steps_share_their_last(make_run: Make) -> None:
    runs = [make_run(seed=seed) for seed in range(2)]
    file = runs[1].path / "episodes" / "test.npz"
    with np.load(file) as arrays:
        np.savez(file, **{**arrays, "step_accuracy": arrays["accuracy"][:, None].repeat(7, 1)})
    (group,) = groups.grouped([RunRecord(run.path) for run in runs])
    assert group.step_accuracy is None
    assert group.ci95 is not None


def test_of_equal_runs_the_newest_counts(make_run: Make) -> None:
    old, new = make_run(), make_run()
    (group,) = groups.grouped([old, new])
    assert [run.path for run in group.runs] == [new.path]


def test_a_copied_folder_says_the_same(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    copy = tmp_path / "else where" / "Läufe" / run.path.name
    shutil.copytree(run.path, copy)
    assert groups.grouped([RunRecord(copy)])[0].accuracy == groups.grouped([run])[0].accuracy


def test_drawn_shots_stand_between_numbers_and_on_no_axis(make_run: Make) -> None:
    runs = [make_run(shots=shots) for shots in (5, 3, 10, 1)]
    vars(runs[1])["result"] = {**runs[1].result, "shots": "1 to 9"}
    found = groups.grouped(runs)
    assert [group.result["shots"] for group in found] == [1, "1 to 9", 5, 10]
    assert list(by_cell(found).values()) == [[0], [1], [2], [3]]
    kept, _ = on_axis(found, "shots", axes(found)["shots"])
    assert [value_of(group, "shots") for group in kept] == [1, 5, 10]
    titles = [title for title, _ in draw_curves(found, labels(found), "train/loss", "loss")]
    assert titles == ["5-way 1-shot", "5-way 1 to 9-shot", "5-way 5-shot", "5-way 10-shot"]
