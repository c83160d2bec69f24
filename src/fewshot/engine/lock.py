"""A file that one process at a time holds; the system lets go of it when that process dies. Layer 0."""

import errno
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

_LOG = logging.getLogger("fewshot")
_TAKEN: list["BaseFileLock"] = []  # a lock that is not released ends with the process, not with the object
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some network file systems


def take(path: Path, *, wait: bool = False) -> "BaseFileLock | None":
    """Hold the file, made where it is not there; `release()` of what is returned lets go of it.

    wait: until whoever holds it lets go; else BlockingIOError. None, with a warning, where there are no locks.
    """
    from filelock import FileLock, Timeout  # late: 50 ms

    lock = FileLock(path, timeout=-1 if wait else 0, thread_local=False, mode=0o666)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lock.acquire()
    except Timeout as error:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path)) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _LOG.warning("%s cannot be locked (%s): use it from one process at a time", path.parent, error.strerror)
        return None
    _TAKEN.append(lock)
    return lock


def held(path: Path) -> bool:
    """Whether a living process holds the file."""
    if path.is_symlink() or not path.is_file():  # of a folder that somebody sent: it may lead anywhere
        return False
    try:
        lock = take(path)
    except BlockingIOError:
        return True
    except OSError:  # it cannot be opened: nobody writes there
        return False
    if lock is not None:
        lock.release()
    return False
