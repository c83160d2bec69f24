"""`fewshot export` in one process, and the example of docs/pictures.md with the file that it writes."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_data import COLOURS, TINY_NETWORK, picture

from fewshot.cli.export import main
from fewshot.cli.predict import main as predict
from fewshot.errors import InputError

PAGE = Path(__file__).parents[2] / "docs" / "pictures.md"
FIVE = {**COLOURS, "ship": (10, 90, 0), "sun": (90, 90, 250)}


@pytest.fixture
def support(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five classes of two pictures, which were looked at as by `predict`."""
    for n, (name, colour) in enumerate(FIVE.items()):
        for i in range(2):
            picture(tmp_path / "support" / name / f"{i}.png", colour, 10 * n + i)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "support"


def difference(capsys: pytest.CaptureFixture[str]) -> float:
    """The largest difference."""
    (found,) = re.findall(
        r"largest difference to fewshot's probabilities, 10 support pictures: (\S+)", capsys.readouterr().out
    )
    return float(found)


@pytest.mark.slow
def test_a_pretrained_network_as_onnx_and_the_example_that_runs_it(
    support: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Label and probability by onnxruntime and Pillow alone are those of `predict`."""
    torch.manual_seed(0)
    words = ["support=support", *TINY_NETWORK]
    assert main([*words, "out=model.onnx"]) == 0
    assert difference(capsys) < 1e-4
    torch.manual_seed(0)
    assert predict([*words, "query=support", "out=found.csv"]) == 0
    (example,) = re.findall(r"```python\n(import json.*?)```", PAGE.read_text(), re.DOTALL)
    files = sorted(str(path) for path in Path("support").rglob("*.png"))
    done = subprocess.run([sys.executable, "-c", example, *files], capture_output=True, text=True, check=True)
    with Path("found.csv").open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [path for path, *_ in lines] == files
    for path, label, probability in lines:
        assert label == rows[path]["label"]
        assert float(probability) == pytest.approx(float(rows[path]["probability"]), abs=2e-3)


def test_a_runs_adapted_copy_by_torch_export(support: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the support set's statistics: with each batch's own, a picture's answer would depend on the others."""
    words = ["support=support", f"run={trained}", "threads=1", "out=made/model.pt2"]
    with pytest.raises(InputError, match="MAML judges all queries together and cannot be exported; add algorithm"):
        main(words)
    assert main([*words, "algorithm.norm_statistics=support"]) == 0
    assert difference(capsys) < 1e-5
    told = dict.fromkeys(("classes", "size", "mode", "temperature"), "")
    model = torch.export.load("made/model.pt2", extra_files=told).module()
    assert json.loads(told["classes"]) == sorted(FIVE)
    height, width = json.loads(told["size"])
    assert json.loads(told["mode"]) == "L"
    for batch in (1, 3):
        found = model(torch.zeros(batch, height, width, 1, dtype=torch.uint8))
        assert found.shape == (batch, 5)
        np.testing.assert_allclose(found.sum(1).detach(), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["support=support"], "export needs out=FILE.onnx; see fewshot export --help"),
        (["support=support", "out=model.txt"], r"out=model.txt ends in none of .onnx, .pt2"),
        (["support=support", "out=model.onnx", "query=a"], "'query=a' is no KEY=VALUE of export"),
    ],
)
def test_refused(support: Path, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main([*words, *TINY_NETWORK])


def test_a_missing_package_is_named(support: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"needs the package onnxscript: pip install 'fewshot\[onnx\]'"):
        main(["support=support", "out=model.onnx", *TINY_NETWORK])


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"{key}=" in text for key in ("support", "run", "backbone", "head", "out"))
