"""Words of the command line and values of Python as overrides in Hydra's grammar. Layer 6."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from fewshot.cli.values import TEXTS
from fewshot.cli.words import from_home
from fewshot.errors import InputError


def arguments(argv: Sequence[str]) -> tuple[list[str], list[str], str | None]:
    """Hydra's flags, which may stand among the overrides; the overrides, in its grammar; and `--config-dir`."""
    from hydra._internal.utils import get_args_parser

    dashed = [word for word in argv if re.match(r"--[\w./@]+=", word) and not word.startswith("--config-")]
    if dashed and dashed[0].split("=")[0] not in ("--cfg", "--info", "--package", "--experimental-rerun"):
        raise InputError(f"{dashed[0]}: write it without the dashes, {dashed[0].lstrip('-')}")

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; keys are set as KEY=VALUE, and fewshot train --hydra-help lists the flags")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    found = parser.parse_intermixed_args(argv)
    folder = [word for word in argv if word in ("--config-dir", "-cd") or word.startswith("--config-dir=")]
    ours = [*found.overrides, *folder, *([found.config_dir] if folder and "=" not in folder[0] else [])]
    return [word for word in argv if word not in ours], [quoted(word) for word in found.overrides], found.config_dir


def quoted(word: str) -> str:
    """Hydra's grammar knows ASCII words only: quote a plain value that it cannot read, such as `name=größe`, or that
    is a text and would become a number."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, sign, value = word.partition("=")
    mark = value[:1] if value[:1] in ("'", '"') else ""
    value = mark + from_home(value.removeprefix(mark))
    word = f"{key}={value}" if sign else word
    if not sign or not value or re.search(r"""[][{},'"$]""", value):
        return word
    try:
        read = OverridesParser.create().parse_override(word)
    except HydraException:
        return f"{key}='{value}'"
    other = not read.is_sweep_override() and isinstance(read.value(), int | float)  # 2024_01 is 202401, 1.10 is 1.1
    return f"{key}='{value}'" if other and key in TEXTS else word


def override(key: str, value: Any) -> str:
    """An override as Hydra reads it, whatever the value: None, a number, a text, a list or a dict."""
    return f"{key}={_literal(value)}"


def _literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_literal, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    text = str(value).replace("'", "\\'")
    return f"'{text}'"
