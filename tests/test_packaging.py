"""sdist -> wheel -> a fresh environment elsewhere -> a run in an empty folder: what is shipped is whole."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from command_line import QUIET, metrics, only, result

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    apart = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=apart, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the unpacked sdist, not from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    run(*build, "--sdist", ROOT, cwd=folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    for name in ("Makefile", "README.md", "constraints.txt", "tests/test_packaging.py"):
        assert (source / name).is_file(), f"the sdist lacks {name}"
    run(*build, "--wheel", source, cwd=folder)
    return only(folder, "*.whl")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel and the exact versions of its dependencies."""
    place = tmp_path_factory.mktemp("elsewhere") / "venv"
    uv = Path(sys.executable).with_name("uv")
    venv.create(place, with_pip=not uv.exists(), symlinks=True)
    python, exact = place / "bin" / "python", ("-c", ROOT / "constraints.txt", wheel)
    install = (uv, "pip", "install", "--python", python) if uv.exists() else (python, "-m", "pip", "install")
    run(*install, "--quiet", *exact, cwd=place)
    return place / "bin"


def test_the_wheel_carries_the_configuration(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        carried = {name.removeprefix("fewshot/conf/") for name in archive.namelist() if "/conf/" in name}
        code = {name for name in archive.namelist() if name.endswith(".py")}
    ours = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert carried == ours
    assert not [name for name in code if not name.startswith(("fewshot/", "hydra_plugins/"))]
    source = ROOT / "src"
    assert code == {path.relative_to(source).as_posix() for path in source.rglob("*.py")}


def test_it_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    words = [*QUIET, "trainer.steps=2", f"cache_dir={os.environ['FEWSHOT_CACHE']}"]
    run(installed / "fewshot", "train", *words, cwd=tmp_path)
    made = only(tmp_path / "outputs" / "train")
    assert [row["step"] for row in metrics(made)] == [1, 2]
    assert result(made)["environment"]["git"] is None
    place = run(installed / "python", "-c", "import fewshot; print(fewshot.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(installed.parent)
    run(installed / "fewshot", "evaluate", f"run={made}", "evaluation.episodes=3", cwd=tmp_path)
    assert "glyphs test" in run(installed / "fewshot", "report", "outputs", "--html", "r.html", cwd=tmp_path)
    assert "<svg" in (tmp_path / "r.html").read_text()


def test_a_users_files_are_found_beside_it(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "network.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self, *, width: int) -> None:\n"
        "        super().__init__(nn.Flatten(), nn.Linear(784, width))\n"
        "        self.out_features = width\n"
    )
    (tmp_path / "conf" / "backbone").mkdir(parents=True)
    (tmp_path / "conf" / "backbone" / "mine.yaml").write_text("_target_: network.Net\nwidth: 6\n")
    words = [word for word in QUIET if not word.startswith("backbone.")]
    own = ("--config-dir", "./conf", "backbone=mine", "backbone.width=5", "trainer.steps=2")
    run(installed / "fewshot", "train", *words, *own, cwd=tmp_path)
    assert result(only(tmp_path / "outputs" / "train"))["steps"] == 2
