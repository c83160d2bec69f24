"""Errors that a user can mend: one line with what, the numbers, and the fix. Layer 0."""

from collections.abc import Sequence


class FewshotError(Exception):
    """A failure at run time that is reported in one line, without a trace (exit code 1)."""

    exit_code = 1


class InputError(FewshotError, ValueError):
    """Bad input or configuration (exit code 2)."""

    exit_code = 2


def check_choice(key: str, value: object, choices: Sequence[object]) -> None:
    """InputError unless the option `key` (as it is written on the command line) is one of `choices`."""
    if value not in choices:
        *rest, last = map(str, choices)
        raise InputError(f"{key}={value} is unknown; choose {' or '.join([', '.join(rest), last] if rest else [last])}")


def check_least(group: str, least: float, **options: float | None) -> None:
    """InputError for the first of these options of a group that is below `least`; None is not checked."""
    for key, value in options.items():
        if value is not None and not value >= least:
            raise InputError(f"{group}.{key}={value} is below {least}")


def check_above(group: str, limit: float, **options: float | None) -> None:
    """InputError for the first of these options of a group that is not above `limit`; None is not checked."""
    for key, value in options.items():
        if value is not None and not value > limit:
            raise InputError(f"{group}.{key}={value} is not above {limit}")


def check_share(group: str, **options: float) -> None:
    """InputError for the first of these options of a group that is not in [0, 1)."""
    for key, value in options.items():
        if not 0 <= value < 1:
            raise InputError(f"{group}.{key}={value} is not in [0, 1)")


def first_line(error: BaseException) -> str:
    """What an error says, in one line; the name of its kind where it says nothing."""
    return " ".join(str(error).strip().split("\n")[0].split()) or type(error).__name__


def some(names: Sequence[object], most: int = 3) -> str:
    """The first few of them, and how many there are beside."""
    more = len(names) - most
    return ", ".join(map(str, names[:most])) + (f" and {more} more" if more > 0 else "")
