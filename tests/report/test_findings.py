"""The sentences that a report begins with."""

from collections.abc import Callable

from fewshot.report import findings
from fewshot.report.comparison import Comparison
from fewshot.report.groups import grouped
from fewshot.report.runs import RunRecord
from fewshot.report.settings import labels
from fewshot.report.tables import BEST, TIED

Make = Callable[..., RunRecord]


def found(*runs: RunRecord) -> tuple[str, list[str], list[str]]:
    groups = grouped(runs)
    names, comparison = labels(groups), Comparison(groups)
    return (findings.headline(groups, names, comparison), findings.details(groups, names, comparison),
            findings.marks(groups, comparison))  # fmt: skip


def test_one_setting_stands_against_the_pixels(make_run: Make) -> None:
    run = make_run(lift=10)
    said, details, _ = found(run)
    accuracy, interval = run.result["test"]["accuracy"], run.result["test"]["accuracy_ci95"]
    reached = f"maml reaches {accuracy:.1f} ± {interval:.1f} % at 5-way 1-shot on toys test"
    assert [said] == details == [f"{reached}; the nearest class mean of raw pixels 31.2 %"]


def test_the_leader_of_two_and_of_three(make_run: Make) -> None:
    runs = [make_run(seed=seed) for seed in (0, 1)] + [make_run(algorithm="protonet", seed=0, lift=20)]
    said, details, marks = found(*runs)
    assert [said] == details
    assert said.startswith("protonet leads maml by ")
    assert said.endswith(" points at 5-way 1-shot")
    assert marks == ["", BEST]
    assert ", the next of 3, by " in found(*runs, make_run(algorithm="r2d2", lift=-20))[0]


def test_ties_are_named(make_run: Make) -> None:
    runs = [make_run(), make_run(algorithm="feat"), make_run(algorithm="r2d2", lift=-30)]
    said, _, marks = found(*runs)
    assert " cannot be told apart (" in said
    assert ", r2d2 is " in said
    assert sorted(marks) == sorted(["", BEST, TIED])


def test_several_tasks_in_one_sentence(make_run: Make) -> None:
    both = [make_run(shots=k) for k in (1, 5)] + [make_run(algorithm="protonet", shots=k, lift=20) for k in (1, 5)]
    said, details, _ = found(*both)
    assert said.startswith("protonet leads maml in both tasks, by ")
    assert len(details) == 2
    split = [make_run(shots=2, lift=20), make_run(algorithm="protonet", shots=2, lift=-10)]
    assert found(*both, *split)[0] == "protonet leads at 5-way 1-shot and 5-way 5-shot; maml leads at 5-way 2-shot"
    alike = [make_run(shots=3), make_run(algorithm="feat", shots=3)]
    said = found(*both, *alike)[0]
    assert said == "protonet leads at 5-way 1-shot and 5-way 5-shot; at 5-way 3-shot no leader can be told"


def test_other_test_episodes_are_said_and_no_tie(make_run: Make) -> None:
    """Neither in the only task nor beside another task; the runs that can be compared are."""
    runs = [make_run(lift=20), make_run(algorithm="feat", episodes_from=1)]
    said, details, marks = found(*runs)
    assert [said] == details
    assert said.startswith("maml reaches ")
    assert said.endswith("; feat had other test episodes and cannot be compared with it")
    assert marks == ["", BEST]
    said, _, _ = found(*runs, make_run(algorithm="r2d2"), make_run(shots=5))
    assert said.startswith("maml leads r2d2 by ")
    assert said.endswith(" at 5-way 1-shot; feat had other test episodes and cannot be compared with it")


def test_what_is_worse_than_the_pixels_is_said(make_run: Make) -> None:
    groups = grouped([make_run(lift=-28), make_run(algorithm="protonet", lift=30)])
    assert findings.below_pixels(groups, labels(groups)) == (
        "Below the nearest class mean of raw pixels: maml at 5-way 1-shot"
    )
