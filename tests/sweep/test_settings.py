"""The keys of launchers and of the search: the YAML files and the settings agree, and ranges are checked."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from fewshot.errors import InputError
from fewshot.sweep.settings import LocalSettings, RaySettings, SearchSettings, Settings, SlurmSettings, plain

CONF = Path(__file__).parents[2] / "conf" / "hydra"
FILES = {
    "launcher/local": LocalSettings,
    "launcher/slurm": SlurmSettings,
    "launcher/ray": RaySettings,
    "sweeper/optuna": SearchSettings,
}


def keys_of(file: str) -> dict[str, Any]:
    """What a YAML file sets, without what is Hydra's own."""
    node = OmegaConf.load(CONF / f"{file}.yaml")
    return {key: value for key, value in plain(node).items() if key not in ("defaults", "_target_")}


@pytest.mark.parametrize("file", FILES)
def test_the_yaml_has_the_keys_of_the_settings_and_its_defaults_are_in_range(file: str) -> None:
    settings, keys = FILES[file], keys_of(file)
    assert set(keys) == {key.name for key in fields(settings)} - {"_target_"}
    settings(**keys)


@pytest.mark.parametrize(
    ("file", "key"), [(file, key.name) for file, kind in FILES.items() for key in fields(kind) if key.metadata]
)
def test_a_number_below_its_least_is_refused(file: str, key: str) -> None:
    settings: type[Settings] = FILES[file]
    least = next(k.metadata["at_least"] for k in fields(settings) if k.name == key)
    with pytest.raises(InputError, match=rf"^hydra\.{settings.group}\.{key}={least - 1} is below {least}$"):
        settings(**keys_of(file) | {key: least - 1})


def test_an_objective_that_no_result_has_is_refused() -> None:
    """Otherwise all trials would be trained, and each would have failed."""
    with pytest.raises(InputError, match=r"hydra\.launcher\.objective=val\.acuracy is unknown; choose val\.accuracy, "):
        LocalSettings(**keys_of("launcher/local") | {"objective": "val.acuracy"})


def test_a_signal_before_the_start_is_refused() -> None:
    keys = keys_of("launcher/slurm")
    SlurmSettings(**keys | {"timeout_min": 2, "signal_delay_s": 119})
    with pytest.raises(InputError, match="signal_delay_s=120 is not below"):
        SlurmSettings(**keys | {"timeout_min": 2, "signal_delay_s": 120})


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(InputError, match="direction=up is unknown; choose maximize or minimize"):
        SearchSettings(**keys_of("sweeper/optuna") | {"direction": "up"})
