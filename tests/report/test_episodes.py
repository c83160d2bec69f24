"""Pictures of the episodes that a run keeps."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from fewshot.report import style
from fewshot.report.embedding import draw_embedding, maps, principal
from fewshot.report.episodes import draw_shown
from fewshot.shown import ShownEpisode

Make = Callable[..., ShownEpisode]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_wrong_query_is_marked_with_the_class_it_was_taken_for(hand_made: Make, channels: int) -> None:
    figure = draw_shown(hand_made(channels=channels), "an episode")
    (axes,) = figure.axes
    frames = [(p.get_x(), p.get_y(), p.get_linewidth()) for p in axes.patches]
    assert len(frames) == 6
    thick = [(x, y) for x, y, width in frames if width > 1]
    assert thick == [(min(x for x, _, _ in frames), 0)]  # the first query of the first class
    assert [t.get_text() for t in axes.texts if t.get_weight() == "bold"] == ["2"]
    picture = Image.open(io.BytesIO(style.png(figure)))
    assert min(picture.size) > 150


def test_principal_directions_keep_what_lies_in_two(hand_made: Make) -> None:
    """Embeddings in a plane keep all their distances, and the plane holds all the variance."""
    draw = np.random.default_rng(1)
    plane = np.linalg.qr(draw.normal(size=(6, 2)))[0].T
    support, query, means = (draw.normal(size=(n, 2)) @ plane for n in (3, 6, 3))
    flat = ShownEpisode(**vars(hand_made()) | {"support_z": support, "query_z": query, "means": means})
    found_means, found_support, found_query, share = principal(flat)
    assert share.sum() == pytest.approx(100)
    assert share[0] >= share[1]
    ours, theirs = (np.concatenate(z) for z in ((found_means, found_support, found_query), (means, support, query)))
    for a, b in ((0, 5), (2, 9), (4, 11)):
        assert np.linalg.norm(ours[a] - ours[b]) == pytest.approx(np.linalg.norm(theirs[a] - theirs[b]))


@pytest.mark.parametrize("width", [1, 2, 6])
def test_any_width_can_be_mapped(hand_made: Make, width: int) -> None:
    assert style.svg(draw_embedding(maps(hand_made(width=width)), ""), "map").startswith("<svg")


def test_equal_embeddings_are_one_point(hand_made: Make) -> None:
    ones = {name: np.ones((n, 6)) for name, n in (("support_z", 3), ("query_z", 6), ("means", 3))}
    same = ShownEpisode(**vars(hand_made()) | ones)
    *points, share = principal(same)
    assert all(np.abs(p).max() < 1e-9 for p in points)
    assert share.tolist() == [0, 0]
    style.png(draw_embedding(maps(same), ""))


def test_words_beside_lines_do_not_overlap() -> None:
    assert style.apart([1.0, 5.0], 2.0) == [1.0, 5.0]
    placed = style.apart([3.0, 3.0, 3.1, 9.0], 1.0)
    assert placed[3] == 9.0
    assert sorted(placed[:3]) == pytest.approx([9.1 / 3 - 1, 9.1 / 3, 9.1 / 3 + 1])
    assert placed[2] == max(placed[:3])
