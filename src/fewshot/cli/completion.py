"""What the Tab key offers: verbs, folders and data sets; groups, options and keys are completed by Hydra. Layer 6."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from fewshot.cli import VERBS

ACTIONS = ("list", "prepare", "verify", "show")


def answer(words: list[str]) -> list[str]:
    """The words of a `-sc` call -> those for Hydra, with the verb removed from COMP_LINE.

    What this file completes is printed here, and the process ends.
    """
    if not words[1:] or not words[1].startswith("query="):  # install, uninstall
        return ["train", *words]
    typed = os.environ.get("COMP_LINE", "").split(" ")
    if len(typed) <= 2:
        _offer(VERBS)
    verb, last = typed[1], typed[-1]
    if last.startswith(("run=", "resume=")):
        key, path = last.split("=", 1)
        _offer(f"{key}={found}" for found in _folders(path))
    if last.startswith("experiment="):  # Hydra does not look into a group's folders
        _offer(f"experiment={name}" for name in _yaml_names("experiment"))
    if verb == "data":
        _offer(ACTIONS if len(typed) == 3 else _yaml_names("dataset"))
    run = next((word for word in typed if word.startswith("run=")), "")
    if verb == "evaluate" and not (Path(run.removeprefix("run=")) / "config.yaml").is_file():
        _offer(["run="])
    if verb not in ("train", "check", "evaluate"):
        _offer(())
    os.environ["COMP_LINE"] = " ".join([typed[0], *typed[2:]])
    return [verb, *words, *([run] if verb == "evaluate" else [])]


def _offer(choices: Iterable[str]) -> None:
    print(" ".join(choices))
    sys.exit(0)


def _folders(typed: str) -> list[str]:
    """Folders whose path begins as typed, each with a slash, so that the next Tab completes inside it."""
    head, _, name = typed.rpartition("/")
    parent = Path(f"{head}/" if head or typed.startswith("/") else ".")
    prefix = typed.removesuffix(name)
    return sorted(f"{prefix}{path.name}/" for path in parent.glob(f"{name}*") if path.is_dir())


def _yaml_names(group: str) -> list[str]:
    from fewshot.cli.compose import conf_dir

    folder = conf_dir() / group
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))
