"""What is in an ext2/ext3 image, read directly: inodes, directories, tables."""

from __future__ import annotations

import os
import struct
from array import array

from overlay.image import ext3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from overlay.image.ext3 import Superblock

    # (name, inode number, file type) in a directory.
    Entry = tuple[bytes, int, int]

_RESIZE_INODE_NUMBER = 7

_MOST_GROUPS = 1 << 17  # whose bitmaps are asked for: of 16 TiB, the largest image of ours
_LONGEST_EXTENT = 1 << 17  # bytes that are best read at once

# Flags of inodes whose content is not found as ext3 has it; e2fsprogs heeds them whatever the
# superblock says: EXT4_EXTENTS_FL, EXT4_INLINE_DATA_FL, EXT4_ENCRYPT_FL, EXT4_CASEFOLD_FL.
_NOT_EXT3 = 0x80000 | 0x10000000 | 0x800 | 0x40000000

_ATTRIBUTES = 0xEA020000  # what a list of extended attributes begins with
_PREFIXES = {  # of the names of extended attributes, by their number
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
    7: b"system.",
}


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

    mode: int
    size: int
    change_time: int
    modify_time: int
    links: int
    flags: int
    blocks: tuple[int, ...]

    def __init__(self, data: bytes) -> None:
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
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.mode >> 12 == 4

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.mode >> 12 == 8

    @property
    def is_whiteout(self) -> bool:
        """Whether it is the character device 0/0, overlayfs's own mark of a deletion."""
        return self.mode >> 12 == 2 and not any(self.blocks[:2])


