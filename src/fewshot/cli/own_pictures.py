"""What predict and export have in common: KEY=VALUE words, and the method that they choose. Layer 6."""

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot.cli.words import from_home
from fewshot.errors import InputError, check_choice

if TYPE_CHECKING:
    from fewshot.own_pictures.features import FeatureCache

SHARED: dict[str, Any] = {
    "support": None, "run": None, "checkpoint": None, "trust": "false", "backbone": None, "head": None,
    "adapt": "head", "unreadable": "error", "device": "auto", "cache_dir": None, "threads": None,
}  # fmt: skip
OF_BOTH = """  support=DIR      a folder with a folder of pictures for each class
  run=RUN          a run folder: its algorithm adapts to the support pictures; also checkpoint=, algorithm.KEY=VALUE
  trust=true       follow whatever code a run names that was not trained here, see docs/security.md
  backbone=NAME    without a run: a pre-trained network (default efficientnet_lite0); its keys: backbone.KEY=VALUE
  head=NAME        without a run, what learns from the network's features: ridge | logistic | cosine | cl2n
  adapt=head       without a run: head | all; all fine-tunes the last layers of the network, too, which takes minutes
  unreadable=skip  leave unreadable files out, where the first of them is an error otherwise
  device=auto      auto | cpu | cuda | cuda:<index>
  cache_dir=DIR    where features are kept: the same pictures take no time when they come again
  threads=N        processor cores to use; all, where it is not set
  --config-dir DIR YAML files of your own networks, as for train
"""


class Words:
    """The words behind a verb, read. keys: the verb's own, with their defaults, beside those in `SHARED`; needed: keys
    that must be there, and what each is like.

    InputError for a word that is no KEY=VALUE of the verb, and for values that cannot be meant.
    """

    def __init__(self, verb: str, argv: Sequence[str], keys: Mapping[str, Any], needed: Mapping[str, str]) -> None:
        self.needed = needed
        self.keys: dict[str, Any] = {**SHARED, **keys}
        self.config_dir: str | None = None
        self.deeper: list[str] = []  # backbone.KEY=VALUE, algorithm.KEY=VALUE
        words = iter(argv)
        for word in words:
            key, sign, value = word.partition("=")
            if key == "--config-dir":
                self.config_dir = value or next(words, None)
                if not self.config_dir:
                    raise InputError("--config-dir needs a folder with YAML files of your own")
            elif key.startswith(("backbone.", "algorithm.")) and sign:
                self.deeper.append(word)
            elif sign and key in self.keys:
                self.keys[key] = from_home(value.strip("'\""))
                if not self.keys[key]:
                    raise InputError(f"{key} is empty; give it a value, or leave {key} out")
            else:
                near = difflib.get_close_matches(key, self.keys, n=1)
                hint = f"did you mean {near[0]}?" if near else f"keys are: {', '.join(self.keys)}"
                raise InputError(f"'{word}' is no KEY=VALUE of {verb}; {hint}")
        self._check(verb)

    def _check(self, verb: str) -> None:
        keys = self.keys
        for needed, like in self.needed.items():
            if not keys[needed]:
                raise InputError(f"{verb} needs {needed}={like}; see fewshot {verb} --help")
        check_choice("unreadable", keys["unreadable"], ("error", "skip"))
        for key, kind, like in (("unknown", float, "a number such as 0.05"), ("threads", int, "a whole number")):
            try:
                keys[key] = None if keys.get(key) is None else kind(keys[key])
            except ValueError as error:
                raise InputError(f"{key}={keys[key]} is not {like}") from error
        if keys["threads"] is not None and keys["threads"] < 1:
            raise InputError(f"threads={keys['threads']} is below 1; leave it out for all cores")
        check_choice("adapt", keys["adapt"], ("head", "all"))
        if keys["run"] and keys["adapt"] == "all":
            raise InputError(f"adapt=all has no meaning here: run={keys['run']} adapts as it has learned; leave it out")
        other, own = ("backbone", ("head", "backbone")) if keys["run"] else ("algorithm", ("checkpoint",))
        wrong = [f"{k}={keys[k]}" for k in own if keys[k]] + [w for w in self.deeper if w.startswith(f"{other}.")]
        if wrong:
            why = f"run={keys['run']} has its own network" if keys["run"] else "it needs run=RUN"
            raise InputError(f"{wrong[0]} has no meaning here: {why}; leave it out")
        if not Path(keys["support"]).is_dir():  # before torch is imported
            raise InputError(f"support={keys['support']} is not a folder")


