"""What the published recipes really draw: no character of the test in training, in any rotation."""

import os
from pathlib import Path

import pytest
import torch

from fewshot import assemble
from fewshot.cli.compose import compose
from fewshot.datasets.omniglot import DRAWERS
from fewshot.sampler import EpisodeSampler, EpisodeStream, stream

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("FEWSHOT_DATA") or ROOT.parent / "shared" / "data")
RECIPES = sorted(str(f.relative_to(ROOT / "conf/experiment").with_suffix("")) for f in ROOT.glob("conf/experiment/*/*"))
CPU, DRAWINGS = torch.device("cpu"), 32460


def drawn(sampler: EpisodeSampler, episodes: int) -> set[int]:
    """Characters behind the images of the first episodes. The array holds all drawings once for each quarter turn."""
    rows = sampler.draw(0, episodes).rows
    return set((rows.flatten() % DRAWINGS // DRAWERS).tolist())


@pytest.mark.skipif(
    not (DATA / "omniglot-py").exists(), reason="Omniglot is not in FEWSHOT_DATA, nor in ../shared/data"
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_no_character_of_the_test_is_drawn_in_training(recipe: str) -> None:
    config = compose("config", [f"experiment={recipe}", f"data_dir={DATA}", "logger=console"]).config
    images = assemble.load_images(config)
    algorithm = assemble.make_algorithm(config, assemble.data_context(config, images), config["seed"])
    train_split = config["train_split"]
    batches = stream(algorithm.stream, images, train_split, seed=config["seed"], within_groups=False, device=CPU)
    assert isinstance(batches, EpisodeStream)
    train = drawn(batches.sampler, 2000)
    test, val = (drawn(assemble.episode_sampler(config, images, split, CPU), 1000) for split in ("test", "val"))
    assert len(train) == (
        1200 if train_split == "trainval" else 1028 if config["dataset"]["split"] == "vinyals" else 1100
    )
    assert len(test) == 423 and not test & train and not test & val
    assert train_split == "trainval" or not val & train
