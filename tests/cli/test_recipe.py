"""What a run of a preset may have otherwise, and still be judged."""

from fewshot.cli.compose import compose
from fewshot.cli.recipe import departures


def test_seeds_and_the_place_of_files_are_free_and_steps_are_not() -> None:
    words = ["experiment=rfs/mini_imagenet_conv4", "dataset.root=/somewhere", "seed=3", "trainer.steps=12"]
    assert departures(*compose("config", words)) == ["trainer.steps: 60000 -> 12"]
