"""From exceptions to one line and an exit code. Layer 6."""

import os
import sys
import traceback
from collections.abc import Callable

from fewshot.engine import processes
from fewshot.errors import FewshotError


def guarded(run: Callable[[], int], *, debug: bool) -> int:
    """Run a verb; a user's mistake gives one line on stderr (with `debug` the trace above it), a bug its trace."""
    try:
        return run()
    except (FewshotError, KeyboardInterrupt) as error:
        code = getattr(error, "exit_code", 130)
        stopped = code in (75, 130)
        if not processes.speaks(failed=not stopped):
            return code
        if debug:
            traceback.print_exc()
        said = " ".join(str(error).split()) or "stopped"
        print(said if stopped else f"error: {said}", file=sys.stderr)
        return code
    except BrokenPipeError:  # the reader of our output has gone (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:  # a bug; of several processes that meet it one shows the trace
        if processes.speaks(failed=True):
            raise
        return 1


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch says it in two ways, Python in a third."""
    kind = type(error).__name__
    return (
        isinstance(error, MemoryError)
        or kind == "OutOfMemoryError"
        or ("allocate memory" in str(error) and isinstance(error, RuntimeError))
    )
