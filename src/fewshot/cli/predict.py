"""`fewshot predict support=DIR query=DIR`: own pictures, classified by a few labelled ones. Layer 8."""

import csv
import difflib
import glob
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot.cli.words import writing
from fewshot.errors import InputError

if TYPE_CHECKING:
    from fewshot.features import FeatureCache
    from fewshot.own_pictures import Prediction

HELP = """fewshot predict support=DIR query=DIR [KEY=VALUE ...]: classify pictures by a few labelled ones

  support=DIR      a folder with a folder of pictures for each class
  query=DIR        the pictures to classify; also a file, a pattern ('new/*.jpg'), or several with commas between
  backbone=NAME    the pre-trained network (default efficientnet_lite0); its keys: backbone.KEY=VALUE
  out=FILE.csv     path, label, probability, runner-up, and a column for each class
  html=FILE.html   a page to look at: every query beside the support pictures most like it, least certain first
  unknown=P        call pictures unknown that are like none of the classes; P (0.05) of the known ones will be, too
  unreadable=skip  leave unreadable files out, where the first of them is an error otherwise
  device=auto      auto | cpu | cuda | cuda:<index>
  cache_dir=DIR    where features are kept: the same pictures take no time when they come again
  --config-dir DIR YAML files of your own networks, as for train
"""
KEYS = {
    "support": None, "query": None, "backbone": "efficientnet_lite0", "out": None, "html": None,
    "unknown": None, "unreadable": "error", "device": "auto", "cache_dir": None, "threads": None,
}  # fmt: skip
SHOWN = 40  # rows in the terminal


