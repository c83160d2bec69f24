"""The classes that a run is trained, validated and tested on: never the same ones, unless that is asked for. Layer 3.

They are compared by name, whatever their splits are called; a turned class is the class that it was turned from.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fewshot.datasets.base import ImageSet
from fewshot.errors import InputError, some
from fewshot.identity import computing, differing_keys
from fewshot.run_folder import RunFolder

Config = Mapping[str, Any]
_TURN = re.compile(r"@(0|90|180|270)$")  # see datasets.turned


class Overlap(NamedTuple):
    """Classes with two uses of which one should not have seen the other's."""

    text: str  # "2 of the 5 classes tested on (evaluation.test_split=test) were trained on by init=A"
    names: Sequence[str]


def trained_on(images: ImageSet, split: str, init: RunFolder | None) -> set[str]:
    """Names of the classes that a run's weights see: its own and those of the run that it starts from."""
    before = (init.classes or {}).get("train", ()) if init else ()
    return {*_names(images, split), *before}


def of_training(config: Config, images: ImageSet, init: RunFolder | None) -> dict[str, Any]:
    """What classes.json keeps of a training: names trained on (`train`) and validated on (`val`), the `split_hash`."""
    val = _names(images, config["evaluation"]["val_split"]) if _validates(config) else ()
    seen = trained_on(images, config["train_split"], init)
    return {"train": sorted(seen), "val": sorted(val), "split_hash": images.split_hash()}


def check_training(config: Config, images: ImageSet, init: RunFolder | None) -> str | None:
    """What a training's result has to say of classes with two uses. InputError unless `allow_overlap`."""
    split = config["train_split"]
    seen = {f"trained on (train_split={split})": trained_on(images, split, None)}
    if init is not None:
        _refuse_other_data(init, config)
        seen[f"trained on by init={init.path}"] = trained_on(images, split, init) - trained_on(images, split, None)
    return check_seen(seen, config, images)


def check_seen(seen: Mapping[str, Iterable[str]], config: Config, images: ImageSet) -> str | None:
    """`check_training` where others tell what was seen: "trained on by init=A" -> names of classes."""
    options = config["evaluation"]
    tested = {f"tested on (evaluation.test_split={options['test_split']})": _names(images, options["test_split"])}
    val = {f"validated on (evaluation.val_split={options['val_split']})": _names(images, options["val_split"])
           } if _validates(config) else {}  # fmt: skip
    return _allowed([*_overlaps(seen, val), *_overlaps({**seen, **val}, tested)], config)


def check_evaluation(config: Config, run: RunFolder, images: ImageSet, split: str) -> str | None:
    """What an evaluation's result has to say of classes with two uses. InputError unless `allow_overlap`.

    A run of version 0.1 did not keep its classes. To test on the run's own validation split is to ask for it.
    """
    if (before := run.classes) is None:
        return None
    own = run.config
    seen = {f"trained on by run={run.path}": before["train"]}
    if split != own["evaluation"]["val_split"]:
        seen[f"validated on by run={run.path}"] = before.get("val", ())
    found = list(_overlaps(seen, {f"tested on (split={split})": _names(images, split)}))
    same = computing({"dataset": config["dataset"]}) == computing({"dataset": own["dataset"]})
    if same and before.get("split_hash", images.split_hash()) != images.split_hash():
        found.append(Overlap(f"the splits of '{images.name}' are not those of the training "
                             f"(split_hash {before['split_hash']}, now {images.split_hash()})", ()))  # fmt: skip
    return _allowed(found, config)


def refuse_change(folder: RunFolder, now: Mapping[str, Any], config: Config, images: ImageSet) -> None:
    """InputError where a run that is resumed finds other classes in its splits than those that it began with."""
    before = folder.classes
    if before is None or all(before.get(key, now[key]) == now[key] for key in now):
        return
    tested = f"tested on (evaluation.test_split={config['evaluation']['test_split']})"
    leaks = _overlaps({"trained on so far": before["train"]},
                      {tested: _names(images, config["evaluation"]["test_split"])})  # fmt: skip
    found = "; ".join(overlap.text for overlap in leaks) or "its splits have other classes"
    raise InputError(
        f"{folder.path} was begun on other splits of '{images.name}': {found}; its load() must give the same splits "
        "every time; resume=false starts a new run"
    )


def _overlaps(seen: Mapping[str, Iterable[str]], used: Mapping[str, Iterable[str]]) -> Iterator[Overlap]:
    for use, names in used.items():
        own = _unturned(names)
        for earlier, others in seen.items():
            if common := sorted(own & _unturned(others)):
                yield Overlap(f"{len(common)} of the {len(own)} classes {use} were {earlier}", common)


def _allowed(found: Sequence[Overlap], config: Config) -> str | None:
    if found and not config["allow_overlap"]:
        said = "; ".join(f"{text}: {some(names)}" if names else text for text, names in found)
        raise InputError(f"{said}; choose other splits or another run, or allow_overlap=true, which the result says")
    return "; ".join(overlap.text for overlap in found) or None


def _refuse_other_data(init: RunFolder, config: Config) -> None:
    """For a run of version 0.1, which did not keep the names of its classes: the same data set, the same split."""
    if init.classes is not None or config["allow_overlap"]:
        return
    theirs = init.config
    if theirs["dataset"]["_target_"] != config["dataset"]["_target_"]:
        return
    own, other = ({key: c[key] for key in ("dataset", "train_split")} for c in (config, theirs))
    if keys := differing_keys(own, other):
        raise InputError(
            f"init={init.path} was trained on other classes, which may be in this run's test ({'; '.join(keys)}); "
            "use the same dataset and train_split"
        )


def _validates(config: Config) -> bool:
    return bool(config["trainer"].get("val_every", True))


def _names(images: ImageSet, split: str) -> set[str]:
    return {images.class_names[c] for c in images.split(split)}


def _unturned(names: Iterable[str]) -> set[str]:
    return {_TURN.sub("", name) for name in names}