class Reader:
    """Read-only access to the files of an image that nobody has mounted writable.

    descriptor  an open image
    superblock  its Superblock
    Every method raises FormatError when the image is damaged where it looks, and OSError
    when reading fails.
    """

    def __init__(self, descriptor: int, superblock: Superblock) -> None:
        self.descriptor = descriptor
        self.superblock = superblock
        self._tables: dict[
            int, int
        ] = {}  # group -> block of its inode table, of those that inode() met

    def _group(self, group: int) -> tuple[int, ...]:
        """Return the blocks of a group's block bitmap, inode bitmap and inode table, and
        its numbers of free blocks and free inodes.
        """
        return struct.unpack_from("<IIIHH", self._descriptors(group, 1))

    def _descriptors(self, group: int, count: int) -> bytes:
        """Return the descriptors of some groups that lie side by side: see _side_by_side."""
        superblock = self.superblock
        per_block = superblock.block_size // 32
        number, index = divmod(group, per_block)
        block = superblock.first_data_block + 1 + number
        if superblock.incompatible & ext3.META_BG and number >= superblock.first_meta_group:
            # Each block of descriptors lies in the first of the groups that it describes.
            first = number * per_block
            block = superblock.first_data_block + first * superblock.blocks_per_group
            block += superblock.has_copy(first)
        offset = block * superblock.block_size + 32 * index
        data = os.pread(self.descriptor, 32 * count, offset)
        if len(data) < 32 * count:
            raise ext3.FormatError("it is cut off in its group descriptors")
        return data

    def _groups(self) -> Iterator[tuple[int, ...]]:
        """Yield what _group() returns of each group; what lies side by side is read at once."""
        for first, count in self._side_by_side(self.superblock.groups_count):
            yield from struct.iter_unpack("<IIIHH16x", self._descriptors(first, count))

    def bitmaps(self, most: int, *, tables: bool) -> list[tuple[int, int]]:
        """Return (offset, length) in bytes of where the bitmaps of the groups lie, in order.

        most    bytes of all of them; what is beyond is left out
        tables  whether the inode tables are wanted, too; they are left out where that is too much
        Those that lie side by side are one, as long as that is not long.
        """
        superblock = self.superblock
        size, last = superblock.block_size, superblock.blocks_count
        count = -(-superblock.inodes_per_group * superblock.inode_size // size) if tables else 0
        groups = min(superblock.groups_count, most // (2 * size), _MOST_GROUPS)
        if groups * (2 + count) * size > most:
            count = 0
        places: set[tuple[int, int]] = set()
        for first, many in self._side_by_side(groups):
            words = array("I", self._descriptors(first, many))
            places.update((block, 1) for column in (0, 1) for block in words[column::8])
            if count:
                places.update((block, count) for block in words[2::8])
        found: list[tuple[int, int]] = []
        start = end = 0  # of what was found last, in blocks
        for block, many in sorted(places):
            if block <= superblock.first_data_block or block + many > last:
                continue  # damaged, which is for others to say
            if block != end or (end - start) * size >= _LONGEST_EXTENT:
                found += _pieces(start * size, end * size)
                start = block
            end = block + many
        return found + _pieces(start * size, end * size)

    def _side_by_side(self, groups: int) -> Iterator[tuple[int, int]]:
        """Yield (first, how many) of the first groups, whose descriptors lie side by side."""
        superblock = self.superblock
        first = groups
        per_block = superblock.block_size // 32
        if superblock.incompatible & ext3.META_BG:
            first = min(groups, superblock.first_meta_group * per_block)
        if first:
            yield 0, first
        for group in range(first, groups, per_block):
            yield group, min(per_block, groups - group)

    def free_inodes(self, group: int) -> int:
        """Return the number of free inodes that a group's descriptor gives."""
        return self._group(group)[4]

    def changed_by_growth(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield (first block, how many) of what resize2fs(8) overwrites when an image grows.

        size  bytes that it is to have
        That is known where there are blocks for the descriptors of so many groups, so that
        nothing has to move: the superblock and the descriptors with their copies, the bitmaps,
        and, where such blocks are reserved, the inode and the block that hold the list of them
        (resize_inode in ext4(5)). Raises FormatError where it is not known.
        """
        superblock = self.superblock
        per_block = superblock.block_size // 32
        used = -(-superblock.groups_count // per_block)
        has_list = superblock.compatible & ext3.RESIZE_INODE
        reserved = superblock.reserved_descriptor_blocks if has_list else 0
        blocks = size // superblock.block_size - superblock.first_data_block
        groups = -(-blocks // superblock.blocks_per_group)
        if superblock.incompatible & ext3.META_BG or -(-groups // per_block) > used + reserved:
            raise ext3.FormatError("there are no descriptors reserved for such a growth")
        for group, (blocks_used, inodes_used, *_rest) in enumerate(self._groups()):
            if superblock.has_copy(group):
                first = superblock.first_data_block + group * superblock.blocks_per_group
                yield first, 1 + used + reserved
            yield blocks_used, 1
            yield inodes_used, 1
        if not has_list:
            return
        inodes_per_block = superblock.block_size // superblock.inode_size
        yield self._group(0)[2] + (_RESIZE_INODE_NUMBER - 1) // inodes_per_block, 1
        yield self.inode(_RESIZE_INODE_NUMBER).blocks[13], 1

    def used(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) in bytes of what is in use, as the bitmaps say."""
        superblock = self.superblock
        size, per_group = superblock.block_size, superblock.blocks_per_group
        start = end = 0  # of what was found last, in blocks
        if superblock.first_data_block:
            end = superblock.first_data_block  # what lies before it stands in no bitmap
        for group, (bitmap, *_rest) in enumerate(self._groups()):
            first = superblock.first_data_block + group * per_group
            count = min(per_group, superblock.blocks_count - first)
            data = os.pread(self.descriptor, size, bitmap * size)
            if len(data) < size:
                raise ext3.FormatError("it is cut off in its bitmaps")
            bits = bin(int.from_bytes(data, "little") | 1 << size * 8)[:2:-1][:count]
            place = bits.find("1")
            while place >= 0:
                free = bits.find("0", place)
                free = count if free < 0 else free
                if first + place > end:
                    if end > start:
                        yield start * size, (end - start) * size
                    start = first + place
                end = first + free
                place = bits.find("1", free)
        if end > start:
            yield start * size, (end - start) * size

    def table_blocks(self) -> Iterator[int]:
        """Yield the numbers of the blocks of the inode tables."""
        superblock = self.superblock
        count = -(-superblock.inodes_per_group * superblock.inode_size // superblock.block_size)
        for group in range(superblock.groups_count):
            first = self._group(group)[2]
            yield from range(first, first + count)

    def place(self, number: int) -> int:
        """Return the offset in bytes of an inode."""
        superblock = self.superblock
        if not 0 < number <= superblock.inodes_count:
            raise ext3.FormatError(f"inode {number} does not exist")
        group, index = divmod(number - 1, superblock.inodes_per_group)
        if group not in self._tables:
            self._tables[group] = self._group(group)[2]
        return self._tables[group] * superblock.block_size + index * superblock.inode_size

    def inode(self, number: int) -> Inode:
        """Return the Inode with this number."""
        length = min(self.superblock.inode_size, 160)
        data = os.pread(self.descriptor, length, self.place(number))
        if len(data) < length:
            raise ext3.FormatError(f"inode {number} lies beyond the end")
        return Inode(data)

    def attributes(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield (name, value) of the extended attributes of an inode.

        They stand behind the fields of the inode, and in a block of their own: see "Extended
        Attributes" in the kernel's documentation of ext4.
        """
        size = self.superblock.inode_size
        data = os.pread(self.descriptor, size, self.place(number))
        if len(data) < size:
            raise ext3.FormatError(f"inode {number} lies beyond the end")
        if size > 132:
            start = 128 + struct.unpack_from("<H", data, 128)[0]
            if start + 4 <= size and struct.unpack_from("<I", data, start)[0] == _ATTRIBUTES:
                yield from _parse_attributes(data[start + 4 :], 0)
        (block,) = struct.unpack_from("<I", data, 104)
        if block:
            data = self.block(block)
            if struct.unpack_from("<I", data)[0] != _ATTRIBUTES:
                raise ext3.FormatError("extended attributes in it are damaged")
            yield from _parse_attributes(data, 32)

    def block(self, number: int) -> bytes:
        """Return the bytes of one block."""
        size = self.superblock.block_size
        if not 0 < number < self.superblock.blocks_count:
            raise ext3.FormatError(f"block {number} does not exist")
        data = os.pread(self.descriptor, size, number * size)
        if len(data) < size:
            raise ext3.FormatError(f"block {number} lies beyond the end")
        return data

    def data_blocks(self, inode: Inode, seen: set[int] | None = None) -> Iterator[bytes]:
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
                raise ext3.FormatError("a directory in it is damaged")
            yield data

    def _once(self, number: int, seen: set[int]) -> bytes:
        """Return the bytes of a block that has not been met before."""
        if number in seen:
            raise ext3.FormatError("a block in it is used twice")
        seen.add(number)
        return self.block(number)

    def _block_numbers(self, inode: Inode, seen: set[int]) -> Iterator[int]:
        """Yield the numbers of the blocks of a file in order, holes left out.

        A directory has none behind its size: e2fsprogs would read entries there, and so see
        other names than we do.
        """
        if inode.flags & _NOT_EXT3:
            raise ext3.FormatError("a file in it is not stored as ext3 stores files")
        left = -(-inode.size // self.superblock.block_size)
        if left > self.superblock.blocks_count:
            raise ext3.FormatError("a file in it is larger than the image")
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

    def _pointers(
        self, number: int, depth: int, limit: int, is_directory: bool, seen: set[int]
    ) -> Iterator[int]:
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

    def link_target(self, inode: Inode) -> bytes:
        """Return where a symbolic link leads, as bytes; short ones stand in the inode itself."""
        if inode.size < 60:
            return struct.pack("<15I", *inode.blocks)[: inode.size]
        if inode.size > self.superblock.block_size:
            raise ext3.FormatError("a link in it is too long")
        return next(self.data_blocks(inode), b"")[: inode.size]

    def entries(self, inode: Inode, seen: set[int] | None = None) -> Iterator[Entry]:
        """Yield (name, inode number, file type) of a directory, "." and ".." too.

        seen  as data_blocks() has it
        Hashed directories read the same way: their index blocks hold one empty entry.
        """
        for data in self.data_blocks(inode, seen):
            yield from parse_entries(data)

    def lookup(self, path: bytes, start: int = ext3.ROOT_INODE) -> tuple[int, Inode] | None:
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

    def upper(self) -> tuple[int, Inode]:
        """Return the (number, Inode) of upper/, which has all that sessions have written."""
        found = self.lookup(b"upper")
        if found is None:
            raise ext3.FormatError("it has no directory upper")
        return found

    def those_there(self, paths: Iterable[bytes], start: int = ext3.ROOT_INODE) -> set[bytes]:
        """Return those of some paths, as lookup() has them, that lead to something.

        Each directory is read once: one that holds very much would otherwise be read for each
        path in it. Raises FormatError also for two that share a block.
        """
        paths = set(paths)
        wanted: dict[bytes, Any] = {}  # name -> the same for what is in it
        for path in paths:
            names = wanted
            for name in path.split(b"/"):
                names = names.setdefault(name, {})
        there: set[bytes] = set()
        seen: set[int] = set()
        pending = [(b"", self.inode(start), wanted)]
        while pending:
            above, directory, names = pending.pop()
            found: dict[bytes, int] = {}
            for name, number, _kind in self.entries(directory, seen):
                if name in names:
                    found.setdefault(name, number)
            for name, number in found.items():
                there.add(above + name)
                inode = self.inode(number) if names[name] else None
                if inode is not None and inode.is_directory:
                    pending.append((above + name + b"/", inode, names[name]))
        return paths & there

    def only(self, directory: Inode, name: bytes) -> tuple[int, Inode] | None:
        """Return the (number, Inode) of a name in the Inode of a directory, or None.

        Raises FormatError also for a second one: which of the two is taken depends on who
        reads the directory.
        """
        found = [number for entry, number, _kind in self.entries(directory) if entry == name]
        if len(found) > 1:
            raise ext3.FormatError("a directory in it has two files of one name")
        return (found[0], self.inode(found[0])) if found else None

    def tables(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield (number of the first inode, offset, bytes) of each group's inode table.

        Only as far as inodes are in use.
        """
        for number, offset, data, _bits in self._used_tables():
            yield number, offset, data

    def _used_tables(self) -> Iterator[tuple[int, int, bytes, bytes]]:
        superblock = self.superblock
        seen: set[int] = set()
        for group, (_blocks, bitmap, table, _free, free) in enumerate(self._groups()):
            if free >= superblock.inodes_per_group:
                continue
            if table in seen:
                raise ext3.FormatError("a block in it is used twice")
            seen.add(table)
            bits = self._once(bitmap, seen)[: superblock.inodes_per_group // 8]
            count = 8 * len(bits.rstrip(b"\0"))
            offset = table * superblock.block_size
            data = os.pread(self.descriptor, count * superblock.inode_size, offset)
            if len(data) < count * superblock.inode_size:
                raise ext3.FormatError("it is cut off in its inode tables")
            yield group * superblock.inodes_per_group + 1, offset, data, bits

    def inodes(self, *kinds: int) -> Iterator[tuple[int, Inode]]:
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

    def made_since(self, seconds: int) -> Iterator[int]:
        """Yield the numbers of the regular files that were made since then; none where unknown.

        seconds  since 1970; i_crtime of an inode is compared, see "Inode Timestamps"
                 in the kernel's documentation of ext4
        """
        size = self.superblock.inode_size
        if size < 160:
            return
        for first, _offset, data, bits in self._used_tables():
            modes, extra = array("H", data)[:: size // 2], array("H", data)[64 :: size // 2]
            times, more = array("I", data)[36 :: size // 4], array("I", data)[37 :: size // 4]
            for index, mode in enumerate(modes):
                if mode >> 12 != 8 or extra[index] < 24 or not bits[index >> 3] >> (index & 7) & 1:
                    continue
                made = times[index]
                if made - (made >> 31 << 32) + ((more[index] & 3) << 32) >= seconds:
                    yield first + index

    def linked(self) -> Iterator[int]:
        """Yield the numbers of the regular files that have more than one name."""
        half = self.superblock.inode_size // 2
        for first, _offset, data, bits in self._used_tables():
            words = array("H", data)
            for index, (mode, links) in enumerate(zip(words[::half], words[13::half])):
                if mode >> 12 == 8 and links > 1 and bits[index >> 3] >> (index & 7) & 1:
                    yield first + index


def _pieces(start: int, end: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the pieces of something long, in bytes."""
    places = range(start, end, _LONGEST_EXTENT)
    return [(place, min(_LONGEST_EXTENT, end - place)) for place in places]


def _longer() -> ext3.FormatError:
    return ext3.FormatError("a directory in it has more blocks than its size says")


def _parse_attributes(data: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, value) of a list of extended attributes; values are found from its start."""
    while data[offset : offset + 4] not in (b"", bytes(4)):
        if offset + 16 > len(data):
            raise ext3.FormatError("extended attributes in it are damaged")
        length, prefix, place, _inode, size = struct.unpack_from("<BBHII", data, offset)
        name = data[offset + 16 : offset + 16 + length]
        if len(name) < length or place + size > len(data):
            raise ext3.FormatError("extended attributes in it are damaged")
        yield _PREFIXES.get(prefix, b"?") + name, data[place : place + size]
        offset += 16 + (length + 3 & ~3)


def parse_entries(data: bytes) -> Iterator[Entry]:
    """Yield (name, inode number, file type) of the entries in one block of a directory."""
    offset, end = 0, len(data)
    while offset + 8 <= end:
        number, length, name_length, kind = struct.unpack_from("<IHBB", data, offset)
        if length < 8 or length & 3 or offset + length > end or 8 + name_length > length:
            raise ext3.FormatError("a directory in it is damaged")
        if number:
            yield data[offset + 8 : offset + 8 + name_length], number, kind
        offset += length
