"""Errors that a user can mend: one line with what, the numbers, and the fix. Layer 0."""


class FewshotError(Exception):
    """A failure at run time that is reported in one line, without a trace (exit code 1)."""

    exit_code = 1


class InputError(FewshotError, ValueError):
    """Bad input or configuration (exit code 2)."""

    exit_code = 2
