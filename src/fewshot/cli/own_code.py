"""An error that came up in code of the user's own, in one line: which method, which line of which file. Layer 6."""

import functools
import sysconfig
import traceback
from pathlib import Path
from types import FrameType

import fewshot
from fewshot.errors import first_line


def fault(error: BaseException) -> str | None:
    """`Net.forward (net.py, line 12: return self.net(x)) raised RuntimeError: ...`, or None.

    The last frame of the user's own is named, whatever it called in fewshot, torch or Python itself. The first two
    are whoever catches the error and the verb that it called.
    """
    own = [(frame, line) for frame, line in list(traceback.walk_tb(error.__traceback__))[2:] if _is_own(frame)]
    if not own:
        return None
    frame, number = own[-1]
    code = frame.f_code
    (summary,) = traceback.StackSummary.extract([(frame, number)], lookup_lines=True)
    said = str(error).strip() and f": {first_line(error)}"
    where = f"{_short(Path(code.co_filename))}, line {number}: {summary.line}"
    return f"{code.co_qualname} ({where}) raised {type(error).__name__}{said}; --debug shows the trace"


def _is_own(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return not name.startswith("<") and not any(Path(name).is_relative_to(place) for place in _installed())


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Where code lies that is not the user's: fewshot, what is installed, Python itself."""
    package = Path(fewshot.__file__).parent
    places = [package, package.parent / "hydra_plugins", *map(Path, sysconfig.get_paths().values())]
    places = [place for place in places if place != place.parent]
    return tuple({place for given in places for place in (given, given.resolve())})


def _short(path: Path) -> str:
    """Relative to the working directory, where it is below that."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
