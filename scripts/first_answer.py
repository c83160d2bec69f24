"""From an empty environment to labelled pictures: python scripts/first_answer.py NAME=DIR

Makes a new environment, installs a wheel of this checkout with the extras `pretrained` and `onnx` into it by uv, and
gives the commands of docs/pictures.md there, with an empty cache: DIR, with a folder of pictures for each class, is
both `support` and `query`. Whole processes, one after the other; on an otherwise idle machine.

docs/results/own_pictures_first_answer.json has the numbers, and the rows of the table that `make results` writes.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from fewshot.folders import class_folder

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "results" / "own_pictures_first_answer.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", metavar="NAME=DIR")
    name, _, support = parser.parse_args().pictures.partition("=")
    folder = class_folder(Path(support))
    about = f"{name}, {len(folder.paths)} pictures of {len(set(folder.labels))} classes"
    with TemporaryDirectory() as made:
        ordinary = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        rows, python = [], Path(made, "venv", "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", made + "/venv"], check=True)
        subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", made, ROOT], check=True)
        (wheel,) = Path(made).glob("*.whl")
        install = [
            Path(sys.executable).with_name("uv"), "pip", "install", "--compile-bytecode",  # as pip does
            "--python", python, "-c", ROOT / "constraints.txt",
        ]  # fmt: skip
        asked = ["predict", f"support={support}", f"query={support}", "html=labels.html"]
        for what, command in {
            "pip install 'fewshot[pretrained]' (packages downloaded before)": [*install, f"{wheel}[pretrained]"],
            "fewshot predict, the first time": [python.with_name("fewshot"), *asked],
            "fewshot predict, again": [python.with_name("fewshot"), *asked],
            "pip install 'fewshot[onnx]' beside it": [*install, f"{wheel}[onnx]"],
            "fewshot export, out=model.onnx": [
                python.with_name("fewshot"), "export", f"support={support}", "out=model.onnx",
            ],
        }.items():  # fmt: skip
            begin = time.perf_counter()
            subprocess.run(command, check=True, cwd=made, env=ordinary | {"FEWSHOT_CACHE": made + "/cache"})
            rows.append({about: what, "s": f"{time.perf_counter() - begin:.1f}"})
    command = f"python scripts/first_answer.py {name}=DIR"
    RESULT.write_text(json.dumps({"command": command, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
