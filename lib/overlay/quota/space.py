"""What the file system itself says: free space, and the size of a directory that has one."""

from __future__ import annotations

import os

from overlay.errors import quote
from overlay.quota.limits import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.quota.limits import Place, Side


def limits(place: Place) -> list[Limits]:
    """Return what statvfs tells: a quota of the directory, and free space and inodes.

    A directory with a project quota, or a file set, shows its own size there, which is
    less than that of the mount point.
    """
    here = os.statvfs(place.directory)
    try:
        whole = os.statvfs(place.mount.point)
    except OSError:
        whole = here
    found = []
    if _is_less(here.f_blocks, whole.f_blocks) or _is_less(here.f_files, whole.f_files):
        name = f"the quota of {quote(place.directory)}"
        found.append(Limits("project", "statvfs", name, *_of_statvfs(here)))
        here = whole
    if here.f_blocks:
        name = f"the file system {quote(place.mount.point)}"
        found.append(Limits("space", "statvfs", name, *_of_statvfs(here)))
    return found


def _is_less(part: int, whole: int) -> bool:
    """Return whether a size is really less: that of XFS and ZFS changes all the time."""
    return 0 < part * 100 < whole * 99


def _of_statvfs(room: os.statvfs_result) -> tuple[Side, Side]:
    """Return (used, soft, hard) in bytes and files: what is kept for root is not there."""
    used = (room.f_blocks - room.f_bfree) * room.f_frsize
    used_files = room.f_files - room.f_ffree
    return (
        (used, None, used + room.f_bavail * room.f_frsize),
        (used_files, None, used_files + room.f_favail if room.f_files else None),
    )
