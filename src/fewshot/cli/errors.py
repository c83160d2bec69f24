"""From exceptions to one line and an exit code. Layer 6."""

import errno
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable
from typing import NoReturn

from fewshot.engine import processes
from fewshot.errors import FewshotError, InputError, first_line
from fewshot.printable import printable

FULL = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)  # a disk that takes no more


def guarded(run: Callable[[], int], *, debug: bool) -> int:
    """Run a verb; a user's mistake gives one line on stderr (with `debug` the trace above it), a bug its trace."""
    try:
        return _explained(run)
    except (FewshotError, KeyboardInterrupt) as error:
        code = getattr(error, "exit_code", 130)
        stopped = code in (75, 130)
        if not processes.reports_end(failed=not stopped):
            return code
        if debug:
            traceback.print_exc()
        said = printable(" ".join(str(error).split())) or "stopped"
        print(_fitting(said if stopped else f"error: {said}"), file=sys.stderr)
        return code
    except BrokenPipeError:  # nobody reads our output any more (`| head`)
        _discard_output()
        return 1
    except OSError as error:
        if error.filename is not None or error.errno not in FULL:
            raise
        return _unwritten(error)
    except Exception:  # a bug; of several processes in which it occurs, one shows the trace
        if processes.reports_end(failed=True):
            raise
        return 1


def _fitting(line: str) -> str:
    """A line for stderr: in a terminal broken between words, elsewhere one line."""
    if not sys.stderr.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


def _explained(run: Callable[[], int]) -> int:
    """What `run` returns; an error of the user's code, of rights or of memory as an error for the user."""
    try:
        return run()
    except (FewshotError, BrokenPipeError):
        raise
    except (Exception, SystemExit) as error:
        from fewshot.cli import own_code

        if is_out_of_memory(error):
            raise FewshotError(
                f"out of memory ({first_line(error)}); lower evaluation.tasks, or set device=cpu"
            ) from error
        if line := own_code.fault(error):
            raise InputError(line) from error
        if isinstance(error, OSError) and error.filename is not None:
            raise _of_a_file(error) from error
        raise


def _of_a_file(error: OSError) -> FewshotError:
    """What the system refuses to do with a file: the disk's fault, or that of whoever named the file."""
    said = f"{error.filename}: {error.strerror}"
    if error.errno in FULL:
        return FewshotError(f"{said}; make room there, and the same command goes on")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return FewshotError(f"{said}; allow more (`ulimit -n`), and the same command goes on")
    fix = "change its rights, or its folder's" if isinstance(error, PermissionError) else "name another file or folder"
    return InputError(f"{said}; {fix}")


def finish(code: int) -> NoReturn:
    """End the process with this code; with 1 where what it printed could not be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        code = code or 1
    except OSError as error:
        code = code or _unwritten(error)
    sys.exit(code)


def _unwritten(error: OSError) -> int:
    """Output that could not be written, to a full disk for example: one line, and exit code 1."""
    _discard_output()
    print(f"error: cannot write to standard output: {error.strerror}", file=sys.stderr)
    return 1


def _discard_output() -> None:
    """Discard what is still to be printed: Python would complain about it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch raises it in two ways, Python in a third."""
    kind = type(error).__name__
    return (
        isinstance(error, MemoryError)
        or kind == "OutOfMemoryError"
        or ("allocate memory" in str(error) and isinstance(error, RuntimeError))
    )
