"""What the published recipes really draw: no class of the test in training, and no turned one."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot import assemble
from fewshot.cli.compose import compose
from fewshot.construct import construct
from fewshot.datasets.base import ImageSet
from fewshot.sampler import EpisodeSampler, EpisodeStream, MinibatchStream, stream

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("FEWSHOT_DATA") or ROOT.parent / "shared" / "data")
RECIPES = sorted(str(f.relative_to(ROOT / "conf/experiment").with_suffix("")) for f in ROOT.glob("conf/experiment/*/*"))
CPU = torch.device("cpu")
SIZES = {"omniglot": {"train": (1028, 1100), "trainval": (1200,), "test": (423,)},
         "cifar_fs": {"train": (64,), "trainval": (80,), "test": (20,)}}  # fmt: skip


@functools.cache
def protocols() -> dict[str, dict[str, tuple[str, dict[str, Any]]]]:
    """By data set, the distinct protocols of the presets: what is drawn, and one preset that draws it."""
    found: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {}
    for recipe in RECIPES:
        composed = compose("config", [f"experiment={recipe}", "logger=console"])
        config = composed.config
        data = {key: value for key, value in config["dataset"].items() if not key.endswith("_dir")}
        sizes = [config[key] for key in ("ways", "shots", "queries", "train_split", "seed", "eval_seed")]
        key = json.dumps([data, sizes, config["algorithm"]["stream"]], sort_keys=True)
        found.setdefault(composed.choices["dataset"], {}).setdefault(key, (recipe, config))
    return found


def drawn(images: ImageSet, source: EpisodeSampler | MinibatchStream, episodes: int = 0) -> set[str]:
    """Names of the classes behind the images of the first episodes, or of an epoch, without their quarter turn."""
    if isinstance(source, MinibatchStream):
        rows = source._rows
    else:
        episode = source.draw(0, episodes)
        rows = torch.cat([episode.support.flatten(), episode.query.flatten()]).unique()
    classes = torch.searchsorted(images.offsets, rows, right=True) - 1
    return {images.class_names[c].split("@")[0] for c in classes.unique().tolist()}


@pytest.mark.parametrize("dataset", sorted(SIZES))
def test_no_class_of_the_test_is_drawn_in_training(dataset: str, request: pytest.FixtureRequest) -> None:
    if dataset == "omniglot" and not (DATA / "omniglot-py").exists():
        pytest.skip("Omniglot is not in FEWSHOT_DATA, nor in ../shared/data")
    data_dir = str(DATA) if dataset == "omniglot" else request.getfixturevalue("cifar100")
    for recipe, config in protocols()[dataset].values():
        config["dataset"] |= {"data_dir": data_dir}
        images = assemble.load_images(config)
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
    assert set(protocols()) == set(SIZES)
