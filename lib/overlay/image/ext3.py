"""The ext2/ext3 on-disk format: what an image says of itself as a whole."""

from __future__ import annotations

import os
import struct

from overlay.image.magic import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, is_superblock

BLOCK_SIZE = 4096  # of the overlays that we make

# Bytes, and the least that mke2fs(8) makes. The engines ask for a journal, and fuse2fs then
# writes without it; the kernel is as fast with it as with four times as much. mke2fs would
# take up to a gigabyte of a large image, and writes all of it.
JOURNAL = 4 << 20

STATE_OFFSET = SUPERBLOCK_OFFSET + 0x3A  # of its state, two bytes

STATE_CLEAN = 0x1
STATE_ERROR = 0x2

HAS_JOURNAL = 0x4  # compatible features
RESIZE_INODE = 0x10
RECOVER = 0x4  # incompatible features
FILETYPE = 0x2
META_BG = 0x10
SPARSE_SUPER = 0x1  # read-only compatible features
LARGE_FILE = 0x2
BTREE_DIR = 0x4
DIR_NLINK = 0x20  # for directories with more than 65,000 others; the engines refuse it

ROOT_INODE = 2
JOURNAL_INODE = 8
RESERVED_INODES = 11  # the first ten, and lost+found
DIRECTORY = 2  # file type in a directory entry

# Twice as many as the largest file system of the smallest blocks has, in groups as mke2fs makes
# them; each costs those who read all of an image a look.
_MOST_GROUPS = 1 << 20

MOST_LINKS = 65000  # that ext3 and its tools take for a number of links


class FormatError(Exception):
    """The image is not, or no longer, what it claims to be."""


