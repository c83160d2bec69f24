"""Settings in pairs over the same episodes, and Holm's correction."""

import math
from collections.abc import Callable

import pytest

from fewshot.errors import InputError
from fewshot.metrics import Mean
from fewshot.report import comparison
from fewshot.report.groups import Group, grouped
from fewshot.report.runs import RunRecord

Make = Callable[..., RunRecord]


def test_paired_difference_by_hand(make_run: Make) -> None:
    a, b = make_run(), make_run(algorithm="protonet")
    differences = a.episodes["accuracy"] - b.episodes["accuracy"]
    found = comparison.paired(Group([a]), Group([b]))
    assert found.value == pytest.approx(differences.mean())
    assert found.ci95 == pytest.approx(1.959963984540054 * differences.std(ddof=1) / math.sqrt(len(differences)))
    assert comparison.paired(Group([a]), Group([a])) == (0.0, 0.0)


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
        comparison.paired(Group([make_run()]), Group([make_run(algorithm="protonet", **other)]))


def test_pairs_need_the_episodes(make_run: Make) -> None:
    a, b = make_run(), make_run(algorithm="protonet")
    (b.path / "episodes" / "test.npz").unlink()
    with pytest.raises(InputError, match=r"has no episodes/test\.npz"):
        comparison.paired(Group([a]), Group([b]))


def test_seeds_are_averaged_before_episodes_are_compared(make_run: Make) -> None:
    runs = {a: [make_run(algorithm=a, seed=seed) for seed in (0, 1)] for a in ("maml", "protonet")}
    means = {a: sum(run.episodes["accuracy"] for run in both) / 2 for a, both in runs.items()}
    difference = means["maml"] - means["protonet"]
    (pair,) = comparison.Comparison(grouped([*runs["maml"], *runs["protonet"]])).pairs
    assert pair.difference.value == pytest.approx(difference.mean())
    assert pair.difference.ci95 == pytest.approx(1.959963984540054 * difference.std(ddof=1) / math.sqrt(40))


def test_holm_by_hand() -> None:
    """Four of Holm's steps: 0.01 * 4, 0.02 * 3, then 0.03 * 2 = 0.04 * 1.5, and the last no lower than it."""
    assert comparison.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert comparison.holm([0.5, 0.9]) == [1.0, 1.0]
    assert comparison.holm([]) == []


def test_p_is_five_percent_where_the_interval_touches_zero() -> None:
    assert comparison.p_value(Mean(2.0, 2.0)) == pytest.approx(0.05)
    assert comparison.p_value(Mean(-3.0, 1.0)) == pytest.approx(4.1e-9, rel=0.01)
    assert [comparison.p_value(Mean(*x)) for x in ((0.0, 0.0), (1.0, 0.0), (1.0, math.nan))] == [1.0, 0.0, 1.0]


def test_only_settings_of_one_task_are_compared(make_run: Make) -> None:
    runs = [make_run(algorithm=a, shots=k) for a in ("maml", "protonet", "r2d2") for k in (1, 5)]
    other = make_run(algorithm="feat", protocol={"eval_seed": 3})
    found = grouped([*runs, other])
    compared = comparison.Comparison(found)
    assert len(compared.pairs) == 2 * 3
    assert all(found[pair.a].task == found[pair.b].task for pair in compared.pairs)
    assert len(compared.unlike) == 3
    assert "eval_seed" in compared.unlike[0]
    one = compared.pairs[0]
    turned = compared.between(one.b, one.a)
    assert turned is not None
    assert (turned.difference.value, turned.p) == (-one.difference.value, one.p)