def main(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0
    keys, backbone, config_dir = _parsed(argv)
    support, query = Path(keys["support"]), _files(keys["query"])
    if not support.is_dir():  # before torch is imported
        raise InputError(f"support={support} is not a folder")
    for key in ("out", "html"):
        if keys[key]:
            with writing(Path(keys[key])):
                Path(keys[key]).touch()

    from fewshot.own_pictures import predict

    cache = _feature_cache(keys, backbone, config_dir)
    found = predict(
        support, query, cache, unknown=keys["unknown"], skip=keys["unreadable"] == "skip", progress=_progress
    )
    _print(found)
    if keys["out"]:
        _write_csv(found, Path(keys["out"]))
    if keys["html"]:
        from fewshot.report.predicted import page

        content = page(found)
        with writing(path := Path(keys["html"])):
            path.write_text(content, encoding="utf-8")
        print(f"page: {path} ({len(content) / 1e6:.1f} MB)")
    return 0


def _parsed(argv: Sequence[str]) -> tuple[dict[str, Any], list[str], str | None]:
    """The keys, the words of the network, and the folder of own YAML files."""
    keys: dict[str, Any] = dict(KEYS)
    backbone, config_dir, words = [], None, iter(argv)
    for word in words:
        key, sign, value = word.partition("=")
        if word == "--config-dir":
            config_dir = next(words, None)
        elif key.startswith("backbone.") and sign:
            backbone.append(word)
        elif sign and key in KEYS:
            keys[key] = value.strip("'\"") or None
        else:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"keys are: {', '.join(KEYS)}"
            raise InputError(f"'{word}' is no KEY=VALUE of predict; {hint}")
    for key in ("support", "query"):
        if not keys[key]:
            raise InputError(f"predict needs {key}=DIR; see fewshot predict --help")
    if keys["unreadable"] not in ("error", "skip"):
        raise InputError(f"unreadable={keys['unreadable']} is unknown; choose error or skip")
    for key, kind, like in (("unknown", float, "a number such as 0.05"), ("threads", int, "a whole number")):
        try:
            keys[key] = None if keys[key] is None else kind(keys[key])
        except ValueError as error:
            raise InputError(f"{key}={keys[key]} is not {like}") from error
    return keys, [f"backbone={keys['backbone']}", *backbone], config_dir


def _files(query: str) -> list[Path]:
    """query=DIR, FILE, a pattern, or several of them with commas between; [a, b] is read as Hydra writes it."""
    if Path(query).exists():
        return [Path(query)]
    found: list[Path] = []
    for part in query.strip("[]").split(","):
        name = part.strip().strip("'\"")
        matching = sorted(glob.glob(name, recursive=True)) or [name]  # noqa: PTH207  from any root
        if not Path(matching[0]).exists():
            raise InputError(f"query={name}: there is no such file or folder")
        found += map(Path, matching)
    return found


def _feature_cache(keys: Mapping[str, Any], backbone: list[str], config_dir: str | None) -> "FeatureCache":
    """The network is made only where a picture is new; its weights are named by what its configuration says."""
    import hashlib

    import torch

    from fewshot.assemble import make_backbone
    from fewshot.cli.compose import compose
    from fewshot.engine import runtime
    from fewshot.features import FeatureCache

    config = compose("config", backbone, config_dir).config
    node = config["backbone"]
    torch.set_num_threads(keys["threads"] or runtime.threads_per_process(1))

    def make() -> torch.nn.Module:
        network = make_backbone(config, {"image_shape": [3, 224, 224]}, seed=0)
        if not hasattr(network, "input"):
            raise InputError(
                f"backbone={keys['backbone']} is not pre-trained; choose efficientnet_lite0, or timm and backbone.model"
            )
        return network

    weights = Path(str(node.get("weights")))
    key = dict(node) | ({"sha256": hashlib.sha256(weights.read_bytes()).hexdigest()} if weights.is_file() else {})
    folder = Path(keys["cache_dir"] or config["cache_dir"])
    return FeatureCache(folder, key, make, runtime.pick_device(keys["device"]))


def _progress(done: int, of: int) -> None:
    """One line that counts, in a terminal."""
    if sys.stderr.isatty():
        end = "\n" if done == of else ""
        print(f"\rlooking at {done} of {of} new pictures", end=end, file=sys.stderr, flush=True)


def _print(found: "Prediction") -> None:
    from rich.table import Table

    from fewshot.cli.show import print_table
    from fewshot.own_pictures import pictures_per_class
    from fewshot.prediction import advice, mixed_up

    order = found.order()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, side in (("query", "left"), ("label", "left"), ("%", "right"), ("runner-up", "left"), ("%", "right")):
        table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
    for i in order[:SHOWN]:
        best = found.probabilities[i].topk(2).values * 100
        row = (str(found.query[i]), found.label(i), f"{best[0]:.0f}", found.runner_up(i), f"{best[1]:.0f}")
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    print_table(table)
    if len(order) > SHOWN:
        print(f"the {SHOWN} least certain of {len(order)}; out=FILE.csv has all")
    counts = pictures_per_class(found.support)
    low, high = min(counts.values()), max(counts.values())
    each = f"{low}" if low == high else f"{low} to {high}"
    print(f"\nlearned from {len(found.support.paths)} pictures of {len(counts)} classes, {each} each")
    for note in found.notes:
        print(note)
    if found.findings.accuracy:
        print(f"expected accuracy: {found.findings.accuracy}, each support picture judged by the others")
    if line := mixed_up(found.findings, found.support.names):
        print(line)
    print(advice(found.findings, found.support.names))
    if found.unknown is not None:
        print(f"unknown: {int(found.unknown.sum())} pictures, with less than {100 * (found.threshold or 0):.0f} %")
    if found.accuracy:
        print(f"true accuracy, by the folders of query: {found.accuracy}")


def _write_csv(found: "Prediction", path: Path) -> None:
    truth = ["true"] if found.truth else []
    with writing(path), path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "probability", "runner_up", *truth, *found.support.names])
        for i, query in enumerate(found.query):
            p = found.probabilities[i]
            true = [found.truth[i]] if found.truth else []
            numbers = [f"{v:.6f}" for v in p]
            rows.writerow([os.fspath(query), found.label(i), max(numbers), found.runner_up(i), *true, *numbers])
    print(f"{len(found.query)} rows in {path}")
