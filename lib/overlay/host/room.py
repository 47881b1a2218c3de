"""Room on file systems."""

from __future__ import annotations

import os


def free_bytes(place: int | str) -> int:
    """Return the bytes that an ordinary user can still take on a file system.

    place  an open descriptor, or a path, of anything there
    Raises OSError.
    """
    status = os.statvfs(place)
    return status.f_bavail * status.f_frsize
