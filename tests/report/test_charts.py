"""Charts of many runs: few lines have names of their own, many settings a row each."""

from collections.abc import Callable
from statistics import fmean

from fewshot.report import charts
from fewshot.report.groups import Group, grouped
from fewshot.report.runs import RunRecord
from fewshot.report.settings import labels

Make = Callable[..., RunRecord]


def best_first(groups: list[Group], names: list[str]) -> list[str]:
    mean = {name: fmean(g.accuracy for g, n in zip(groups, names, strict=True) if n == name) for name in names}
    return sorted(mean, key=lambda name: -mean[name])


def test_of_many_settings_the_best_have_names_and_each_a_row(make_run: Make) -> None:
    runs = [make_run(algorithm=f"m{i}" * (i + 1), shots=shots) for i in range(9) for shots in (1, 5)]
    groups = grouped(runs)
    names = labels(groups)
    order = best_first(groups, names)
    panels = charts.draw_curves(groups, names, "val/accuracy", "validation accuracy, %")
    assert [title for title, _ in panels] == [f"5-way {k}-shot, the best 8 of 9 named" for k in (1, 5)]
    for _, figure in panels:
        assert {text.get_text() for text in figure.axes[0].texts} == set(order[:8])
    ((title, figure),) = charts.draw_against(groups, names, "shots")
    assert title == "5-way"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == order
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["shots 1", "shots 5"]
    one_shot = {name: g.accuracy for g, name in zip(groups, names, strict=True) if g.result["shots"] == 1}
    assert list(figure.axes[0].containers[0][0].get_xdata()) == list(one_shot.values())
