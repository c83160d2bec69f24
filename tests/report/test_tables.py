"""The tables of a report: the accuracy comes second, what is the same in all rows is said once, networks are named."""

from collections.abc import Callable

from fewshot.report import findings, tables
from fewshot.report.comparison import Comparison
from fewshot.report.groups import grouped
from fewshot.report.runs import RunRecord
from fewshot.report.settings import labels
from fewshot.report.table import Table, condensed

Make = Callable[..., RunRecord]


def results(*runs: RunRecord) -> Table:
    groups = grouped(runs)
    return tables.results(groups, labels(groups), findings.marks(groups, Comparison(groups)))


def test_what_is_the_same_in_all_rows_is_said_once(make_run: Make) -> None:
    table = results(*[make_run(shots=shots) for shots in (1, 5)])
    assert table.columns == ["algorithm", "accuracy %", "shots"]
    assert table.shared == {
        "ways": "5", "data": "toys test", "network": "net 28x28", "seeds": "0", "raw pixels": "31.25",
        "untrained": "22.75", "steps": "20",
    }  # fmt: skip
    assert table.caption.startswith("In all rows: ways 5, data toys test, network net 28x28, ")
    assert table.words == [True, False, False]


def test_the_best_of_each_task_comes_first(make_run: Make) -> None:
    table = results(*[make_run(algorithm=name, shots=k, lift=x) for name, x in (("a", 0), ("b", 9)) for k in (1, 5)])
    assert [(row[0], row[2]) for row in table.rows] == [("b", "1"), ("a", "1"), ("b", "5"), ("a", "5")]


def test_columns_without_a_value_are_left_out() -> None:
    table = condensed({"run": ["a", "b"], "x": ["–", "–"], "y": ["1", "–"]}, always=("run", "x"))
    assert table == Table(["run", "y"], [("a", "1"), ("b", "–")])


def test_rows_whose_networks_differ_are_marked(make_run: Make) -> None:
    wide = {"name": "conv4", "parameters": 111936, "image_size": [1, 28, 28]}
    narrow = {"name": "conv4_32", "parameters": 28896, "image_size": [1, 28, 28]}
    runs = [make_run(filters=32, backbone=narrow, lift=20), make_run(algorithm="feat", filters=64, backbone=wide)]
    table = results(*runs)
    column = table.columns.index("network")
    assert [row[column] for row in table.rows] == ["conv4_32 29k 28x28", "conv4 112k 28x28*"]
    assert "* Another network than in the first row" in table.caption


def test_a_folder_of_version_0_1_has_its_network_from_config_yaml(make_run: Make) -> None:
    run = make_run(filters=64)
    assert run.network == ("net-64", None, "28x28")
    stated = {"name": "mine", "parameters": 11_200_000, "image_size": [3, 84, 84]}
    other = make_run(algorithm="protonet", filters=64, backbone=stated)
    assert other.network.text == "mine 11.2M 84x84"
    assert not run.same_network(other)
    assert run.same_network(make_run(algorithm="protonet", filters=64))


def test_every_table_names_the_networks(make_run: Make) -> None:
    paper = {"accuracy": 40.0, "source": "x", "tolerance": 0.3, "verdict": "above"}
    runs = [make_run(filters=32, paper=paper), make_run(algorithm="protonet", filters=64, paper=paper)]
    groups = grouped(runs)
    for table in (tables.papers(groups, labels(groups)), tables.cost(groups, labels(groups)), tables.each_run(runs)):
        assert "network" in table.columns
        assert "network" not in table.shared


def test_an_accuracy_on_classes_with_another_use_is_marked(make_run: Make) -> None:
    overlap = "3 of the 3 classes tested on (evaluation.test_split=all) were trained on (train_split=all)"
    table = results(make_run(lift=20), make_run(algorithm="feat", protocol={"overlap": overlap}))
    assert [row[1].endswith(" †") for row in table.rows] == [False, True]
    assert f"† {overlap}." in table.caption
