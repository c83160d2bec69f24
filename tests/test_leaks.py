"""No class is trained and tested on: as configurations say it, and in what the published recipes really draw."""

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from presets import PRESETS, preset
from toy_data import plain_result

from fewshot import assemble, leaks
from fewshot.construct import construct
from fewshot.datasets.base import ImageSet
from fewshot.errors import InputError
from fewshot.held_run import HeldRun
from fewshot.sampler import EpisodeSampler
from fewshot.streams import EpisodeStream, MinibatchStream, stream

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("FEWSHOT_DATA") or ROOT.parent / "shared" / "data")
CPU = torch.device("cpu")
SIZES = {"omniglot": {"train": (1028, 1100), "trainval": (1200,), "test": (423,)},
         "cifar_fs": {"train": (64,), "trainval": (80,), "test": (20,)},
         "fc100": {"train": (60,), "trainval": (80,), "test": (20,)},
         "mini_imagenet": {"train": (64,), "trainval": (80,), "test": (20,)}}  # fmt: skip


SPLITS = {"train": range(4), "val": range(4, 6), "test": range(6, 9), "all": range(9), "trainval": range(6)}


def asked(train: str = "train", val: str = "val", test: str = "test", **keys: Any) -> dict[str, Any]:
    """The part of a configuration that says which classes are used for what."""
    return {"train_split": train, "evaluation": {"val_split": val, "test_split": test}, "allow_overlap": False,
            "trainer": {"val_every": 1}, "dataset": {"_target_": "mine.Tiny"}, **keys}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "overlaps"),
    [
        (asked(), []),
        (asked("trainval", trainer={"val_every": 0}), []),
        (asked(test="train"), ["4 of the 4 classes tested on (evaluation.test_split=train) were trained on "]),
        (asked("all"), ["2 of the 2 classes validated on ", "3 of the 3 classes tested on (evaluation.test_split=test) "
                        "were trained on (train_split=all)"]),
        (asked("test", "test"), ["3 of the 3 classes validated on ", "3 of the 3 classes tested on (evaluation.test_"
                                 "split=test) were trained on", "3 of the 3 classes tested on (evaluation.test_split="
                                 "test) were validated on (evaluation.val_split=test)"]),
        (asked("trainval"), ["2 of the 2 classes validated on (evaluation.val_split=val) were trained on"]),
        (asked(val="test"), ["3 of the 3 classes tested on (evaluation.test_split=test) were validated on"]),
        (asked(val="all", trainer={"val_every": 0}), []),  # nothing is validated
    ],
)  # fmt: skip
def test_classes_have_one_use(make_images: Callable[..., ImageSet], config: Any, overlaps: list[str]) -> None:
    """Whatever the splits are called; what is allowed is said."""
    images = make_images([3] * 9, splits=SPLITS)
    if not overlaps:
        assert leaks.check_training(config, images, None) is None
        return
    with pytest.raises(InputError, match=re.escape(overlaps[0])) as refused:
        leaks.check_training(config, images, None)
    said = leaks.check_training(config | {"allow_overlap": True}, images, None) or ""
    for text in overlaps:
        assert text in said and text in str(refused.value)
    assert "; choose other splits or another run, or allow_overlap=true" in str(refused.value)


def test_classes_that_another_run_has_seen(make_images: Callable[..., ImageSet]) -> None:
    images = make_images([3] * 9, splits=SPLITS)
    for seen, message in (
        (["class8", "class6", "other"], "2 of the 3 classes tested on (evaluation.test_split=test) were trained on by "
                                        "init=A: class6, class8; choose"),
        (["class5"], "1 of the 2 classes validated on (evaluation.val_split=val) were trained on by init=A: class5;"),
        (["class5@90"], "1 of the 2 classes validated on"),  # a turned class is the same class
    ):  # fmt: skip
        with pytest.raises(InputError, match=re.escape(message)):
            leaks.check_seen({"trained on by init=A": seen}, asked(), images)
    assert leaks.trained_on(images, "train", None) == {f"class{c}" for c in range(4)}


