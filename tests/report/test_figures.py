"""The pictures in a run's folder."""

from collections.abc import Callable

import numpy as np
import pytest

from fewshot.report import figures, style
from fewshot.report.embedding import draw_embedding, maps
from fewshot.report.runs import RunRecord
from fewshot.run_folder import RunFolder
from fewshot.shown import ShownEpisode

Make = Callable[..., RunRecord]


def words(axes: object) -> list[str]:
    return [text.get_text() for text in axes.texts]  # type: ignore[attr-defined]


def test_a_finished_run_has_all_of_them(make_run: Make) -> None:
    run = make_run()
    figures.draw_run(RunFolder(run.path))
    names = {file.name for file in (run.path / "figures").iterdir()}
    assert names == {"curves.png", "inner_steps.png", "episode.png", "embedding.png"}


def test_curves_name_the_run_and_what_its_accuracy_compares_to(make_run: Make) -> None:
    run = make_run()
    figure = figures.draw_training(run)
    loss, accuracy = figure.axes
    test = run.result["test"]
    assert figure.get_suptitle() == "maml on toys, 5-way 1-shot, seed 0"
    assert words(accuracy) == [
        "chance 20.0", "untrained 22.8", "raw pixels 31.2", "training", "validation",
        f"test {test['accuracy']:.1f} ± {test['accuracy_ci95']:.1f}",
    ]  # fmt: skip
    for axes in (loss, accuracy):
        assert all(tick == int(tick) for tick in axes.get_xticks())


def test_a_curve_of_one_step_is_a_point_with_its_interval(make_run: Make) -> None:
    run = make_run()
    run.metrics[:] = run.metrics[:1]
    loss, accuracy = figures.draw_training(run).axes
    assert loss.lines[0].get_marker() == "o"
    (validation, _test) = accuracy.containers
    assert validation.has_yerr


def test_a_start_far_above_the_rest_does_not_flatten_the_curve(make_run: Make) -> None:
    run = make_run()
    run.metrics[:] = [{"step": step, "train/loss": 90.0 if step == 1 else 2.0 - step / 50} for step in range(1, 41)]
    loss, _ = figures.draw_training(run).axes
    assert loss.get_ylim() == pytest.approx((0, 1.1 * 1.94))
    assert words(loss) == ["starts at 90"]


def test_the_test_stands_at_the_checkpoint_that_was_tested(make_run: Make) -> None:
    for rule, step in (("best", 10), ("last", 20)):
        run = make_run(protocol={"checkpoint_rule": rule})
        run.result["val"] = {"best_step": 10}  # type: ignore[index]
        _, accuracy = figures.draw_training(run).axes
        assert accuracy.containers[-1].lines[0].get_xdata().tolist() == [step]


def test_inner_steps_stand_beside_chance_and_pixels(make_run: Make) -> None:
    run = make_run()
    (axes,) = figures.draw_inner_steps(run).axes
    numbers = [f"{value:.1f}" for value in run.episodes["step_accuracy"].mean(0)]
    assert words(axes) == [*numbers, "chance 20.0", "raw pixels 31.2", f"test {run.result['test']['accuracy']:.1f}"]
    assert axes.lines[0].get_ydata() == pytest.approx(run.episodes["step_accuracy"].mean(0))


def test_embeddings_that_adapt_are_mapped_before_and_after(hand_made: Callable[..., ShownEpisode]) -> None:
    shown = hand_made()
    assert [heading for heading, _ in maps(shown)] == [""]
    before = {"support_z0": shown.support_z + 1, "query_z0": shown.query_z * 2, "means0": shown.means}
    adapted = ShownEpisode(**vars(shown) | before)
    ((first, earlier), (second, later)) = maps(adapted)
    assert (first, second) == ("before adaptation", "after adaptation")
    assert np.array_equal(earlier.query_z, 2 * shown.query_z)
    assert later is adapted
    figure = draw_embedding(maps(adapted))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "class mean", "support", "query", "wrong query", "1 script/0", "2 script/1", "3 script/2",
    ]  # fmt: skip
    assert not draw_embedding(maps(adapted), legend=False).legends


def test_embeddings_that_are_not_finite_are_refused(hand_made: Callable[..., ShownEpisode]) -> None:
    shown = hand_made()
    shown.query_z[0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        draw_embedding(maps(shown))


def test_numbers_of_a_page_are_short() -> None:
    from matplotlib.figure import Figure

    with style.styled():
        figure = Figure(figsize=(2, 2))
        figure.subplots().plot([0, 1 / 3, 1], [0, 1 / 7, 1])
    assert ".123456" not in (text := style.svg(figure, ""))
    assert "M " in text
