"""Hydra, called so that its errors come out as one line, and a job's result as an exit code. Layer 5."""

import os
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import fewshot
from fewshot.cli.errors import guarded
from fewshot.errors import FewshotError, InputError


def conf_dir() -> Path:
    """Where the YAML files are: inside an installed wheel, else at the top of the checkout."""
    package = Path(fewshot.__file__).resolve().parent
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FewshotError(f"no conf folder beside {package}; install fewshot again")


def run_hydra(config_name: str, argv: list[str], job: Callable[..., int]) -> int:
    """Compose `config_name` with the overrides in argv, check it, and call job(cfg); with -m, once per job.

    A job of a sweep that fails does not stop the others; the code returned is 0 only if all were.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us whole
    import hydra

    from fewshot.cli import schema
    from fewshot.cli.validate import explain, validate

    schema.register()
    codes: list[int] = []
    failures: list[BaseException] = []
    several = any(word in ("-m", "--multirun") for word in argv)

    def task(cfg: object) -> None:
        def checked() -> int:
            validate(cfg, config_name)  # type: ignore[arg-type]
            return job(cfg)

        try:
            codes.append(guarded(checked, debug=False) if several else checked())
        except BaseException as error:  # Hydra would print a line of its own
            failures.append(error)

    sys.argv = ["fewshot", *argv]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="hydra")
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(task)()
    except FewshotError:
        raise
    except Exception as error:
        message = explain(error, config_name, [word for word in argv if not word.startswith("-")])
        if message is None:
            raise
        raise InputError(message) from error
    if failures:
        raise failures[0]
    return max(codes, default=0)


def compose(config_name: str, overrides: Iterable[str]) -> object:
    """A configuration without running anything, for verbs that take words instead of overrides."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from fewshot.cli import schema
    from fewshot.cli.validate import explain, validate

    schema.register()
    words = list(overrides)
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = hydra_compose(config_name, words)
            validate(cfg, config_name, words)
            return cfg
    except FewshotError:
        raise
    except Exception as error:
        message = explain(error, config_name, words)
        if message is None:
            raise
        raise InputError(message) from error
