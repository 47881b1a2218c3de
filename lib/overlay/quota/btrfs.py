"""Limits of subvolumes of btrfs, from sysfs or btrfs(8)."""

from __future__ import annotations

import fcntl
import os
import struct

from overlay.errors import quote
from overlay.host import process
from overlay.quota.limits import Limits, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from overlay.quota.limits import Place

_BTRFS_SYSFS = "/sys/fs/btrfs"


def settle(place: Place) -> bool:
    """Let btrfs count what has been removed; return whether it may have.

    It does so only when it next commits, and commits itself before it says EDQUOT.
    """
    program = process.which("sync", place.environ)
    if program is None:
        return False
    try:
        return not place.ask([program, "-f", place.directory]).status
    except Unknown:
        return False


def limits(place: Place) -> list[Limits]:
    """Read the limit of the subvolume that the directory belongs to, shown since Linux 5.9.

    /sys/fs/btrfs/UUID/qgroups/0_SUBVOLUME has a file for each number, in bytes. What is
    only promised (rsv_*) counts as used, as it does for the kernel. Groups of groups
    (1/0 and up) are there too, but not who belongs to them.
    """
    descriptor = os.open(place.directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # BTRFS_IOC_FS_INFO: the UUID after 16 bytes; BTRFS_IOC_INO_LOOKUP with tree 0 and
        # inode 256, the top of every subvolume: its number first. btrfs-ioctl(2).
        info = bytearray(1024)
        fcntl.ioctl(descriptor, 0x8400941F, info)
        lookup = bytearray(struct.pack("=QQ4080x", 0, 256))
        fcntl.ioctl(descriptor, 0xD0009412, lookup)
    finally:
        os.close(descriptor)
    digits = info[16:32].hex()
    uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    subvolume = struct.unpack_from("=Q", lookup)[0]
    directory = os.path.join(_BTRFS_SYSFS, uuid, "qgroups", f"0_{subvolume}")
    name = f"the quota of the subvolume of {quote(place.directory)}"
    try:
        return parse_qgroup(lambda key: _number(os.path.join(directory, key)), name)
    except FileNotFoundError:
        return []


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read())


def parse_qgroup(read: Callable[[str], int], name: str) -> list[Limits]:
    """Return the Limits of a qgroup; read(key) returns the number of one of its files."""
    flags = read("limit_flags")
    reserved = sum(read(f"rsv_{what}") for what in ("data", "meta_pertrans", "meta_prealloc"))
    found = []
    for flag, used in ((1, "referenced"), (2, "exclusive")):  # BTRFS_QGROUP_LIMIT_MAX_RFER, _EXCL
        if flags & flag:
            blocks = (read(used) + reserved, None, read(f"max_{used}"))
            found.append(Limits("tree", "qgroup", name, blocks, (None, None, None)))
    return found
