"""Sizes of episodes: what a configuration may say, and what a result then does."""

import math
from typing import Any

import pytest

from fewshot.errors import InputError
from fewshot.sizes import Size, chance, in_words, largest, numbers, sizes

DRAWN = {"low": 1, "high": 9}


def test_numbers_and_draws() -> None:
    plain = sizes(5, 1, 15)
    assert plain[:3] == (Size(5, 5), Size(1, 1), Size(15, 15)) and not plain.drawn
    drawn = sizes({"low": 5, "high": 20}, DRAWN, {"rest_of": 12})
    assert drawn.drawn and (drawn.ways, drawn.shots, drawn.queries) == (Size(5, 20), Size(1, 9), Size(3, 11))
    assert drawn.rest_of == 12
    assert sizes(5, {**DRAWN, "per": "class"}, 3).shots.per == "class"
    assert not sizes({"low": 5, "high": 5}, 1, {"rest_of": 3}).drawn
    assert largest({"low": 5, "high": 20}) == 20 and largest(5) == 5


def test_what_a_result_says() -> None:
    values: list[Any] = [5, DRAWN, {**DRAWN, "per": "class"}, {"low": 3, "high": 3}, {"rest_of": 12}]
    assert [in_words(value) for value in values] == [5, "1 to 9", "1 to 9 per class", "3", "the rest of 12"]
    assert sorted(["5 to 20", 10, "1 to 9", 5], key=numbers) == ["1 to 9", 5, "5 to 20", 10]
    assert chance(5) == 20 and chance("2 to 4") == pytest.approx((50 + 100 / 3 + 25) / 3)
    assert all(math.isnan(chance(text)) for text in ("none", "0", f"1 to {10**9}"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 1, 1), r"^ways=1 is below 2$"),
        (({"low": 1, "high": 9}, 1, 1), r"^ways\.low=1 is below 2$"),
        ((5, {"low": 3, "high": 2}, 1), r"^shots\.high=2 is below shots\.low=3$"),
        ((5, {"low": 3, "high": 10**6}, 1), r"^shots\.high=1000000 is more than 10000 above shots\.low=3$"),
        ((5, {"low": 3}, 1), r"^shots=\{low: 3\}: write a whole number, or \{low: 1, high: 5\}$"),
        ((5, {"low": 3, "high": 4, "step": 1}, 1), r"^shots=\{low: 3, high: 4, step: 1\}: write a whole number"),
        ((5, None, 1), r"^shots=null: write a whole number"),
        ((5, 1.5, 1), r"^shots=1\.5: write a whole number"),
        ((5, True, 1), r"^shots=True: write a whole number"),
        ((5, {**DRAWN, "per": "image"}, 1), r"^shots\.per=image is unknown; choose task or class$"),
        (({"low": 2, "high": 9, "per": "class"}, 1, 1), r"^ways\.per=class is unknown; choose task"),
        ((5, DRAWN, {"rest_of": 9}), r"^queries=\{rest_of: 9\}: .* or \{rest_of: 10\}, the images of a class of which"),
        ((5, DRAWN, {"rest": 12}), r"^queries=\{rest: 12\}: write a whole number"),
    ],
)
def test_what_cannot_be_meant(values: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sizes(*values)


def test_messages_name_the_key() -> None:
    with pytest.raises(InputError, match=r"^train_queries=0 is below 1$"):
        sizes(5, 1, 0, prefix="train_")