def test_splits_that_change_from_load_to_load(make_images: Callable[..., ImageSet], tmp_path: Path) -> None:
    """Resuming and evaluating compare what the run began with; the classes that would leak are counted."""
    images, other = make_images([3] * 9, splits=SPLITS), make_images([3] * 9, splits=SPLITS | {
        "train": [3, 6, 7, 8], "test": range(3)})  # fmt: skip
    run = HeldRun.create(tmp_path, json.dumps(asked()), "identity")
    run.close()
    leaks.refuse_change(run, leaks.of_training(asked(), other, None), asked(), other)  # it has kept none yet
    assert leaks.check_evaluation(asked(), run, other, "test") is None  # a run of version 0.1
    run.keep_classes(leaks.of_training(asked(), images, None))
    leaks.refuse_change(run, leaks.of_training(asked(), images, None), asked(), images)
    with pytest.raises(InputError, match=r"was begun on other splits of 'tiny': 3 of the 3 classes tested on \(evalu"):
        leaks.refuse_change(run, leaks.of_training(asked(), other, None), asked(), other)

    assert leaks.check_evaluation(asked(), run, images, "test") is None
    assert leaks.check_evaluation(asked(), run, images, "val") is None  # named, it is asked for
    for split, found, count in (("train", images, 4), ("all", images, 4), ("test", other, 3)):
        with pytest.raises(InputError, match=rf"{count} of the \d classes tested on \(split={split}\) were trained"):
            leaks.check_evaluation(asked(), run, found, split)
    swapped = make_images([3] * 9, splits=SPLITS | {"val": range(6, 9), "test": range(4, 6)})
    allowed = leaks.check_evaluation(asked(allow_overlap=True), run, swapped, "test") or ""
    assert "2 of the 2 classes tested on (split=test) were validated on by run=" in allowed
    assert "the splits of 'tiny' are not those of the training (split_hash " in allowed
    (run.path / "result.json").write_text(json.dumps(plain_result(files={"classes.json": ""})))
    (run.path / "classes.json").unlink()  # which version 0.1 never had
    with pytest.raises(InputError, match=r"classes\.json is damaged: it is gone, and with it what the run was trained"):
        leaks.check_evaluation(asked(), run, images, "test")


def protocols(dataset: str) -> list[tuple[str, dict[str, Any]]]:
    """The distinct protocols of a data set's presets: one preset that draws so, and its configuration."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for recipe in (name for name in PRESETS if f"/{dataset}_" in name):
        composed = preset(recipe)
        assert composed.choices["dataset"] == dataset
        config = copy.deepcopy(composed.config)
        data = {key: value for key, value in config["dataset"].items() if not key.endswith("_dir")}
        sizes = [config[key] for key in ("ways", "shots", "queries", "train_split", "seed", "eval_seed")]
        found.setdefault(json.dumps([data, sizes, config["algorithm"]["stream"]], sort_keys=True), (recipe, config))
    return list(found.values())


def drawn(images: ImageSet, source: EpisodeSampler | MinibatchStream, episodes: int = 0) -> set[str]:
    """Names of the classes behind the images of the first episodes, or of an epoch, without their quarter turn."""
    if isinstance(source, MinibatchStream):
        rows = source._rows
    else:
        episode = source.draw(0, episodes)
        rows = torch.cat([episode.support.flatten(), episode.query.flatten()]).unique()
    classes = torch.searchsorted(images.offsets, rows, right=True) - 1
    return {images.class_names[c].split("@")[0] for c in classes.unique().tolist()}


def without_pixels(config: dict[str, Any]) -> ImageSet:
    """A data set that nobody may hand on: its classes and sizes, one grey pixel for all images."""
    dataset = construct(config["dataset"], "dataset")
    names = [name for listed in dataset.lists().values() for name in listed]
    places = iter(range(len(names)))
    splits = {split: [next(places) for _ in listed] for split, listed in dataset.lists().items()}
    return ImageSet(
        name=dataset.name, images=torch.zeros((), dtype=torch.uint8).expand(600 * len(names), 3, 84, 84),
        offsets=torch.arange(len(names) + 1) * 600, class_names=names, groups=[""] * len(names), splits=splits,
    )  # fmt: skip


@pytest.mark.parametrize("dataset", sorted(SIZES))
def test_no_class_of_the_test_is_drawn_in_training(dataset: str, request: pytest.FixtureRequest) -> None:
    if dataset == "omniglot" and not (DATA / "omniglot-py").exists():
        pytest.skip("Omniglot is not in FEWSHOT_DATA, nor in ../shared/data")
    data_dir = request.getfixturevalue("cifar100") if dataset in ("cifar_fs", "fc100") else str(DATA)
    for recipe, config in protocols(dataset):
        config["dataset"] |= {"data_dir": data_dir}
        images = without_pixels(config) if dataset == "mini_imagenet" else assemble.load_images(config)
        split, seed = config["train_split"], config["seed"]
        asked = construct(config["algorithm"]["stream"], "algorithm.stream")
        batches = stream(asked, images, split, seed=seed, within_groups=False, device=CPU)
        assert isinstance(batches, EpisodeStream | MinibatchStream)
        train = drawn(images, batches.sampler if isinstance(batches, EpisodeStream) else batches, 2000)
        test, val = (drawn(images, assemble.episode_sampler(config, images, s, CPU), 1000) for s in ("test", "val"))
        assert len(train) in SIZES[dataset][split] and len(test) in SIZES[dataset]["test"], recipe
        assert not test & train and not test & val, recipe
        assert split == "trainval" or not val & train, recipe


def test_the_presets_data_sets_are_all_looked_at() -> None:
    assert all(any(f"/{dataset}_" in name for dataset in SIZES) for name in PRESETS)
