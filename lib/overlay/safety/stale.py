"""What killed runs have left, removed: unfinished files, and what they had on scratch."""

from __future__ import annotations

import contextlib
import os
import stat
import time

from overlay.host import private
from overlay.image import lock
from overlay.image.partial import PARTIAL, is_partial
from overlay.safety.replace import leads_to

_DAY = 86400  # seconds


def remove_stale(directory: str, scratch: str | None) -> None:
    """Remove what killed runs left in a directory and, unless it is None, in scratch.

    A partial image is stale when nobody holds its lock, and its process was one of this
    host or it is older than a day: locks alone may not reach from node to node.
    """
    here = os.uname().nodename
    try:
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        place = None
    if place is not None:
        try:
            for name in filter(is_partial, os.listdir(place)):
                with contextlib.suppress(OSError, lock.Busy):
                    _remove_if_stale(name, place, here)
        finally:
            os.close(place)
    if scratch is not None:
        private.remove_stale(scratch, here)
    private.remove_stale(directory, here)  # of updates that found no room elsewhere


def _remove_if_stale(name: str, directory: int, here: str) -> None:
    """Remove an unfinished file of ours that nobody writes any more. Raises OSError, Busy.

    Others may have made what has such a name: a FIFO is not waited for, a link not followed,
    a device not opened.
    """
    host, _dot, rest = name[len(PARTIAL) :].rpartition(".")
    pid = rest.partition("-")[0]
    if not _is_our_file(os.stat(name, dir_fd=directory, follow_symlinks=False)):
        return
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        age = time.time() - status.st_mtime
        if not _is_our_file(status) or not ((host == here and not _alive(pid)) or age > _DAY):
            return
        lock.take(descriptor, write=True)
        if leads_to(name, directory, descriptor):
            os.unlink(name, dir_fd=directory)
    finally:
        os.close(descriptor)


def _is_our_file(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _alive(pid: str) -> bool:
    """Return whether a process with this number, a string, exists on this host."""
    return os.path.exists(f"/proc/{pid}") if pid.isdecimal() else True
