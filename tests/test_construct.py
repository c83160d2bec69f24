"""What a `_target_` becomes, and the one line that says why it cannot."""

import functools
import re

import pytest
import torch

from fewshot.construct import construct
from fewshot.errors import InputError


class Leaf:
    def __init__(self, value: int = 0) -> None:
        if value < 0:
            raise InputError(f"value={value} is below 0")
        if value > 9:
            raise ValueError(f"{value} is too large\nand more")
        self.value = value


class Branch:
    def __init__(self, leaves: list[Leaf], *, by_name: dict[str, Leaf], width: int, ways: int = 0) -> None:
        self.leaves, self.by_name, self.width, self.ways = leaves, by_name, width, ways


LEAF, BRANCH = f"{__name__}.Leaf", f"{__name__}.Branch"
NODE = {
    "_target_": BRANCH, "leaves": [{"_target_": LEAF, "value": 1}, {"_target_": LEAF}],
    "by_name": {"a": {"_target_": LEAF, "value": 3}}, "width": 4,
}  # fmt: skip


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules[Leaf.__module__])


def test_nested_nodes_and_what_the_run_knows() -> None:
    made = construct(NODE, "branch", ways=5, device="unwanted")
    assert [leaf.value for leaf in made.leaves] == [1, 0]
    assert made.by_name["a"].value == 3
    assert (made.width, made.ways) == (4, 5)


def test_partial() -> None:
    made = construct({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}, "optimizer")
    assert isinstance(made, functools.partial)
    assert made([torch.zeros(1, requires_grad=True)]).defaults["lr"] == 0.5


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"a": 1}, "net has no `_target_`"),
        (3, "net has no `_target_`"),
        ({"_target_": "nowhere.Net"}, "net: cannot import 'nowhere.Net' (ModuleNotFoundError: "),
        ({"_target_": "math.nothing"}, "net: cannot import 'math.nothing' (ModuleNotFoundError: "),
        ({"_target_": "math.pi"}, "net: 'math.pi' is a float, not a class or a function"),
        ({"_target_": LEAF, "values": 1}, "net: got an unexpected keyword argument 'values'; its keys are: value"),
        ({"_target_": BRANCH, "leaves": [], "width": 1}, "net: missing a required argument: 'by_name'; its keys are: "),
        ({"_target_": LEAF, "_partial_": True, "values": 1}, "net: got an unexpected keyword argument 'values'"),
        ({"_target_": LEAF, "_args_": [1]}, "net._args_ is not known"),
        ({"_target_": LEAF, "value": -1}, "value=-1 is below 0"),
        (NODE | {"leaves": [{"_target_": LEAF, "value": 11}]}, "net.leaves.0: 11 is too large"),
        (NODE | {"by_name": {"b": {"_target_": LEAF, "x": 1}}}, "net.by_name.b: got an unexpected keyword"),
    ],
)  # fmt: skip
def test_refused(node: object, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        construct(node, "net")
    assert "\n" not in str(caught.value)


def test_an_error_of_the_outermost_constructor_keeps_its_trace() -> None:
    """It may be a bug: only what a nested one raises is known to be about its keys."""
    with pytest.raises(ValueError, match="11 is too large"):
        construct({"_target_": LEAF, "value": 11}, "net")
