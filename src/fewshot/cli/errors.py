"""From exceptions to one line and an exit code. Layer 5."""

import os
import sys
from collections.abc import Callable

from fewshot.errors import FewshotError

MEMORY_ADVICE = "out of memory ({what}); lower one of: {settings}"


def guarded(run: Callable[[], int], *, debug: bool) -> int:
    """Run a verb; a user's mistake gives one line on stderr, a bug its trace."""
    try:
        return run()
    except FewshotError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch says it in two ways, Python in a third."""
    kind = type(error).__name__
    return (
        isinstance(error, MemoryError)
        or kind == "OutOfMemoryError"
        or ("allocate memory" in str(error) and isinstance(error, RuntimeError))
    )
