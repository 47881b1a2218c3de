"""What is written into an ext3 image directly: its state, owners, times."""

from __future__ import annotations

import os
import struct

from overlay.image import ext3
from overlay.image.ext3_read import Reader
from overlay.image.magic import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, is_superblock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from overlay.image.ext3 import Superblock


def write_state(descriptor: int, state: int) -> None:
    """Write the state field of the superblock of an image, and see it on the disk.

    descriptor  open for writing, the image locked whole
    ext3 has no checksum over its superblock, so two bytes are all there is to write.
    """
    os.pwrite(descriptor, struct.pack("<H", state), ext3.STATE_OFFSET)
    os.fsync(descriptor)


def set_dir_nlink(descriptor: int, superblock: Superblock, wanted: bool) -> None:
    """Set or clear DIR_NLINK in the superblock of an image, and in its copies where it is set.

    superblock  of the image, to find the copies
    """
    for group in range(superblock.groups_count):
        if not superblock.has_copy(group):
            continue
        block = superblock.first_data_block + group * superblock.blocks_per_group
        place = block * superblock.block_size if group else SUPERBLOCK_OFFSET
        data = os.pread(descriptor, SUPERBLOCK_SIZE, place)
        if not is_superblock(data):
            continue
        (features,) = struct.unpack_from("<I", data, 0x64)
        new = features | ext3.DIR_NLINK if wanted and not group else features & ~ext3.DIR_NLINK
        if new != features:
            os.pwrite(descriptor, struct.pack("<I", new), place + 0x64)


def give_away(descriptor: int, superblock: Superblock, owner: int, group: int) -> int:
    """Give every file of an image to a user, by its inode tables; return how many changed.

    descriptor  open for writing, the image locked whole
    Raises FormatError, OSError.
    """
    return set_owners(descriptor, superblock, {}, (owner, group))


def set_times(
    descriptor: int, superblock: Superblock, times: Mapping[int, tuple[int, int]]
) -> None:
    """Set when files of an image were modified; mke2fs(8) knows no time after 2038.

    descriptor  open for writing, the image locked whole
    times       number of an inode -> (seconds since 1970, nanoseconds)
    What has no room in its inode for more than 32 bits (see "Inode Timestamps" in the
    kernel's documentation of ext4) stays as it is. Raises FormatError, OSError.
    """
    size = superblock.inode_size
    for first, offset, data in Reader(descriptor, superblock).tables():
        table = bytearray(data)
        for number in range(first, first + len(table) // size):
            place = (number - first) * size
            if (
                number in times
                and size > 128
                and struct.unpack_from("<H", table, place + 128)[0] >= 12
            ):
                seconds, nanoseconds = times[number]
                low = seconds & 0xFFFFFFFF
                epoch = (seconds - (low - (low >> 31 << 32))) >> 32 & 3
                struct.pack_into("<I", table, place + 16, low)
                struct.pack_into("<I", table, place + 136, epoch | nanoseconds << 2)
        if table != data:
            os.pwrite(descriptor, table, offset)


def set_owners(
    descriptor: int,
    superblock: Superblock,
    owners: Mapping[int, tuple[int, int]],
    rest: tuple[int, int],
) -> int:
    """Set the owners of the files of an image; return how many changed.

    descriptor  open for writing, the image locked whole
    owners      number of an inode -> (owner, group)
    rest        (owner, group) of all others but the root, the journal and lost+found
    Raises FormatError, OSError.
    """
    changed = 0
    for first, offset, data in Reader(descriptor, superblock).tables():
        table = bytearray(data)
        for place in range(0, len(table), superblock.inode_size):
            number = first + place // superblock.inode_size
            if number <= ext3.RESERVED_INODES or table[place + 26 : place + 28] == b"\0\0":
                continue  # the latter has no link: it is not in use
            owner, group = owners.get(number, rest)
            words = struct.pack("<HHHH", owner & 0xFFFF, group & 0xFFFF, owner >> 16, group >> 16)
            before = (
                table[place + 2 : place + 4],
                table[place + 24 : place + 26],
                table[place + 120 : place + 124],
            )
            if b"".join(before) != words:
                table[place + 2 : place + 4] = words[:2]
                table[place + 24 : place + 26] = words[2:4]
                table[place + 120 : place + 124] = words[4:]
                changed += 1
        if table != data:
            os.pwrite(descriptor, table, offset)
    return changed
