"""Rights as an ordinary user has them: root, who runs some tests, may read everything."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def ordinary_user(folder: Path) -> Iterator[None]:
    """Within it `chmod` counts below `folder`, which can be listed, for root as well."""
    if os.geteuid():
        yield
        return
    modes = {path: path.stat().st_mode for path in (folder, *folder.parents)}
    closed = {path: mode for path, mode in modes.items() if not mode & 1}
    for path, mode in closed.items():
        path.chmod(mode | 0o55)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in closed.items():
            path.chmod(mode)
