"""The tables of results in README and docs say what the result files say."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def results() -> ModuleType:
    """scripts/results.py, which `make results` runs."""
    spec = importlib.util.spec_from_file_location("results", ROOT / "scripts" / "results.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_make_results_writes(results: ModuleType) -> None:
    for page in results.PAGES:
        text = page.read_text()
        assert results.MARKED.search(text)
        assert results.render(text) == text, f"{page.name} and docs/results differ: make results"


def test_every_result_file_is_in_a_table(results: ModuleType) -> None:
    tables = yaml.safe_load((FOLDER / "tables.yaml").read_text())
    files = [row["file"] for table in tables.values() for row in table.get("rows", [])]
    files += [table["records"] for table in tables.values() if "records" in table]
    named = {name for file in files for name in (file if isinstance(file, list) else [file])}
    assert named == {path.stem for path in FOLDER.glob("*.json") if not path.stem.startswith("bench_")}  # docs/speed.md
    pages = "".join(page.read_text() for page in results.PAGES)
    assert all(f"<!-- results: {name} -->" in pages for name in tables)


def test_no_result_names_a_folder_of_one_machine() -> None:
    assert [path.name for path in FOLDER.glob("*.json") if '"/' in path.read_text()] == []


def stored(seed: int, accuracy: float, **more: Any) -> dict[str, Any]:
    return {
        "ways": 5, "shots": 1, "seed": seed, "test": {"accuracy": accuracy, "accuracy_ci95": 0.25},
        "timing": {"train_seconds": 100.0 + seed}, "environment": {"device": "cpu (x)", "threads": 1}, **more,
    }  # fmt: skip


def test_a_changed_number_changes_the_table(results: ModuleType, tmp_path: Path) -> None:
    paper = {"accuracy": 98.7, "ci95": 0.4, "verdict": "reproduced"}
    base = {"raw_pixels": {"accuracy": 40.0}, "untrained": {"accuracy": 50.0}}
    (tmp_path / "one.json").write_text(json.dumps(stored(0, 98.5, paper=paper, baselines=base)))
    rows = {"rows": [{"run": "it", "file": "one", "command": "fewshot train"}]}
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump({"x": rows}))
    readme = "before\n<!-- results: x -->\nold\n<!-- end of results -->\nafter\n"
    made = results.render(readme, tmp_path)
    cells = "it (1) | 5-way 1-shot | 98.50 ± 0.25 | 40.0 | 50.0 | 98.7 ± 0.4: reproduced | 100 s, 1 thread | `one`"
    assert f"| {cells} |\n\n    (1) fewshot train\n" in made
    assert made.startswith("before\n")
    assert made.endswith("<!-- end of results -->\nafter\n")
    assert results.render(made, tmp_path) == made
    (tmp_path / "one.json").write_text(json.dumps(stored(0, 98.6, paper=paper, baselines=base)))
    assert results.render(made, tmp_path) == made.replace("98.50 ±", "98.60 ±")


def test_seeds_have_a_mean_a_spread_and_each_its_interval(results: ModuleType, tmp_path: Path) -> None:
    for seed, accuracy in enumerate((98.0, 98.2, 98.4)):
        (tmp_path / f"s{seed}.json").write_text(json.dumps(stored(seed, accuracy)))
    row = {"run": "it", "file": ["s0", "s1", "s2"], "command": "fewshot train seed=0,1,2"}
    made = results.cells(row, 1, tmp_path)
    seeds = "0: 98.00 ± 0.25, 1: 98.20 ± 0.25, 2: 98.40 ± 0.25"
    assert made["accuracy %"] == f"98.20, sd over seeds 0.20 ({seeds})"
    assert (made["training"], made["published %"]) == ("101 s, 1 thread", "–")
