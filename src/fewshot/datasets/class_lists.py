"""The lists of class names that published splits are made of, data files in `splits/`. Layer 1."""

import json
from importlib.resources import files
from typing import Any


def class_lists(name: str) -> Any:
    """What `splits/<name>.json` holds; of a data set: split -> names of its classes."""
    return json.loads((files("fewshot.datasets") / "splits" / f"{name}.json").read_text())
