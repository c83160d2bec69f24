"""The table of methods and their properties in docs/algorithms.md, measured: writes docs/results/methods.json.

    python scripts/properties.py && python scripts/results.py

For every file in conf/algorithm: the lines of its Python file; whether it keeps its contract (`fewshot.testing`), what
ways and shots it serves; whether a query's prediction depends on the others, and what is then assumed of them. And what
its tests hold it against, which is the first line of tests/algorithms/test_NAME.py, with the largest difference that
the tests' comparisons of numbers find, relative to the largest number compared (unless that is rounding alone).
"""

import collections
import functools
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewshot import assemble
from fewshot.algorithms.base import Algorithm
from fewshot.cli.compose import compose
from fewshot.testing import check_algorithm

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (1, 8, 8)
NOTHING = 1e-8  # a value that is 0 by symmetry, and is rounding alone when it is computed
Differences = dict[str, float]  # test file's name -> the largest


class Measured:
    """A pytest plugin: what `assert_close` and `assert_allclose` compare, by the file of the test that calls them."""

    def __init__(self) -> None:
        self.largest: Differences = collections.defaultdict(float)
        self.file = ""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.file = item.path.stem

    def noting(self, compare: Any) -> Any:
        @functools.wraps(compare)
        def noted(actual: Any, expected: Any, *rest: Any, **options: Any) -> None:
            compare(actual, expected, *rest, **options)
            a, b = numbers(actual), numbers(expected)
            if a.shape == b.shape and b.size and np.isfinite(b).all():
                largest = np.abs(b).max()
                difference = float(np.abs(a - b).max() / (largest if largest > NOTHING else 1))
                self.largest[self.file] = max(self.largest[self.file], difference)

        return noted


def numbers(value: Any) -> np.ndarray:
    """All numbers of tensors, arrays, and what holds such, in one row."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return np.concatenate([np.empty(0), *map(numbers, value)])
    tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value))
    return tensor.double().flatten().numpy()


def measured_differences() -> Differences:
    """Runs tests/algorithms; SystemExit where a test fails."""
    plugin = Measured()
    torch.testing.assert_close = plugin.noting(torch.testing.assert_close)
    np.testing.assert_allclose = plugin.noting(np.testing.assert_allclose)
    code = pytest.main([str(ROOT / "tests" / "algorithms"), "-q", "-n", "0"], [plugin])
    if code:
        raise SystemExit(f"tests/algorithms: exit code {code}; the table is of code that passes its tests")
    return plugin.largest


def row(name: str, differences: Differences) -> dict[str, Any]:
    """One line of the table: column -> text."""
    algorithm = made(name)
    file = Path(inspect.getfile(type(algorithm)))
    found = {f.property: f for f in check_algorithm(algorithm, image_shape=SHAPE, train_classes=4)}
    good = sum(f.ok for f in found.values())
    test = next(t for t in (name, file.stem) if (ROOT / "tests" / "algorithms" / f"test_{t}.py").exists())
    held_against = (ROOT / "tests" / "algorithms" / f"test_{test}.py").read_text().split('"""')[1].splitlines()[0]
    return {
        "`algorithm=`": f"`{name}`", "file": f"`{file.name}`", "lines": len(file.read_text().splitlines()),
        "contract": f"{good} of {len(found)}", "ways": serves(found["other ways"].note),
        "shots": serves(found["other shots"].note), "queries judged": judged(algorithm),
        "held against": held_against, "largest difference": f"{differences[f'test_{test}']:.0e}",
    }  # fmt: skip


def made(name: str) -> Algorithm:
    words = ["backbone=mlp", "backbone.widths=[32,16]", "ways=3", "queries=2", f"algorithm={name}"]
    return assemble.make_algorithm(compose("config", words).config, {"image_shape": list(SHAPE), "train_classes": 4}, 0)


def serves(note: str) -> str:
    return "as trained" if note.startswith("refused") else "any"


def judged(algorithm: Algorithm) -> str:
    if not algorithm.transductive:
        return "alone"
    assumed = getattr(algorithm, "assumes", None)
    return f"together ({assumed} assumed)" if assumed else "together"


def main() -> None:
    torch.set_num_threads(1)
    names = sorted(path.stem for path in (ROOT / "conf" / "algorithm").glob("*.yaml"))
    differences = measured_differences()
    rows = [row(name, differences) for name in names]
    text = json.dumps({"command": "python scripts/properties.py", "rows": rows}, indent=1, ensure_ascii=False)
    (ROOT / "docs" / "results" / "methods.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
