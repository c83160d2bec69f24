"""The presets of `conf/experiment`, composed once in a process."""

import functools
from pathlib import Path

from composed import compose

from fewshot.cli.compose import Composed

FOLDER = Path(__file__).parents[1] / "conf" / "experiment"
PRESETS = sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.glob("**/*.yaml"))


@functools.cache
def preset(name: str) -> Composed:
    """As `fewshot train experiment=NAME` would be run; not to be changed."""
    return compose("config", [f"experiment={name}"])
