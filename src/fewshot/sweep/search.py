"""A search with Optuna, in a database with which the same command continues. Layer 7; no torch.

hydra-optuna-sweeper 1.3.0 is not used: it needs Optuna 2, which loads no database with SQLAlchemy 2 (with 1.4 it
does), and when started again it adds `n_trials` new trials and forgets those that were running.
"""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict

from fewshot.cli.job import folder_of_sweep, plain
from fewshot.errors import FewshotError, InputError, first_line
from fewshot.identity import computing
from fewshot.sweep.settings import SearchSettings

if TYPE_CHECKING:
    from optuna import Study, Trial

BATCH = 4  # jobs at a time, where the launcher does not know


def search(
    settings: SearchSettings, overrides: Sequence[str], config: DictConfig, launcher: Launcher, loader: ConfigLoader
) -> "Study":  # fmt: skip
    """Trials until there are `settings.trials`: first those that an earlier start has left unfinished.

    overrides: those of the command line; what varies among them is added to `settings.params`.
    """
    words = [*(f"{key}={value}" for key, value in settings.params.items()), *overrides]
    parsed = {o.get_key_element(): o for o in OverridesParser.create(loader).parse_overrides(words)}
    space = {key: override for key, override in parsed.items() if override.is_sweep_override()}
    if not space:
        raise InputError("nothing to search: give a range, such as 'algorithm.inner_lr=tag(log, interval(0.01, 1))'")
    fixed = [f"{key}={o.get_value_element_as_str()}" for key, o in parsed.items() if key not in space]
    _refuse_without_validation(config)
    folder = folder_of_sweep(config.hydra)
    study = _open(folder, settings)
    _same_search(study, folder, {
        **_computed(config, fixed, loader, space),
        **{key: str(o.input_line).split("=", 1)[1] for key, o in space.items()},
        "hydra.launcher.objective": OmegaConf.select(config, "hydra.launcher.objective"),
        "hydra.sweeper.direction": settings.direction, "hydra.sweeper.seed": settings.seed,
    })  # fmt: skip
    if study.trials and (recall := getattr(launcher, "recall", None)):
        recall()
    batch = settings.batch or getattr(launcher, "slots", None) or BATCH
    with _writable(folder):
        while trials := _next(study, min(batch, settings.trials - _finished(study))):
            _work_off([(trial, _draw(study, trial, space, settings.seed)) for trial in trials], study, fixed, launcher)
    return study


def _refuse_without_validation(config: DictConfig) -> None:
    """InputError where the objective is of a validation and there is none: every trial would have failed."""
    objective = str(OmegaConf.select(config, "hydra.launcher.objective"))
    without = "an evaluation" if "run" in config else "" if config.trainer.val_every else "trainer.val_every=0"
    if objective.startswith("val.") and without:
        raise InputError(
            f"hydra.launcher.objective={objective}, but {without} has no validation; "
            + ("split=val hydra.launcher.objective=test.accuracy judges by that split" if "run" in config
               else "set trainer.val_every")
        )  # fmt: skip


def _work_off(
    drawn: Sequence[tuple["Trial", dict[str, str]]], study: "Study", fixed: Sequence[str], launcher: Launcher
) -> None:  # fmt: skip
    """Run the jobs of some trials, each with the values that it has drawn, but for values that have failed before."""
    failed = _failed(study)
    for trial, values in drawn:
        if values in failed:
            _tell(study, trial, math.nan)
    if left := [(trial, values) for trial, values in drawn if values not in failed]:
        jobs = [[*fixed, *(f"{key}={value}" for key, value in values.items())] for _, values in left]
        ended = launcher.launch(jobs, initial_job_idx=left[0][0].number)
        for (trial, _), done in zip(left, ended, strict=True):
            _tell(study, trial, float(done.return_value))


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """FewshotError where the database cannot be written any more: a full disk, a folder that has become read-only."""
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except StorageInternalError as error:
        raise FewshotError(
            f"cannot write {folder}/search.db; the results of its jobs are kept, and the same command goes on"
        ) from error


def _computed(
    config: DictConfig, fixed: Sequence[str], loader: ConfigLoader, space: Mapping[str, Override]
) -> dict[str, Any]:  # fmt: skip
    """What all trials have in common and their numbers depend on: path -> value."""
    cfg = loader.load_sweep_config(config, list(fixed)).copy()
    with open_dict(cfg):
        del cfg["hydra"]
    return {key: value for key, value in computing(plain(cfg)).items() if key not in space}


