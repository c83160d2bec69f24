"""W&B's offline record of a run, as its own program reads it."""

import collections
import json
import subprocess
from pathlib import Path
from typing import Any


def records(run: Path) -> dict[str, list[dict[str, Any]]]:
    """A folder `offline-run-*` -> kind -> its records in their order.

    `wandb leet inspect --json` without the start of `wandb` in another Python, which takes a second.
    """
    from wandb.util import get_core_path

    (file,) = run.glob("run-*.wandb")
    words = ["leet", "inspect", "--no-observability", "--json", "--run-file", str(file), str(run.parent)]
    done = subprocess.run([get_core_path(), *words], capture_output=True, text=True, check=True)
    found: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in map(json.loads, done.stdout.splitlines()):
        found[row["type"]].append(row[row["type"]])
    return found
