"""Which version of the code runs. Layer 0."""

import subprocess
from pathlib import Path

from fewshot import __version__


def code_version() -> str:
    """`0.1.0`, in a checkout with its commit: `0.1.0 64ad9aa936d0+`."""
    return " ".join(filter(None, [__version__, git_commit()]))


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, with "+" where files differ from it; None elsewhere."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
