"""Configurations of one Hydra, which reads each YAML file once for all tests of a process."""

import functools
from collections.abc import Iterable

import pytest
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra

from fewshot.cli import compose as ours


@functools.cache
def _hydra() -> Hydra:
    with ours.searching(None):
        found = GlobalHydra.instance().hydra
    assert found is not None
    return found


def compose(config_name: str, overrides: Iterable[str]) -> ours.Composed:
    """As `fewshot.cli.compose.compose`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GlobalHydra.instance(), "hydra", _hydra())
        return ours.compose(config_name, overrides)
