"""What groups of runs are called, and which keys can be an axis."""

from collections.abc import Callable

from fewshot.report import settings
from fewshot.report.groups import grouped
from fewshot.report.runs import RunRecord

Make = Callable[..., RunRecord]


def test_labels_say_what_tells_runs_of_one_task_apart(make_run: Make) -> None:
    runs = [make_run(keys={"inner_lr": lr, "head": "x"}, seed=s) for lr in (0.1, 0.4) for s in (0, 1)]
    found = grouped([*runs, make_run(algorithm="protonet")])
    assert sorted(settings.labels(found)) == ["maml, inner_lr=0.1", "maml, inner_lr=0.4", "protonet"]


def test_labels_name_parts_of_another_class_and_nothing_that_the_data_set_brings(make_run: Make) -> None:
    """A network by its YAML file; what another class is given tells nothing more."""
    optimizers = ({"_target_": "torch.optim.SGD", "momentum": 0.9}, {"_target_": "torch.optim.Adam", "eps": 1e-8})
    runs = [make_run(keys={"optimizer": one}, where=f"outputs/{i}") for i, one in enumerate(optimizers)]
    networks = [{"name": name, "parameters": 9, "image_size": [1, 8, 8]} for name in ("conv4", "conv4_32")]
    runs += [make_run(algorithm="protonet", filters=i, backbone=one) for i, one in enumerate(networks, start=1)]
    assert sorted(settings.labels(grouped(runs))) == [
        "maml, optimizer=Adam", "maml, optimizer=SGD", "protonet, backbone=conv4", "protonet, backbone=conv4_32",
    ]  # fmt: skip


def test_a_label_names_what_tells_most_and_not_what_an_older_version_lacked(make_run: Make) -> None:
    networks = [{"name": name, "parameters": 9, "image_size": [1, 8, 8]} for name in ("conv4", "conv4_32")]
    new = {"a": 1, "b": 2, "c": 3, "d": True}
    runs = [make_run(keys=new, filters=1, backbone=networks[0]),
            make_run(keys={"a": 2, "b": 3, "c": 4}, filters=2, backbone=networks[1])]  # fmt: skip
    assert sorted(settings.labels(grouped(runs))) == [
        "maml, backbone=conv4, a=1, 2 more", "maml, backbone=conv4_32, a=2, 2 more",
    ]  # fmt: skip
    assert sorted(settings.labels(grouped([make_run(), make_run(keys={"d": True})]))) == ["maml", "maml, d=True"]


def test_a_key_that_was_swept_over_numbers_is_an_axis(make_run: Make) -> None:
    """What follows another key is no axis of its own; nor is a key with texts, or one that changes with another."""
    runs = [make_run(keys={"inner_lr": lr, "copy_of_lr": lr, "head": head}) for lr in (0.1, 0.4) for head in "ab"]
    runs += [make_run(algorithm="protonet", shots=shots, keys={"a": shots, "b": -shots}) for shots in (1, 5)]
    found = grouped(runs)
    axes = settings.axes(found)
    assert axes == {"shots": ("shots",), "algorithm.inner_lr": ("algorithm.inner_lr", "algorithm.copy_of_lr")}
    able, names = settings.on_axis(found, "algorithm.inner_lr", axes["algorithm.inner_lr"])
    assert sorted(zip(names, (settings.value_of(g, "algorithm.inner_lr") for g in able), strict=True)) == [
        ("maml, head=a", 0.1), ("maml, head=a", 0.4), ("maml, head=b", 0.1), ("maml, head=b", 0.4),
    ]  # fmt: skip
    able, names = settings.on_axis(found, "shots", axes["shots"])
    assert names == ["protonet", "protonet"]
