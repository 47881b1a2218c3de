"""Whether a session has changed anything in an image, beside what every session writes there."""

from __future__ import annotations

import os

from overlay.image import ext3
from overlay.image.ext3_read import Reader
from overlay.image.magic import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

_PIECE = 1 << 20  # bytes that are compared at once


def is_unchanged(before: int, after: int) -> bool:
    """Return whether two open images hold the same, one of them after a session.

    A session writes into the superblock when it was mounted, and into each file when it was last
    read. All else that is in use is compared, to the first difference: that of an image in
    which something was installed is found in its first bitmaps.
    Raises FormatError for one that is damaged where it looks, and OSError.
    """
    one, other = (Reader(file, ext3.read_superblock(file)) for file in (before, after))
    if _shape(one) != _shape(other):
        return False
    size = one.superblock.block_size
    tables: Container[int] | None = None
    for offset, length in other.used():
        for place in range(offset, offset + length, _PIECE):
            count = min(_PIECE, offset + length - place)
            old, new = (os.pread(file, count, place) for file in (before, after))
            if old == new:
                continue
            if len(old) != len(new):
                return False
            tables = set(other.table_blocks()) if tables is None else tables
            for start in range(0, count, size):
                number, part = (place + start) // size, slice(start, start + size)
                if old[part] != new[part] and _plain(one, old[part], number, tables) != _plain(
                    one, new[part], number, tables
                ):
                    return False
    return True


def _shape(reader: Reader) -> tuple[int, ...]:
    """Return what tells where in an image what is."""
    found = reader.superblock
    return (
        os.fstat(reader.descriptor).st_size,
        found.block_size,
        found.blocks_count,
        found.inodes_count,
        found.inode_size,
    )


def _plain(reader: Reader, block: bytes, number: int, tables: Container[int]) -> bytes:
    """Return a block without what every session writes: "Inode Table" in the kernel's page on ext4.

    number  where it stands in the image
    tables  the numbers of the blocks of the inode tables
    """
    size, data = reader.superblock.block_size, bytearray(block)
    if number == SUPERBLOCK_OFFSET // size:
        start = SUPERBLOCK_OFFSET % size
        data[start : start + SUPERBLOCK_SIZE] = bytes(SUPERBLOCK_SIZE)
    elif number in tables:
        inode_size = reader.superblock.inode_size
        for inode in range(0, size, inode_size):
            data[inode + 8 : inode + 12] = bytes(4)
            # As many of the newer fields as an inode says that it has: attributes follow.
            if inode_size > 128 and int.from_bytes(data[inode + 128 : inode + 130], "little") >= 16:
                data[inode + 140 : inode + 144] = bytes(4)
    return bytes(data)
