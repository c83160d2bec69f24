"""The vocabulary in types."""

import dataclasses

import pytest
import torch

from fewshot.episode import Episode, Episodes, Minibatch, Minibatches


def test_an_episode_knows_its_ways_and_targets() -> None:
    y = torch.zeros(2, 15, dtype=torch.int64)
    query_y = torch.ones(2, 10, dtype=torch.int64)
    images = torch.zeros(2, 15, 1, 4, 4)
    episode = Episode(images, y, images[:, :10], query_y, torch.zeros(2, 5, dtype=torch.int64))
    assert type(episode.ways) is int  # never a tensor: that would wait for the GPU
    assert episode.ways == 5
    assert episode.targets is query_y


def test_a_minibatch_is_judged_by_its_labels() -> None:
    batch = Minibatch(torch.zeros(3, 1, 4, 4), torch.tensor([2, 0, 1]))
    assert batch.targets is batch.y


def test_streams_are_named_and_cannot_change() -> None:
    requested = Episodes(tasks=4, ways=5, shots=1, queries=15)
    assert dataclasses.asdict(requested) == {"tasks": 4, "ways": 5, "shots": 1, "queries": 15}
    with pytest.raises(dataclasses.FrozenInstanceError):
        requested.tasks = 8  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        Minibatches(128)  # type: ignore[misc]
