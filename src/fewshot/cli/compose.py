"""Calls Hydra so that its errors become one line, and a job's result an exit code. Layer 6."""

import contextlib
import io
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fewshot
from fewshot.cli.errors import guarded
from fewshot.cli.overrides import arguments, quoted
from fewshot.cli.words import from_home
from fewshot.engine import processes
from fewshot.errors import FewshotError, InputError

own_folder: Path | None = None  # `--config-dir`, absolute; hydra_plugins.fewshot_config_dir puts it before ours
STOPPED = (75, 130)  # exit codes of a job that a signal ended: the sweep ends with it


def conf_dir() -> Path:
    """Where the YAML files are: inside an installed wheel, else at the top of the checkout."""
    package = Path(fewshot.__file__).resolve().parent
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FewshotError(f"no conf folder beside {package}; install fewshot again")


class HydraJob:
    """What Hydra calls for each job. A launcher whose jobs are processes of their own reads `job`, fills `codes`."""

    def __init__(self, config_name: str, argv: Sequence[str], job: Callable[..., int], *, several: bool) -> None:
        self.config_name, self.argv, self.job, self.several = config_name, argv, job, several
        self.verb = job.__module__.rpartition(".")[2]
        self.codes: list[int] = []
        self.failures: list[BaseException] = []
        self.closing: list[Callable[[], None]] = []  # what prints something at the end of a sweep, however it ended

    def __call__(self, cfg: object) -> None:
        if self.several and set(STOPPED) & set(self.codes):
            return
        try:
            self.codes.append(guarded(lambda: self._checked(cfg), debug=False) if self.several else self._checked(cfg))
        except BaseException as error:  # Hydra would print a line of its own
            self.failures.append(error)

    def _checked(self, cfg: object) -> int:
        from fewshot.cli.validate import validate

        validate(cfg, self.config_name)  # type: ignore[arg-type]
        return self.job(cfg)

    def exit_code(self) -> int:
        """0 only if all jobs returned 0. Of a sweep: that of the signal that stopped it, otherwise 1."""
        if self.failures:
            raise self.failures[0]
        if self.several and any(self.codes):
            return next((code for code in self.codes if code in STOPPED), 1)
        return max(self.codes, default=0)


def run_hydra(config_name: str, argv: Sequence[str], job: Callable[..., int]) -> int:
    """Compose `config_name` with the overrides in argv, check it, and call job(cfg); with -m, once per job.

    A job of a sweep that fails does not stop the others; the code returned is 0 only if all jobs returned 0.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra passes exceptions on unchanged
    logging.raiseExceptions = False  # `--info | head`: not an error
    import hydra

    from fewshot.cli import schema
    from fewshot.cli.explain import explain

    schema.register()
    flags, overrides, config_dir = arguments(argv)
    search_first(config_dir)
    several = any(word in ("-m", "--multirun") for word in flags) or "hydra.mode=MULTIRUN" in overrides
    if not several and (odd := [word for word in overrides if word.startswith(("hydra.launcher.", "hydra.sweeper."))]):
        raise InputError(f"{odd[0]} is a sweep's, and this is one run; add -m, or leave it out")
    if several and processes.size() > 1:
        raise InputError(f"{processes.size()} processes for a sweep; torchrun starts one run, without -m")
    if several and not any(word.startswith("hydra.sweep.dir=") for word in overrides):
        overrides.append(f"hydra.sweep.dir='${{output_dir}}/sweeps/{sweep_folder_name(config_name, overrides)}'")
    task = HydraJob(config_name, argv, job, several=several)
    sys.argv = ["fewshot", *overrides, *flags]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="hydra")
            with _with_meanings(config_name) if {"-h", "--help"} & set(flags) else contextlib.nullcontext():
                hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(task)()
    except FewshotError:
        raise
    except Exception as error:
        with searching(config_dir):
            message = explain(error, config_name, overrides)
        if message is None:
            raise
        raise InputError(message) from error
    finally:
        for say in task.closing:
            say()
    return task.exit_code()


@contextlib.contextmanager
def _with_meanings(config_name: str) -> Iterator[None]:
    """What Hydra prints as help comes out with the meaning of each key."""
    from hydra.core.hydra_config import HydraConfig

    from fewshot.cli.help import UNBROKEN, annotated, meanings

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:  # Hydra exits where it has printed its help
        choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
        folders = [*([own_folder] if own_folder else []), conf_dir()]
        text, known = said.getvalue().rstrip("\n"), meanings(config_name, choices, folders)
        print(annotated(text, known, shutil.get_terminal_size().columns if sys.stdout.isatty() else UNBROKEN))


def sweep_folder_name(config_name: str, overrides: Sequence[str]) -> str:
    """`name` where the user has set it, else what the sweep's own overrides give: the same for the same command."""
    from fewshot.cli.job import sweep_name

    names = [word.split("=", 1)[1] for word in overrides if word.startswith("name=")]
    if names and "," not in names[-1] and names[-1] != "null":
        return "${name}"
    space = ("hydra/sweeper=", "hydra.sweeper.params")
    ours = [word for word in overrides if not word.startswith(("hydra.", "hydra/")) or word.startswith(space)]
    return sweep_name(config_name, ours)


def search_first(config_dir: str | None) -> None:
    """From here on Hydra looks into this folder of the user's before it looks into ours."""
    global own_folder
    config_dir = from_home(config_dir) if config_dir is not None else None
    if config_dir is not None and not Path(config_dir).is_dir():
        raise InputError(f"--config-dir {config_dir} is not a folder")
    own_folder = Path(config_dir).absolute() if config_dir is not None else None


def config_dir_of_job() -> str | None:
    """What `--config-dir` named for the job that runs now, wherever it runs."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else ()
    return next((str(source.path) for source in sources if source.provider == "command-line"), None)


class Composed(NamedTuple):
    """A configuration as it would be run."""

    config: dict[str, Any]  # resolved, as plain dicts and lists
    choices: dict[str, str | None]  # group -> name of the YAML file


def compose(config_name: str, overrides: Iterable[str], config_dir: str | None = None) -> Composed:
    """A configuration without running anything: for verbs that take words instead of overrides, and for Python.

    config_dir: a folder with YAML files of the user's own; within `searching` and inside a job it is theirs.
    """
    from hydra import compose as hydra_compose
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import open_dict

    from fewshot.cli import schema
    from fewshot.cli.explain import explain
    from fewshot.cli.job import plain
    from fewshot.cli.validate import validate

    schema.register()
    words = [quoted(word) for word in overrides]
    inside = GlobalHydra.instance().is_initialized()
    with contextlib.nullcontext() if inside else searching(config_dir):
        try:
            cfg = hydra_compose(config_name, words, return_hydra_config=True)
            choices = dict(cfg.hydra.runtime.choices)
            with open_dict(cfg):
                del cfg["hydra"]
            validate(cfg, config_name, words)
            return Composed(plain(cfg), choices)
        except FewshotError:
            raise
        except Exception as error:
            message = explain(error, config_name, words)
            if message is None:
                raise
            raise InputError(message) from error


@contextlib.contextmanager
def searching(config_dir: str | None) -> Iterator[None]:
    """Hydra initialised as `hydra.main` does it; what was there before (an application of the user's) comes back."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra

    version.setbase("1.3")
    search_first(config_dir)
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("fewshot", create_config_search_path(str(conf_dir())))
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before
