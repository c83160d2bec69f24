"""The benchmarks run, their sides compute the same, and docs/speed.md says what their files say."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "scripts" / "bench"
NAMES = ("maml", "protonet", "sampling", "episodes", "growth", "floor", "start")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The figures of `python scripts/bench --quick`, on one core: small tensors, as in conftest.py."""
    folder = tmp_path_factory.mktemp("bench")
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, str(BENCH), "--quick", "--json", str(folder)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {core})
    )
    assert done.returncode == 0, done.stderr
    return {name: json.loads((folder / f"bench_{name}.json").read_text()) for name in NAMES} | {"stdout": done.stdout}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_bench_writes_where_its_rows_come_from(quick: dict[str, Any], name: str) -> None:
    figures = quick[name]
    assert figures["bench"] == name
    assert figures["command"] == f"python scripts/bench/{name}.py --quick"
    assert set(figures["machine"]) == {"device", "cores", "torch"} and figures["date"].count("-") == 2
    assert figures["rows"]


@pytest.mark.slow
def test_maml_gradients_of_all_sides_agree_in_float64(quick: dict[str, Any]) -> None:
    rows = quick["maml"]["rows"]
    assert {row["order"] for row in rows} == {1, 2} and {row["chunk"] for row in rows} == {"all", 1}
    assert all(row["difference"] < 1e-9 for row in rows)
    if find_spec("higher"):
        assert all(row["higher difference"] < 1e-9 for row in rows)


@pytest.mark.slow
def test_protonet_gradients_agree_in_float64(quick: dict[str, Any]) -> None:
    step, data = quick["protonet"]["rows"]
    assert (step["what"], data["what"]) == ("step", "with data")
    assert step["difference"] < 1e-9


@pytest.mark.slow
def test_ratios_are_of_the_times_beside_them(quick: dict[str, Any]) -> None:
    for row in quick["maml"]["rows"]:
        assert row["loop / ours"] == pytest.approx(row["loop ms"] / row["ours ms"])
    for row in quick["protonet"]["rows"][:1]:
        assert row["plain / ours"] == pytest.approx(row["plain ms"] / row["ours ms"])


@pytest.fixture(scope="module")
def bench() -> Any:
    """A script of the folder as a module."""
    sys.path.insert(0, str(BENCH))

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    sys.path.remove(str(BENCH))


def test_no_circle_of_imports() -> None:
    """Whatever a script imports, at once or late, does not import it in turn."""
    names = {file.stem for file in BENCH.glob("*.py")}
    imports = {
        name: {
            module
            for node in ast.walk(ast.parse((BENCH / f"{name}.py").read_text()))
            for module in (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            )
        }
        & names
        for name in names
    }  # fmt: skip
    TopologicalSorter(imports).prepare()  # CycleError names a circle
    with pytest.raises(CycleError):
        TopologicalSorter(imports | {"plain": {"maml"}}).prepare()


def test_operations_and_bytes_of_a_product(bench: Any) -> None:
    import torch

    a, b = torch.zeros(2, 3), torch.zeros(3, 5)
    work = bench("work").counted(lambda: (a @ b).relu())
    assert work == (2 * 2 * 3 * 5, 4 * (6 + 15 + 10))  # relu's are not counted
    assert work.times(3) == (180, 372)


def test_an_exponent_is_the_slope_of_logarithms(bench: Any) -> None:
    assert bench("growth").slope([0.0, 1.0, 2.0], [1.0, 3.0, 5.0]) == pytest.approx(2)


@pytest.mark.slow
def test_the_network_of_both_sides_is_one(bench: Any, tmp_path: Path) -> None:
    """As many weights; and the benchmark runs."""
    from torch import nn

    from fewshot.backbones.resnet12 import ResNet12

    script = bench("resnet12")
    blocks = [script.Block(*pair) for pair in zip((3, *script.WIDTHS[:3]), script.WIDTHS, strict=True)]
    options: Any = {"slope": 0.1, "readout": "mean", "dropout": 0, "dropblock": 0, "dropblock_size": None}
    ours = ResNet12((3, 32, 32), widths=script.WIDTHS, dropblock_steps=1, **options)
    count = [sum(p.numel() for p in net.parameters()) for net in (nn.Sequential(*blocks), ours)]
    assert count[0] == count[1] == 12_424_320
    script.main(["--quick", "--json", str(tmp_path / "a.json")])
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["step", "all"]


@pytest.mark.slow
def test_files_are_read_with_and_without_asking_ahead(bench: Any, tmp_path: Path) -> None:
    bench("read_ahead").main(["--quick", "--json", str(tmp_path / "a.json")])
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [row["file"] for row in rows] == ["1 GB", "20 GB, sparse"]


@pytest.mark.slow
def test_episodes_of_embeddings_are_those_of_images(bench: Any, tmp_path: Path) -> None:
    bench("cached").main(["--quick", "--json", str(tmp_path / "a.json")])
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert row["episodes that differ"] == 0


@pytest.mark.parametrize("name", ["preparation", pytest.param("augmentation", marks=pytest.mark.slow)])
def test_what_is_measured_beside_the_steps(bench: Any, name: str, tmp_path: Path) -> None:
    bench(name).main(["--quick", "--json", str(tmp_path / "a.json")])
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    if name == "preparation":
        assert [row["what"] for row in rows] == ["700 synthetic images", "20 files, 84x84", "20 files, 500x375"]
        assert rows[1]["loop / ours"] == pytest.approx(rows[1]["loop s"] / rows[1]["s"])
    else:
        assert {(row["algorithm"], row["augment"]) for row in rows} >= {
            ("baseline", "mini"),
            ("protonet", "resized_crop"),
        }


def test_pages_are_what_make_bench_writes(bench: Any) -> None:
    pages = bench("page")
    shown: set[str] = set()
    for file in pages.PAGES:
        page = file.read_text()
        assert pages.render(page) == page, f"{file.name} and docs/results differ: python scripts/bench/page.py"
        shown |= {match[2] for match in pages.MARKED.finditer(page)}
    recorded = {file.stem.removeprefix("bench_") for file in (ROOT / "docs" / "results").glob("bench_*.json")}
    assert shown >= set(NAMES) and shown == recorded - {"sweep"}  # docs/sweeps.md has that one


def test_what_a_gpu_was_to_reach_is_read_from_whole_files_and_from_none(tmp_path: Path) -> None:
    case = "protonet, 1 task of 15 queries"
    rows = [{"what": "train", "case": case, "steps/s": 3100, "data %": 20}, {"what": "test", "case": case}]
    for files, said in (({}, {"–"}), ({"graphs": rows}, {"True", "False", "–"})):
        for name, found in files.items():
            (tmp_path / f"bench_{name}_cuda.json").write_text(json.dumps({"rows": found}))
        done = subprocess.run([sys.executable, BENCH / "goals.py", tmp_path], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert {line.split("|")[4].strip() for line in done.stdout.splitlines()[2:] if "|" in line} == said
