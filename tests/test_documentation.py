"""README and docs: links lead to files, and what README calls from Python exists with these arguments."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import fewshot
from fewshot.interface import Classifier, Run

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("http"):
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), f"{page.name} links to {target}"
            headings = re.findall(r"^#+ (.*)", file.read_text(), re.MULTILINE) if anchor else []
            assert not anchor or anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert all(f"]({page.name})" in index for page in PAGES if page.name != "README.md")


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_what_readme_calls_from_python_exists() -> None:
    """Every call on the module, a run and a classifier binds to the parameters of the real one."""
    (block,) = re.findall(r"```python\nimport fewshot\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    owners: dict[str, Any] = {"fewshot": fewshot, "run": Run, "classifier": Classifier}
    calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    assert len(calls) == 5
    for call in calls:
        assert isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name)
        function = getattr(owners[call.func.value.id], call.func.attr)
        itself = [] if call.func.value.id == "fewshot" else [None]
        inspect.signature(function).bind(*itself, *call.args, **{str(k.arg): k.value for k in call.keywords})
