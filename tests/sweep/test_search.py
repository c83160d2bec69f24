"""A search is tied to what it searches, and what has failed once is not run again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from fewshot.cli import schema
from fewshot.cli.compose import searching
from fewshot.errors import FewshotError, InputError
from fewshot.sweep.search import _open, best, search
from fewshot.sweep.settings import SearchSettings

SETTINGS = SearchSettings(trials=8, batch=2, direction="maximize", seed=0, params={})
SPACE = "shots=1,2,3"


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """searched(*words, **settings) -> the study, kept in memory, and the jobs that were launched; two shots fail."""
    optuna = pytest.importorskip("optuna", reason="the extra optuna is not installed")
    kept = optuna.create_study(direction="maximize")
    monkeypatch.setattr("fewshot.sweep.search._open", lambda folder, settings: kept)

    def run(*words: str, sweep: Sequence[str] = (SPACE,), **settings: Any) -> tuple[Any, list[list[str]]]:
        launched: list[list[str]] = []

        class Launcher:
            def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
                launched.extend(map(list, jobs))
                return [SimpleNamespace(return_value=float("nan") if "shots=2" in job else 50.0) for job in jobs]

        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", [*words, f"hydra.sweep.dir={tmp_path}"], RunMode.MULTIRUN)
        ours = [word for word in words if not word.startswith("hydra.")]
        found = search(replace(SETTINGS, **settings), [*ours, *sweep], config, Launcher(), loader)
        return found, launched

    schema.register()
    with searching(None):
        yield run


def test_what_failed_is_not_run_again(searched: Callable[..., Any]) -> None:
    study, jobs = searched()
    assert len(study.trials) == 8
    assert jobs.count(["shots=2"]) <= 2 and ["shots=1"] in jobs  # two at a time may draw it together
    assert all(trial.value is None for trial in study.trials if trial.params == {"shots": "2"})
    more, again = searched(trials=12)
    assert len(more.trials) == 12 and ["shots=2"] not in again
    assert best(more).startswith("best of 12 trials: 50.00 with shots=")


def test_a_database_that_cannot_be_written_any_more(
    searched: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna.exceptions import StorageInternalError

    def refuse(*_: Any, **__: Any) -> None:
        raise StorageInternalError

    study, _ = searched(trials=1)
    monkeypatch.setattr(study, "tell", refuse)
    with pytest.raises(FewshotError, match=r"cannot write .*/search\.db; .* the same command goes on"):
        searched(trials=2)


def test_what_cannot_be_searched_is_said_first(searched: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"objective=val\.accuracy, but trainer\.val_every=0 has no validation; set"):
        searched("trainer.val_every=0")
    odd = tmp_path / "what?" / "100%"
    _open(odd, SETTINGS)
    assert [file.name for file in odd.iterdir()] == ["search.db"]
    (odd / "search.db").write_text("no database")
    with pytest.raises(InputError, match=r"search\.db is damaged or cannot be written: .*; name=NEW starts another"):
        _open(odd, SETTINGS)


def test_another_search_under_the_same_name(searched: Callable[..., Any]) -> None:
    searched(trials=1)
    for words, settings, differing in (
        (["ways=3"], {}, "ways: 5 -> 3"),
        ([], {"sweep": ["shots=1,2"]}, "shots: 1,2,3 -> 1,2"),
        (
            ["hydra.launcher.objective=val.loss"],
            {"direction": "minimize"},
            "hydra.launcher.objective: val.accuracy -> val.loss; hydra.sweeper.direction: maximize -> minimize",
        ),
    ):
        with pytest.raises(InputError, match="holds another search") as refused:
            searched(*words, trials=1, **settings)
        assert differing in str(refused.value)
    searched("threads=1", trials=1)  # what changes no number does not count
