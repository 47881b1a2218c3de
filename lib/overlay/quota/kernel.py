"""Quotas of local file systems, from the kernel: quotactl(2)."""

from __future__ import annotations

import errno
import os
import struct
import time

from overlay.host import process
from overlay.quota.limits import Limits, owner_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.quota.limits import Place, Side

_GETQUOTA = 0x800007  # Q_GETQUOTA, linux/quota.h
_TYPES = {"user": 0, "group": 1}  # USRQUOTA, GRPQUOTA; projects are answered to root alone
_QUOTACTL_FD = 443  # the system call's number, the same on all architectures of our day

# There are no quotas here, none of this type, or none for this user.
_NO_QUOTA = (
    errno.ENOSYS,
    errno.ESRCH,
    errno.EINVAL,
    errno.ENOENT,
    errno.ENODEV,
    errno.ENOTBLK,
    errno.ENXIO,
    errno.EOPNOTSUPP,
)


def limits(place: Place) -> list[Limits]:
    """Ask the kernel by quotactl(2), or quota(1) where it may not be asked so."""
    found: list[Limits] = []
    for kind, owner in (("user", place.user), ("group", place.group)):
        try:
            answer = _quotactl(place, kind, owner)
        except (ImportError, OSError):
            if not process.which("quota", place.environ):
                return found
            from overlay.quota import nfs

            return nfs.limits(place)
        if answer:
            found.append(Limits(kind, "quotactl", owner_names(place)[kind], *answer))
    return found


def _quotactl(place: Place, kind: str, owner: int) -> tuple[Side, Side] | None:
    """Return (used, soft, hard) in bytes and in files of a user or group, or None.

    struct if_dqblk of linux/quota.h, as quotactl(2) has it: limits in KiB, used space in
    bytes, end of grace in seconds since the epoch. Ordinary users may ask for themselves
    and their groups. Raises OSError and ImportError.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    command = ctypes.c_int(_GETQUOTA << 8 | _TYPES[kind])
    buffer = ctypes.create_string_buffer(72)
    descriptor = os.open(place.directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        failed = libc.syscall(_QUOTACTL_FD, descriptor, command, owner, buffer)
    finally:
        os.close(descriptor)
    if failed and ctypes.get_errno() == errno.ENOSYS:  # before Linux 5.14, or no quotas
        failed = libc.quotactl(command, os.fsencode(place.mount.source), owner, buffer)
    if failed:
        number = ctypes.get_errno()
        if number in _NO_QUOTA:
            return None
        raise OSError(number, os.strerror(number))
    hard, soft, used, *files, grace, grace_files = struct.unpack_from("=8Q", buffer)
    hard_files, soft_files, used_files = files
    return (
        _with_grace(used, soft * 1024, hard * 1024, grace),
        _with_grace(used_files, soft_files, hard_files, grace_files),
    )


def _with_grace(used: int, soft: int, hard: int, grace: int) -> tuple[int, int, int]:
    """Return (used, soft, hard): a soft limit whose time of grace is over is a hard one."""
    if soft and used > soft and 0 < grace < time.time():
        hard = min(soft, hard or soft)
    return used, soft, hard
