"""Limits of directories of CephFS, from their extended attributes."""

from __future__ import annotations

import os

from overlay.errors import quote
from overlay.quota.limits import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.quota.limits import Place


def limits(place: Place) -> list[Limits]:
    """Read the quotas of the directory and of those above it, as far as they are mounted.

    ceph.quota.max_bytes and .max_files of a directory, and what is below it in all, as
    text; they are not listed, but can be asked for.
    """
    found = []
    directory = place.directory
    while True:
        keys = ("dir.rbytes", "quota.max_bytes", "dir.rentries", "quota.max_files")
        used, limit, used_files, limit_files = (_attribute(directory, key) for key in keys)
        if limit or limit_files:
            name = f"the quota of {quote(directory)}"
            sides = (used, None, limit), (used_files, None, limit_files)
            found.append(Limits("tree", "ceph", name, *sides))
        if directory in (place.mount.point, "/"):
            return found
        directory = os.path.dirname(directory)


def _attribute(directory: str, key: str) -> int | None:
    try:
        return int(os.getxattr(directory, f"ceph.{key}").partition(b".")[0])
    except (OSError, ValueError):
        return None