class Superblock:
    """The fields of a superblock that anybody asks for, under the kernel's names.

    data       the 1024 bytes at offset 1024 of the image
    in_change  whether the image is known to be in the midst of a change: its counts need not
               fit each other then, and it counts as not clean
    Raises FormatError when they are not an ext2-family superblock or contradict themselves.
    """

    inodes_count: int
    blocks_count: int
    reserved_blocks_count: int
    free_blocks_count: int
    free_inodes_count: int
    first_data_block: int
    blocks_per_group: int
    inodes_per_group: int
    mount_time: int
    write_time: int
    mount_count: int
    state: int
    revision: int
    inode_size: int
    block_size: int
    compatible: int
    incompatible: int
    read_only_compatible: int
    reserved_descriptor_blocks: int
    first_meta_group: int
    make_time: int

    def __init__(self, data: bytes, *, in_change: bool = False) -> None:
        if len(data) < SUPERBLOCK_SIZE or not is_superblock(data):
            raise FormatError("it has no ext3 superblock")
        (
            self.inodes_count,
            self.blocks_count,
            self.reserved_blocks_count,
            self.free_blocks_count,
            self.free_inodes_count,
            self.first_data_block,
            log_block_size,
            _log_cluster_size,
            self.blocks_per_group,
            _clusters_per_group,
            self.inodes_per_group,
            self.mount_time,
            self.write_time,
            self.mount_count,
            _max_mount_count,
            _magic,
            self.state,
        ) = struct.unpack_from("<13IHHHH", data)
        (self.revision,) = struct.unpack_from("<I", data, 0x4C)
        self.inode_size = struct.unpack_from("<H", data, 0x58)[0] if self.revision else 128
        self.compatible, self.incompatible, self.read_only_compatible = struct.unpack_from(
            "<III", data, 0x5C
        )
        self.uuid = data[0x68:0x78]
        (self.reserved_descriptor_blocks,) = struct.unpack_from("<H", data, 0xCE)
        (self.first_meta_group,) = struct.unpack_from("<I", data, 0x104)
        (self.make_time,) = struct.unpack_from("<I", data, 0x108)
        if log_block_size > 6:
            raise FormatError("its superblock gives an impossible block size")
        self.block_size = 1024 << log_block_size
        self.in_change = in_change
        if in_change:
            self.state = 0
        if not (
            8 <= self.blocks_per_group <= 8 * self.block_size
            and 8 <= self.inodes_per_group <= 8 * self.block_size
            and self.first_data_block <= 1
            and self.first_data_block < self.blocks_count
            and self.inode_size in (128, 256, 512, 1024, 2048, 4096)
            and self.inode_size <= self.block_size
            and self.groups_count <= _MOST_GROUPS
            and (in_change or self._counts_fit())
        ):
            raise FormatError("its superblock contradicts itself")

    def _counts_fit(self) -> bool:
        return (
            self.free_blocks_count <= self.blocks_count
            and self.free_inodes_count <= self.inodes_count
            and 0 < self.inodes_count <= self.inodes_per_group * self.groups_count
        )

    @property
    def stamp(self) -> str:
        """What changes whenever anything in the image does."""
        counts = f"{self.free_inodes_count}.{self.free_blocks_count}"
        return f"{self.write_time}.{self.mount_time}.{counts}"

    @property
    def groups_count(self) -> int:
        """The number of block groups."""
        return -(-(self.blocks_count - self.first_data_block) // self.blocks_per_group)

    @property
    def size(self) -> int:
        """The bytes that the file system spans; the file should not be shorter."""
        return self.blocks_count * self.block_size

    def has_copy(self, group: int) -> bool:
        """Return whether a group begins with a copy of the superblock."""
        if group <= 1 or not self.read_only_compatible & SPARSE_SUPER:
            return True
        for base in (3, 5, 7):
            power = base
            while power < group:
                power *= base
            if power == group:
                return True
        return False

    @property
    def is_ext3(self) -> bool:
        """Whether the engines take it as an overlay (the rule of their ext3 header check).

        An ext3 image that e2fsck has given DIR_NLINK counts as one: a repair takes it away.
        """
        allowed = SPARSE_SUPER | LARGE_FILE | BTREE_DIR | DIR_NLINK
        return (
            self.compatible & HAS_JOURNAL != 0
            and not self.incompatible & ~(FILETYPE | RECOVER | META_BG)
            and not self.read_only_compatible & ~allowed
        )

    @property
    def is_clean(self) -> bool:
        """Whether the last session unmounted it and nobody found an error since.

        One that has become an ext4 image in a repair by hand has to be repaired, too.
        """
        return (
            self.state & STATE_CLEAN != 0
            and not (self.is_ext3 and self.read_only_compatible & DIR_NLINK)
            and not self.state & STATE_ERROR
            and not self.incompatible & RECOVER
        )

    @property
    def available_bytes(self) -> int:
        """The room for data that an ordinary user has inside, as df(1) shows it there.

        fuse2fs holds back the reserved blocks, and a tenth of all when none are reserved.
        """
        reserved = self.reserved_blocks_count or self.blocks_count // 10
        return max(0, self.free_blocks_count - reserved) * self.block_size

    @property
    def room_bytes(self) -> int:
        """The room for all but the tables: the size that df(1) shows inside.

        The tables are counted as fuse2fs counts them: descriptors, bitmaps and inode tables.
        """
        descriptors = -(-32 * self.groups_count // self.block_size)
        inodes = -(-self.inodes_per_group * self.inode_size // self.block_size)
        tables = descriptors + self.groups_count * (inodes + 2)
        return max(0, self.blocks_count - tables) * self.block_size

    @property
    def used_bytes(self) -> int:
        """The room that files, directories and the journal take, as df(1) shows it inside."""
        return max(0, self.room_bytes - self.free_blocks_count * self.block_size)

    @property
    def used_inodes_count(self) -> int:
        """The number of inodes that are taken, as df -i shows it inside."""
        return self.inodes_count - self.free_inodes_count


def read_superblock(descriptor: int) -> Superblock:
    """Return the Superblock of an open image. Raises FormatError, OSError."""
    return Superblock(os.pread(descriptor, SUPERBLOCK_SIZE, SUPERBLOCK_OFFSET))


def read_state(descriptor: int) -> int:
    """Return the state field of the superblock of an image, whatever else stands there."""
    return int.from_bytes(os.pread(descriptor, 2, STATE_OFFSET), "little")