def feature_cache(words: Words) -> "FeatureCache":
    """The chosen method behind its cache."""
    return _of_run(words) if words.keys["run"] else _pretrained(words)


def _of_run(words: Words) -> "FeatureCache":
    from fewshot.cli.compose import compose
    from fewshot.cli.evaluate import offer_run
    from fewshot.cli.overrides import override
    from fewshot.own_pictures.adapted import Adapted
    from fewshot.own_pictures.features import FeatureCache
    from fewshot.run_folder import RunFolder
    from fewshot.trained import restore

    keys = words.keys
    run = [override("run", keys["run"]), f"trust={keys['trust']}"]
    offer_run(run)
    config = compose("evaluate", [*run, *words.deeper], words.config_dir).config
    _use_machine(keys)
    folder = RunFolder(Path(keys["run"]))
    trained = restore(folder, keys["checkpoint"], config, trust=config["trust"])
    method = Adapted(trained, device=keys["device"])
    key = {"weights": folder.weights(trained.which), "context": trained.context, "backbone": config["backbone"]}
    return FeatureCache(Path(keys["cache_dir"] or config["cache_dir"]), {**key, "fixed": method.fixed}, method)


def _pretrained(words: Words) -> "FeatureCache":
    """The network's weights are named by what its configuration says, or by a file's content."""
    import hashlib

    from fewshot.cli.compose import compose
    from fewshot.own_pictures.features import FeatureCache
    from fewshot.own_pictures.heads import HEADS
    from fewshot.own_pictures.with_head import WithHead

    keys = words.keys
    name = keys["backbone"] or "efficientnet_lite0"
    config = compose("config", [f"backbone={name}", *words.deeper], words.config_dir).config
    node = config["backbone"]

    def make() -> Any:
        from fewshot.assemble import make_backbone

        _use_machine(keys)
        network = make_backbone(config, {"image_shape": [3, 224, 224]}, seed=0)
        if not hasattr(network, "input"):
            raise InputError(
                f"backbone={name} is not pre-trained; choose efficientnet_lite0, or timm and backbone.model"
            )
        return network

    weights = Path(str(node.get("weights")))
    key = dict(node) | ({"sha256": hashlib.sha256(weights.read_bytes()).hexdigest()} if weights.is_file() else {})
    cache_dir = Path(keys["cache_dir"] or config["cache_dir"])
    method = WithHead(make, head=keys["head"] or HEADS[0], device=keys["device"])
    if keys["adapt"] == "head":
        return FeatureCache(cache_dir, key, method)
    from fewshot.own_pictures.fine_tuned import FineTuned

    return FeatureCache(cache_dir, {**key, "adapt": "all"}, FineTuned(method, progress=fits))


def _use_machine(keys: Mapping[str, Any]) -> None:
    from fewshot.engine import runtime

    runtime.keep_freed_memory()
    runtime.set_threads(keys["threads"])


def progress(done: int, of: int) -> None:
    """One line that counts, in a terminal."""
    if sys.stderr.isatty():
        end = "\n" if done == of else ""
        print(f"\rlooking at {done} of {of} new pictures", end=end, file=sys.stderr, flush=True)


def fits(done: int, of: int) -> None:
    """How often the network is fine-tuned, and in a terminal a line that counts."""
    if not done:
        without = f": {of - 1} without a part of the pictures, for the expected accuracy, and one with all" * (of > 1)
        print(f"adapt=all takes {of} fit{'s' * (of > 1)}{without}", flush=True)
    if sys.stderr.isatty():
        print(f"\r{done} of {of} fits done", end="\n" if done == of else "", file=sys.stderr, flush=True)
