"""Class names of any script, and what looks like mathematics, are drawn without a warning."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from fewshot.report import fonts
from fewshot.report.episodes import draw_shown
from fewshot.report.style import png, svg
from fewshot.shown import ShownEpisode

NAMES = ["$\\frac{1$", "漢字" * 30, "الف\n<b>"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two typefaces: one has a Chinese letter, the other an Arabic one as well."""
    have = {"one": frozenset("漢"), "two": frozenset("漢ا")}
    real = fonts._letters
    monkeypatch.setattr(fonts, "_installed", lambda: iter([("One", "one"), ("Two", "two")]))
    monkeypatch.setattr(fonts, "_letters", lambda file: have.get(file) or real(file))
    fonts.typefaces.cache_clear()
    fonts._say.cache_clear()


@pytest.mark.usefixtures("installed")
def test_typefaces_are_those_that_it_takes() -> None:
    assert fonts.typefaces(frozenset("漢")) == (("One",), frozenset())
    assert fonts.typefaces(frozenset("漢ا字")) == (("One", "Two"), frozenset("字"))


def test_any_name_is_drawn(
    hand_made: Callable[..., ShownEpisode], logged: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no typeface has is a box, said in one line; in a page it stays what it is."""
    monkeypatch.setattr(fonts, "_installed", lambda: iter(()))
    fonts.typefaces.cache_clear()
    fonts._say.cache_clear()
    shown = ShownEpisode(**vars(hand_made()) | {"names": np.array(NAMES)})
    text = svg(draw_shown(shown, "$x"), "$x")
    assert all(word in text for word in ("$\\frac{1$", "漢字漢字", "…", "الف\\n&lt;b&gt;"))
    for _ in range(2):
        figure = draw_shown(shown, "$x")
        Image.open(io.BytesIO(png(figure))).verify()
    assert [t.get_text() for axes in figure.axes for t in axes.texts if fonts.BOX in t.get_text()]
    assert logged() == [
        "figures show □ for 2 letters that no installed typeface has (字 漢); "
        "install one that does, such as Noto Sans"
    ]  # fmt: skip


def test_photos_of_a_page_are_small_and_drawings_exact(hand_made: Callable[..., ShownEpisode]) -> None:
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)).resize((84, 84))
    photo = np.asarray(smooth).transpose(2, 0, 1)[None]
    shown = hand_made(channels=3)
    images = {"support_x": photo.repeat(3, 0), "query_x": photo.repeat(6, 0)}
    assert "data:image/webp" in svg(draw_shown(ShownEpisode(**vars(shown) | images), ""), "")
    assert "data:image/png" in svg(draw_shown(hand_made(), ""), "")
