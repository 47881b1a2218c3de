"""Files in the user's directory on scratch that no session uses any more."""

from __future__ import annotations

import os
import stat
import time

from overlay.host import private
from overlay.image import lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_UNUSED = 86400  # seconds after which what a killed session left on scratch is removed


def remove_unused(
    directory: str,
    *,
    prefix: str = "",
    older: float = _UNUSED,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """Remove files that no session uses from a directory, the longest unused first.

    prefix  how their names begin
    older   seconds since they were last used
    enough  asked after each whether this will do
    The caller holds the lock on the directory.
    """
    found = []
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name.startswith(prefix) and name != private.LOCK:
            try:
                status = os.lstat(path)
            except OSError:
                continue  # its session has just removed it
            if stat.S_ISREG(status.st_mode):
                found.append((max(status.st_atime, status.st_mtime), path))
    for used, path in sorted(found):
        if used > time.time() - older or enough():
            return
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            lock.take(descriptor, write=True)
            lock.take_engine(descriptor)
            os.unlink(path)
        except (OSError, lock.Busy):
            continue
        finally:
            os.close(descriptor)