def _same_search(study: "Study", folder: Path, about: Mapping[str, Any]) -> None:
    """InputError where the folder's study is of another search: its trials tell nothing of this one."""
    before = study.user_attrs.get("about")
    if before is None:
        study.set_user_attr("about", dict(about))
        return
    keys = [key for key in {**before, **about} if before.get(key) != about.get(key)]
    if keys:
        differing = "; ".join(f"{key}: {before.get(key)} -> {about.get(key)}" for key in keys[:5])
        raise InputError(f"{folder} holds another search ({differing}); name=NEW starts one of its own")


def _open(folder: Path, settings: SearchSettings) -> "Study":
    try:
        import optuna
        from optuna.study import StudyDirection
    except ImportError as error:
        raise InputError("hydra/sweeper=optuna needs optuna, which is not installed: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file, direction = folder.resolve() / "search.db", StudyDirection[settings.direction.upper()]
    storage = _address(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return optuna.create_study(study_name="search", storage=storage, direction=direction, load_if_exists=True)
    except OSError as error:
        raise InputError(f"cannot write in {folder}: {error.strerror}; choose another output_dir") from error
    except Exception as error:  # of optuna, of SQLAlchemy or of SQLite
        raise InputError(
            f"{file} is damaged or cannot be written: {first_line(error)}; name=NEW starts another search"
        ) from error


def _address(file: Path) -> str:
    """A database as SQLAlchemy names it: some of its versions take `%3F` for the ? of a folder, others know no way."""
    from sqlalchemy import make_url

    for text in (str(file), quote(str(file))):
        if make_url(f"sqlite:///{text}").database == str(file):
            return f"sqlite:///{text}"
    raise InputError(f"no database can be kept in {file.parent}; use a name and an output_dir without ? and %")


def _next(study: "Study", number: int) -> list["Trial"]:
    """Trials that were running when the search ended, then new ones."""
    import optuna

    if number < 1:
        return []
    left = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])[:number]
    trials = [optuna.trial.Trial(study, trial._trial_id) for trial in left]
    return trials + [study.ask() for _ in range(number - len(trials))]


def _failed(study: "Study") -> list[dict[str, str]]:
    """The values of trials without a result: the same values again would fail again."""
    import optuna

    trials = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.FAIL])
    return [{key: written(value) for key, value in trial.params.items()} for trial in trials]


def _finished(study: "Study") -> int:
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def _draw(study: "Study", trial: "Trial", space: Mapping[str, Override], seed: int) -> dict[str, str]:
    """A value for each key, as text for the job's overrides.

    Trial k has a generator of its own, so that a search that was stopped draws the same values as one that was not. A
    trial keeps the values that it has drawn before.
    """
    import optuna

    own = int(hashlib.sha256(f"{seed} {trial.number}".encode()).hexdigest()[:8], 16)
    study.sampler = optuna.samplers.TPESampler(seed=own, constant_liar=True)
    return {key: written(_suggest(trial, key, override)) for key, override in space.items()}


def written(value: Any) -> str:
    """A value as text; numbers with four digits, which are enough for a rate and can be read and typed again."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _suggest(trial: "Trial", key: str, override: Override) -> Any:
    swept = override.value()
    if not isinstance(swept, IntervalSweep):  # a choice or a range: its values as they are written
        return trial.suggest_categorical(key, list(override.sweep_string_iterator()))
    low, high = swept.start, swept.end
    assert low is not None and high is not None
    log = "log" in swept.tags
    if high < low or (log and low <= 0):
        above = " above 0" if log else ""
        raise InputError(f"{override.input_line}: give interval(LOW, HIGH) with LOW < HIGH{above}")
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=log)
    return trial.suggest_float(key, low, high, log=log)


def _tell(study: "Study", trial: "Trial", value: float) -> None:
    """A trial without a result has failed; the search continues without it."""
    import optuna

    if math.isnan(value):
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, value)


def best(study: "Study") -> str:
    """The best trial, in one line."""
    import optuna

    trials = study.get_trials(deepcopy=False)
    if not any(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials):
        return f"none of {len(trials)} trials has a result"
    found = study.best_trial
    drawn = " ".join(f"{key}={written(value)}" for key, value in found.params.items())
    return f"best of {len(trials)} trials: {found.value:.2f} with {drawn}"
