"""`import fewshot`: what the command line does, from Python."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import QUIET, episodes, only, result, succeed
from PIL import Image

import fewshot
from fewshot.errors import FewshotError, InputError

EXAMPLE = Path(__file__).parents[1] / "examples" / "python_interface.py"


def test_the_import_is_cheap() -> None:
    check = "import sys, fewshot; assert not {'torch', 'numpy', 'hydra', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
    assert {"train", "load", "evaluate", "pretrained"} <= set(dir(fewshot))
    with pytest.raises(AttributeError, match="module 'fewshot' has no attribute 'trian'"):
        fewshot.trian  # noqa: B018


def test_train_is_what_the_command_does(
    tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = fewshot.train(QUIET)
    assert (run.path.parent.name, capsys.readouterr().err) == ("maml_glyphs_5w1s", "")
    for key in ("test", "val", "baselines", "protocol", "backbone", "train", "identity"):
        assert run.result[key] == result(trained)[key], key
    assert {path.name for path in (run.path / "figures").iterdir()} == {
        "curves.png", "episode.png", "embedding.png", "inner_steps.png",
    }  # fmt: skip
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4]
    assert run.config["algorithm"]["inner_lr"] == 0.2


def test_evaluate_is_what_the_command_does(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = fewshot.load(trained)
    found = run.evaluate(threads=1)
    assert found["test"] == run.result["test"]
    assert episodes(only(tmp_path / "outputs" / "evaluate")) == episodes(trained)
    other = fewshot.evaluate(trained, "evaluation.episodes=7", shots=2, queries=3, threads=1, split="val")
    assert (other["shots"], other["queries"], other["test"]["episodes"], other["split"]) == (2, 3, 7, "val")


def test_a_classifier_from_a_run(tmp_path: Path, trained: Path, glyph_files: list[Path]) -> None:
    """As the test of the command line adapts: the same accuracy is not asked for, the same head is."""
    run = fewshot.load(trained)
    labels = ["a", "b", "c", "d", "e"]
    classifier = run.fit(glyph_files, labels, device="cpu")
    assert classifier.predict_proba(glyph_files).shape == (5, 5)
    assert set(classifier.predict(glyph_files)) <= set(labels)
    with pytest.raises(InputError, match="ways=2, but this head was learned for ways=5"):
        run.fit(glyph_files[:2], labels[:2], device="cpu")


@pytest.fixture
def glyph_files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{level}.png" for level in (0, 50, 100, 150, 200)]
    for place, file in enumerate(files):
        Image.linear_gradient("L").rotate(72 * place).resize((40, 50)).save(file)
    return files


def test_the_same_run_whoever_asks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished run of the command line is resumed."""
    succeed("train", *QUIET, "algorithm=protonet", cwd=tmp_path)
    run = only(tmp_path / "outputs" / "train")
    before = result(run)["test"]
    (run / "result.json").unlink()
    monkeypatch.chdir(tmp_path)
    again = fewshot.train([*QUIET, "algorithm=protonet"])
    assert (again.path.name, again.result["test"]) == (run.name, before)


def test_refused(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"'algorithm\.iner_lr' is not a key of the configuration; near it: "):
        fewshot.train(["algorithm.iner_lr=1"])
    with pytest.raises(InputError, match=r"'evaluation\.episods' is not a key"):
        fewshot.load(trained).evaluate("evaluation.episods=2")
    with pytest.raises(InputError, match=r"nowhere is not a run folder \(it has no run.json\)"):
        fewshot.load("nowhere")
    with pytest.raises(InputError, match="init=nowhere is not the folder of a finished training run"):
        fewshot.train(["init=nowhere"])
    (unfinished := tmp_path / "run").mkdir()
    (unfinished / "run.json").write_text("{}")
    with pytest.raises(FewshotError, match=r"has no result\.json: its run is not finished"):
        fewshot.load(unfinished).result  # noqa: B018
    assert not list(tmp_path.glob("outputs/*"))


def test_without_pandas(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="needs pandas: pip install pandas"):
        fewshot.load(trained).metrics_frame()


def test_a_pretrained_network_needs_no_run(glyph_files: list[Path]) -> None:
    """By the name of torchvision, its weights left out here; colour, 224 x 224, cosine to the class means."""
    classifier = fewshot.pretrained("mobilenet_v3_small", weights="none", device="cpu").fit(glyph_files[:3], [7, 8, 8])
    found = classifier.predict_proba(glyph_files)
    assert found.shape == (5, 2)
    assert classifier.predict(glyph_files[:1]).tolist() == [7]
    own = fewshot.pretrained("efficientnet_lite0", weights="none", device="cpu")
    assert (own.pictures.side, own.pictures.image_shape) == (256, (3, 224, 224))
    with pytest.raises(InputError, match=r"backbone.model=resnet81 is not in torchvision; near it: "):
        fewshot.pretrained("resnet81", weights="none")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fewshot.report.figures.draw_finished", lambda folder: None)  # as in command_line.call
    runpy.run_path(str(EXAMPLE), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert "['ring' 'square']" in said
    assert "10-way 1-shot: " in said
