"""Values that no key may have, whatever it is a key of: one line, before anything is made."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from fewshot.cli.compose import compose, searching
from fewshot.cli.validate import _compare_signs
from fewshot.cli.values import check
from fewshot.errors import InputError


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"paper": {"accuracy": float("nan")}}, "paper.accuracy=nan is not finite"),
        ({"algorithm": {"inner_lr": float("inf")}}, "algorithm.inner_lr=inf is not finite"),
        ({"trainer": {"optimizer": {"betas": [0.9, float("nan")]}}}, "optimizer.betas=[0.9, nan] is not finite"),
        ({"seed": 2**64 - 1}, "seed=18446744073709551615 is too large; the largest"),
        ({"ways": 10**400}, "is too large"),
        ({"trainer": {"optimizer": {"lr": 1e39}}}, "lr=1e+39 is too large; the largest number is 3.4e+38"),
        ({"seed": -1}, "seed=-1 is below 0; a seed is a whole number from 0 to 9223372036854775807"),
        ({"eval_seed": -1}, "eval_seed=-1 is below 0"),
        ({"output_dir": ""}, "output_dir is empty; name a folder or file"),
        ({"cache_dir": "  "}, "cache_dir is empty"),
        ({"output_dir": "out "}, "output_dir='out ' has a space or line end at its start or end; leave it out"),
        ({"run": "outputs/a\n"}, "run='outputs/a\\n' has a space or line end"),
        ({"data_dir": "a\0b"}, "data_dir='a\\x00b' has the control character '\\x00'"),
        ({"name": ""}, "name is empty"),
        ({"name": "a\nb"}, "name='a\\nb' has the control character '\\n'"),
        ({"name": "../../x"}, "name=../../x is no name of one folder"),
        ({"name": "a[/b]"}, "name=a[/b] is no name of one folder"),
        ({"name": ".."}, "name=.. is no name of one folder"),
        ({"name": "a\\b"}, "is no name of one folder"),
        ({"name": "ü" * 101}, "name has 202 bytes; give at most 200"),
    ],
)  # fmt: skip
def test_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check(config)


def test_what_is_unusual_but_meant() -> None:
    check({"seed": 2**63 - 1, "eval_seed": 0, "name": "[old] größe 類 می‌خواهم $x$ <b>", "output_dir": "../a b/[x]",
           "run": "~", "paper": None, "algorithm": {"note": "two\nlines", "flag": True, "rates": []}})  # fmt: skip


def test_a_number_below_0_whose_default_is_not() -> None:
    """Of classes of ours and of torch's; what a user's own take is theirs to say."""
    ours: dict[str, Any] = {"_target_": "fewshot.x.Y", "eps": 0.1, "widths": [2, 3], "free": None, "low": -1.0,
                            "part": {"_target_": "torch.optim.Adam", "lr": 0.1}}  # fmt: skip
    for changed, message in (
        ({"eps": -1}, "backbone.eps=-1 is below 0; its default is 0.1"),
        ({"widths": [4, -2]}, "backbone.widths=[4, -2] is below 0; its default is [2, 3]"),
        ({"part": ours["part"] | {"lr": -0.1}}, "backbone.part.lr=-0.1 is below 0"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            _compare_signs({"backbone": ours | changed}, {"backbone": ours}, "", ours=True)
        own = ours | changed | {"_target_": "mine.Y"}
        if "part" not in changed:
            _compare_signs({"backbone": own}, {"backbone": ours}, "", ours=True)
    _compare_signs(ours | {"eps": 0.0, "low": -2.0, "free": -3, "widths": []}, ours, "", ours=True)


@pytest.fixture(scope="module")
def composing() -> Iterator[None]:
    with searching(None):
        yield


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["name=${nope}"], "name=${nope}: 'nope' is not a key of the configuration"),
        (["ways=${shots}", "shots=${ways}"], "ways: its value names a key whose value leads back to it"),
        (["trainer.steps=???"], "trainer.steps=??? has no value; give it one"),
        (["name=${oc.env:NOT_THERE}"], "name: \"Environment variable 'NOT_THERE' not found\""),
        (["backbone.norm_eps=-1"], "backbone.norm_eps=-1 is below 0; its default is 1e-05"),
    ],
)
def test_values_that_name_other_keys(composing: None, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        compose("config", words)
