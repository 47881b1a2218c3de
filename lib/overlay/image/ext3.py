"""The ext2/ext3 on-disk format: what an image says of itself."""

import os
import struct
from array import array

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
_RESIZE_INODE_NUMBER = 7
JOURNAL_INODE = 8
RESERVED_INODES = 11  # the first ten, and lost+found
DIRECTORY = 2  # file type in a directory entry

# Flags of inodes whose content is not found as ext3 has it; e2fsprogs heeds them whatever the
# superblock says: EXT4_EXTENTS_FL, EXT4_INLINE_DATA_FL, EXT4_ENCRYPT_FL, EXT4_CASEFOLD_FL.
_NOT_EXT3 = 0x80000 | 0x10000000 | 0x800 | 0x40000000

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

    def __init__(self, data, *, in_change=False):
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
            and (in_change or self._counts_fit())
        ):
            raise FormatError("its superblock contradicts itself")

    def _counts_fit(self):
        return (
            self.free_blocks_count <= self.blocks_count
            and self.free_inodes_count <= self.inodes_count
            and 0 < self.inodes_count <= self.inodes_per_group * self.groups_count
        )

    @property
    def groups_count(self):
        """The number of block groups."""
        return -(-(self.blocks_count - self.first_data_block) // self.blocks_per_group)

    @property
    def size(self):
        """The bytes that the file system spans; the file should not be shorter."""
        return self.blocks_count * self.block_size

    def has_copy(self, group):
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
    def is_ext3(self):
        """Whether the engines take it as an overlay (the rule of their ext3 header check).

        An ext3 image that e2fsck has given DIR_NLINK counts as one: a repair takes it away.
        """
        allowed = SPARSE_SUPER | LARGE_FILE | BTREE_DIR | DIR_NLINK
        return (
            self.compatible & HAS_JOURNAL
            and not self.incompatible & ~(FILETYPE | RECOVER | META_BG)
            and not self.read_only_compatible & ~allowed
        )

    @property
    def is_clean(self):
        """Whether the last session unmounted it and nobody found an error since.

        One that has become an ext4 image in a repair by hand has to be repaired, too.
        """
        return (
            self.state & STATE_CLEAN
            and not (self.is_ext3 and self.read_only_compatible & DIR_NLINK)
            and not self.state & STATE_ERROR
            and not self.incompatible & RECOVER
        )

    @property
    def available_bytes(self):
        """The room for data that an ordinary user has inside, as df(1) shows it there.

        fuse2fs holds back the reserved blocks, and a tenth of all when none are reserved.
        """
        reserved = self.reserved_blocks_count or self.blocks_count // 10
        return max(0, self.free_blocks_count - reserved) * self.block_size

    @property
    def room_bytes(self):
        """The room for all but the tables: the size that df(1) shows inside.

        The tables are counted as fuse2fs counts them: descriptors, bitmaps and inode tables.
        """
        descriptors = -(-32 * self.groups_count // self.block_size)
        inodes = -(-self.inodes_per_group * self.inode_size // self.block_size)
        tables = descriptors + self.groups_count * (inodes + 2)
        return max(0, self.blocks_count - tables) * self.block_size

    @property
    def used_bytes(self):
        """The room that files, directories and the journal take, as df(1) shows it inside."""
        return max(0, self.room_bytes - self.free_blocks_count * self.block_size)

    @property
    def used_inodes_count(self):
        """The number of inodes that are taken, as df -i shows it inside."""
        return self.inodes_count - self.free_inodes_count


def read_superblock(descriptor):
    """Return the Superblock of an open image. Raises FormatError, OSError."""
    return Superblock(os.pread(descriptor, SUPERBLOCK_SIZE, SUPERBLOCK_OFFSET))


def set_dir_nlink(descriptor, superblock, wanted):
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
        new = features | DIR_NLINK if wanted and not group else features & ~DIR_NLINK
        if new != features:
            os.pwrite(descriptor, struct.pack("<I", new), place + 0x64)


def read_state(descriptor):
    """Return the state field of the superblock of an image, whatever else stands there."""
    return int.from_bytes(os.pread(descriptor, 2, STATE_OFFSET), "little")


class Inode:
    """What an image says of one file.

    size    bytes
    blocks  the first block numbers; a short link's target, a device's number
    flags   i_flags in ext4(5)
    room    bytes that it takes, indirect blocks included
    links   how many names it has
    modify_time, change_time  seconds since 1970; nanoseconds of the former besides
    """

    __slots__ = (
        "blocks",
        "change_time",
        "flags",
        "group",
        "links",
        "mode",
        "modify_time",
        "nanoseconds",
        "owner",
        "room",
        "size",
    )

    def __init__(self, data):
        self.mode, owner, self.size, _access, self.change_time = struct.unpack_from("<HHIII", data)
        (self.modify_time,) = struct.unpack_from("<i", data, 16)
        group, self.links, sectors, self.flags = struct.unpack_from("<HHII", data, 24)
        self.room = sectors * 512
        self.nanoseconds = 0
        self.blocks = struct.unpack_from("<15I", data, 40)
        owner_high, group_high = struct.unpack_from("<HH", data, 120)
        self.owner = owner | owner_high << 16
        self.group = group | group_high << 16
        if self.mode >> 12 == 8:  # of a directory it is something else
            self.size |= struct.unpack_from("<I", data, 108)[0] << 32
        if len(data) >= 140 and struct.unpack_from("<H", data, 128)[0] >= 12:
            # Two more bits for the seconds, the rest of the field are nanoseconds.
            (more,) = struct.unpack_from("<I", data, 136)
            self.modify_time += (more & 3) << 32
            self.nanoseconds = more >> 2

    @property
    def is_directory(self):
        """Whether it is a directory."""
        return self.mode >> 12 == 4

    @property
    def is_file(self):
        """Whether it is a regular file."""
        return self.mode >> 12 == 8

    @property
    def is_whiteout(self):
        """Whether it is the character device 0/0, overlayfs's own mark of a deletion."""
        return self.mode >> 12 == 2 and not any(self.blocks[:2])


class Reader:
    """Read-only access to the files of an image that nobody has mounted writable.

    descriptor  an open image
    superblock  its Superblock
    Every method raises FormatError when the image is damaged where it looks, and OSError
    when reading fails.
    """

    def __init__(self, descriptor, superblock):
        self.descriptor = descriptor
        self.superblock = superblock
        self._tables = {}  # group -> block of its inode table, of those that inode() met

    def _group(self, group):
        """Return the blocks of a group's block bitmap, inode bitmap and inode table, and
        its numbers of free blocks and free inodes.
        """
        superblock = self.superblock
        per_block = superblock.block_size // 32
        number, index = divmod(group, per_block)
        block = superblock.first_data_block + 1 + number
        if superblock.incompatible & META_BG and number >= superblock.first_meta_group:
            # Each block of descriptors lies in the first of the groups that it describes.
            first = number * per_block
            block = superblock.first_data_block + first * superblock.blocks_per_group
            block += superblock.has_copy(first)
        offset = block * superblock.block_size + 32 * index
        data = os.pread(self.descriptor, 32, offset)
        if len(data) < 32:
            raise FormatError("it is cut off in its group descriptors")
        return struct.unpack_from("<IIIHH", data)

    def free_inodes(self, group):
        """Return the number of free inodes that a group's descriptor gives."""
        return self._group(group)[4]

    def changed_by_growth(self, size):
        """Yield (first block, how many) of what resize2fs(8) overwrites when an image grows.

        size  bytes that it is to have
        That is known where descriptors are reserved for so many groups, so that nothing has
        to move: the superblock and the descriptors with their copies, the bitmaps, and the
        inode and the block that hold the list of what is reserved (resize_inode in ext4(5)).
        Raises FormatError where it is not known.
        """
        superblock = self.superblock
        per_block = superblock.block_size // 32
        used = -(-superblock.groups_count // per_block)
        reserved = superblock.reserved_descriptor_blocks
        blocks = size // superblock.block_size - superblock.first_data_block
        groups = -(-blocks // superblock.blocks_per_group)
        if (
            not superblock.compatible & RESIZE_INODE
            or superblock.incompatible & META_BG
            or -(-groups // per_block) > used + reserved
        ):
            raise FormatError("there are no descriptors reserved for such a growth")
        for group in range(superblock.groups_count):
            if superblock.has_copy(group):
                first = superblock.first_data_block + group * superblock.blocks_per_group
                yield first, 1 + used + reserved
            for bitmap in self._group(group)[:2]:
                yield bitmap, 1
        inodes_per_block = superblock.block_size // superblock.inode_size
        yield self._group(0)[2] + (_RESIZE_INODE_NUMBER - 1) // inodes_per_block, 1
        yield self.inode(_RESIZE_INODE_NUMBER).blocks[13], 1

    def place(self, number):
        """Return the offset in bytes of an inode."""
        superblock = self.superblock
        if not 0 < number <= superblock.inodes_count:
            raise FormatError(f"inode {number} does not exist")
        group, index = divmod(number - 1, superblock.inodes_per_group)
        if group not in self._tables:
            self._tables[group] = self._group(group)[2]
        return self._tables[group] * superblock.block_size + index * superblock.inode_size

    def inode(self, number):
        """Return the Inode with this number."""
        length = min(self.superblock.inode_size, 160)
        data = os.pread(self.descriptor, length, self.place(number))
        if len(data) < length:
            raise FormatError(f"inode {number} lies beyond the end")
        return Inode(data)

    def block(self, number):
        """Return the bytes of one block."""
        size = self.superblock.block_size
        if not 0 < number < self.superblock.blocks_count:
            raise FormatError(f"block {number} does not exist")
        data = os.pread(self.descriptor, size, number * size)
        if len(data) < size:
            raise FormatError(f"block {number} lies beyond the end")
        return data

    def data_blocks(self, inode, seen=None):
        """Yield the bytes of the blocks of a file in order, holes left out.

        seen  the numbers of the blocks, indirect ones too, that a pass over several files has
              met; None for this file alone
        At most as many as its size has room for, and none twice, whatever its indirect blocks
        claim: so a pass costs no more than there is in the image.
        """
        seen = set() if seen is None else seen
        for number in self._block_numbers(inode, seen):
            data = self._once(number, seen)
            if inode.is_directory and data[4:6] == b"\0\0":  # a hole of the image file
                raise FormatError("a directory in it is damaged")
            yield data

    def _once(self, number, seen):
        """Return the bytes of a block that has not been met before."""
        if number in seen:
            raise FormatError("a block in it is used twice")
        seen.add(number)
        return self.block(number)

    def _block_numbers(self, inode, seen):
        """Yield the numbers of the blocks of a file in order, holes left out.

        A directory has none behind its size: e2fsprogs would read entries there, and so see
        other names than we do.
        """
        if inode.flags & _NOT_EXT3:
            raise FormatError("a file in it is not stored as ext3 stores files")
        left = -(-inode.size // self.superblock.block_size)
        if left > self.superblock.blocks_count:
            raise FormatError("a file in it is larger than the image")
        if inode.is_directory and any(inode.blocks[left:12]):
            raise _longer()
        for number in inode.blocks[: min(12, left)]:
            if number:
                yield number
        left -= 12
        for depth, number in enumerate(inode.blocks[12:], 1):
            if left > 0:
                yield from self._pointers(number, depth, left, inode.is_directory, seen)
            elif number and inode.is_directory:
                raise _longer()
            left -= (self.superblock.block_size // 4) ** depth

    def _pointers(self, number, depth, limit, is_directory, seen):
        """Yield those of the first limit block numbers below an indirect block that are not holes."""
        if not number:
            return
        per_block = self.superblock.block_size // 4
        span = per_block ** (depth - 1)
        pointers = struct.unpack(f"<{per_block}I", self._once(number, seen))
        last = -(-limit // span)
        if is_directory and any(pointers[last:]):
            raise _longer()
        for pointer in pointers[:last]:
            if pointer and depth == 1:
                yield pointer
            elif pointer:
                yield from self._pointers(pointer, depth - 1, limit, is_directory, seen)
            limit -= span

    def link_target(self, inode):
        """Return where a symbolic link leads, as bytes; short ones stand in the inode itself."""
        if inode.size < 60:
            return struct.pack("<15I", *inode.blocks)[: inode.size]
        if inode.size > self.superblock.block_size:
            raise FormatError("a link in it is too long")
        return next(self.data_blocks(inode), b"")[: inode.size]

    def entries(self, inode, seen=None):
        """Yield (name, inode number, file type) of a directory, "." and ".." too.

        seen  as data_blocks() has it
        Hashed directories read the same way: their index blocks hold one empty entry.
        """
        for data in self.data_blocks(inode, seen):
            yield from parse_entries(data)

    def lookup(self, path, start=ROOT_INODE):
        """Return the (number, Inode) that a path of bytes such as b"upper/opt" leads to, or None.

        Links inside the image are not followed.
        """
        number, inode = start, self.inode(start)
        for name in path.split(b"/"):
            if not inode.is_directory:
                return None
            for entry_name, entry_number, _kind in self.entries(inode):
                if entry_name == name:
                    number, inode = entry_number, self.inode(entry_number)
                    break
            else:
                return None
        return number, inode

    def only(self, directory, name):
        """Return the (number, Inode) of a name in the Inode of a directory, or None.

        Raises FormatError also for a second one: which of the two is taken depends on who
        reads the directory.
        """
        found = [number for entry, number, _kind in self.entries(directory) if entry == name]
        if len(found) > 1:
            raise FormatError("a directory in it has two files of one name")
        return (found[0], self.inode(found[0])) if found else None

    def tables(self):
        """Yield (number of the first inode, offset, bytes) of each group's inode table.

        Only as far as inodes are in use.
        """
        for number, offset, data, _bits in self._used_tables():
            yield number, offset, data

    def _used_tables(self):
        superblock, seen = self.superblock, set()
        for group in range(superblock.groups_count):
            _blocks, bitmap, table, _free, free = self._group(group)
            if free >= superblock.inodes_per_group:
                continue
            if table in seen:
                raise FormatError("a block in it is used twice")
            seen.add(table)
            bits = self._once(bitmap, seen)[: superblock.inodes_per_group // 8]
            count = 8 * len(bits.rstrip(b"\0"))
            offset = table * superblock.block_size
            data = os.pread(self.descriptor, count * superblock.inode_size, offset)
            if len(data) < count * superblock.inode_size:
                raise FormatError("it is cut off in its inode tables")
            yield group * superblock.inodes_per_group + 1, offset, data, bits

    def inodes(self, *kinds):
        """Yield (number, Inode) of every file of some kinds, in the order of the inode tables.

        kinds  file types as the upper four bits of a mode: 2 character device, 4 directory
        Reads only the part of the tables that is in use; one pass over them is many times
        faster than walking the tree.
        """
        size = self.superblock.inode_size
        for first, _offset, data, bits in self._used_tables():
            modes = array("H", data)[:: size // 2]
            for index in [index for index, mode in enumerate(modes) if mode >> 12 in kinds]:
                if bits[index >> 3] >> (index & 7) & 1:
                    yield first + index, Inode(data[index * size : index * size + 128])


def _longer():
    return FormatError("a directory in it has more blocks than its size says")


def parse_entries(data):
    """Yield (name, inode number, file type) of the entries in one block of a directory."""
    offset, end = 0, len(data)
    while offset + 8 <= end:
        number, length, name_length, kind = struct.unpack_from("<IHBB", data, offset)
        if length < 8 or length & 3 or offset + length > end or 8 + name_length > length:
            raise FormatError("a directory in it is damaged")
        if number:
            yield data[offset + 8 : offset + 8 + name_length], number, kind
        offset += length
