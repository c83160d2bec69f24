"""Seeds and episodes are two sources of chance, and a report keeps them apart."""

import math
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fewshot.errors import InputError
from fewshot.report import groups
from fewshot.report.runs import RunRecord

Make = Callable[..., RunRecord]


def test_runs_that_differ_only_in_seed_are_one_group(make_run: Make) -> None:
    runs = [make_run(algorithm=a, shots=k, seed=s) for a in ("maml", "protonet") for k in (1, 5) for s in (1, 0)]
    found = groups.grouped([*runs, make_run(seed=5, finished=False)])
    assert [(g.result["algorithm"], g.result["shots"], g.seeds) for g in found] == [
        ("maml", 1, [0, 1]), ("maml", 5, [0, 1]), ("protonet", 1, [0, 1]), ("protonet", 5, [0, 1]),
    ]  # fmt: skip
    assert groups.labels(found) == ["maml", "maml", "protonet", "protonet"]


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


def test_of_equal_runs_the_newest_counts(make_run: Make) -> None:
    old, new = make_run(), make_run()
    (group,) = groups.grouped([old, new])
    assert [run.path for run in group.runs] == [new.path]


def test_labels_say_what_tells_runs_of_one_task_apart(make_run: Make) -> None:
    runs = [make_run(keys={"inner_lr": lr, "head": "x"}, seed=s) for lr in (0.1, 0.4) for s in (0, 1)]
    found = groups.grouped([*runs, make_run(algorithm="protonet")])
    assert sorted(groups.labels(found)) == ["maml, inner_lr=0.1", "maml, inner_lr=0.4", "protonet"]


def test_paired_difference_by_hand(make_run: Make) -> None:
    a, b = make_run(), make_run(algorithm="protonet")
    differences = a.episodes["accuracy"] - b.episodes["accuracy"]
    found = groups.paired(a, b)
    assert found.value == pytest.approx(differences.mean())
    assert found.ci95 == pytest.approx(1.959963984540054 * differences.std(ddof=1) / math.sqrt(len(differences)))
    assert groups.paired(a, a) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"ways": 7}, r"\(ways 5 and 7\)"),
        ({"shots": 2}, r"\(shots 1 and 2\)"),
        ({"protocol": {"eval_seed": 3}}, r"\(eval_seed 0 and 3\)"),
        ({"protocol": {"split_hash": "xyz", "eval_seed": 1}}, r"\(split_hash abc and xyz; eval_seed 0 and 1\)"),
        ({"episodes_from": 4}, r"the classes of 40 of 40 differ"),
    ],
)
def test_runs_on_other_episodes_are_not_paired(make_run: Make, other: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        groups.paired(make_run(), make_run(algorithm="protonet", **other))


def test_pairs_need_the_episodes(make_run: Make) -> None:
    a, b = make_run(), make_run(algorithm="protonet")
    (b.path / "episodes" / "test.npz").unlink()
    with pytest.raises(InputError, match=r"has no episodes/test\.npz"):
        groups.paired(a, b)


def test_a_copied_folder_says_the_same(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    copy = tmp_path / "else where" / "Läufe" / run.path.name
    shutil.copytree(run.path, copy)
    assert groups.grouped([RunRecord(copy)])[0].accuracy == groups.grouped([run])[0].accuracy
