"""An ext3 image: the overlay that sessions write."""

from __future__ import annotations

import itertools
import os

from overlay.errors import DAMAGED, OverlayError, quote
from overlay.image import ext3, lock, magic
from overlay.image.ext3_read import Reader
from overlay.image.kind import MAKE_ONE, MAY_NOT_WRITE, MOST_NAMES, Image, damaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from overlay.image.entry import Entry
    from overlay.image.survey import Survey


class PlannedImage(Image):
    """An ext3 image that is not made yet: what a dry run plans with."""

    __slots__ = ()

    kind = "ext3"
    suffixes = (".ext3",)
    can_be_unclean = True
    own_files = ext3.RESERVED_INODES + 2  # those of ext3 itself, upper and work

    @property
    def lacks_upper(self) -> bool:
        return self.upper is None

    def holds(self, path: str) -> bool:
        return False

    def names_in(self, path: str) -> list[str]:
        return []

    def content_of(self, path: str, most: int) -> bytes | None:
        return None


class Ext3Image(PlannedImage):
    """An ext3 image.

    superblock  its Superblock
    """

    __slots__ = ("superblock",)

    def __init__(
        self,
        path: str,
        status: os.stat_result,
        descriptor: int,
        writable: bool,
        superblock: ext3.Superblock,
    ) -> None:
        super().__init__(path, status, descriptor, writable)
        self.superblock = superblock

    @classmethod
    def found(
        cls, path: str, status: os.stat_result, descriptor: int, writable: bool, head: bytes
    ) -> Ext3Image:
        try:
            superblock = read_superblock(path, descriptor, head)
            if not superblock.is_ext3:
                family = "ext2" if not superblock.compatible & ext3.HAS_JOURNAL else "ext4"
                raise OverlayError(
                    f"{quote(path)} is an {family} image, and the engines take ext3 only",
                    status=DAMAGED,
                    hint=MAKE_ONE,
                )
            if superblock.size > status.st_size and not superblock.in_change:
                raise ext3.FormatError(
                    f"it is cut off: {status.st_size} bytes of {superblock.size} are there"
                )
            image = cls(path, status, descriptor, writable, superblock)
            upper = image.reader().lookup(b"upper")
        except (ext3.FormatError, OSError) as error:
            hint = "look at it without changing it: /sbin/e2fsck -fn {}"
            raise damaged(path, error, hint) from None
        if upper and upper[1].is_directory:
            image.upper, image.group = upper[1].owner, upper[1].group
        return image

    @classmethod
    def may_be(cls, path: str, descriptor: int, head: bytes) -> bool:
        try:
            return bool(ext3.Superblock(head[magic.SUPERBLOCK_OFFSET :]).is_ext3)
        except ext3.FormatError:
            return path.endswith(cls.suffixes)

    def reader(self) -> Reader:
        """Return a Reader of what is inside."""
        return Reader(self.descriptor, self.superblock)

    def direct_reader(self) -> Reader:
        return self.reader()

    def as_ext3(self, why: str = "", hint: str | None = None) -> Ext3Image:
        return self

    @property
    def is_clean(self) -> bool:
        return bool(self.superblock.is_clean)

    @property
    def stamp(self) -> str:
        return self.superblock.stamp

    @property
    def free(self) -> tuple[int, int] | None:
        return self.superblock.available_bytes, self.superblock.free_inodes_count

    def is_short(self, low: int) -> tuple[bool, bool]:
        superblock = self.superblock
        return (
            superblock.available_bytes * 100 < superblock.size * low,
            superblock.free_inodes_count * 100 < superblock.inodes_count * low,
        )

    def why_not_replaced(self) -> str | None:
        return None if self.writable else MAY_NOT_WRITE

    def holds(self, path: str) -> bool:
        try:
            return self.reader().lookup(b"upper" + os.fsencode(path.rstrip("/"))) is not None
        except (ext3.FormatError, OSError):
            return False  # said where it matters

    def names_in(self, path: str) -> list[str]:
        reader = self.reader()
        try:
            found = reader.lookup(b"upper" + os.fsencode(path))
            if not found or not found[1].is_directory:
                return []
            entries = itertools.islice(reader.entries(found[1]), MOST_NAMES)
            names = [name for name, _number, _kind in entries]
        except (ext3.FormatError, OSError):
            return []
        return sorted(
            (os.fsdecode(name) for name in names if name not in (b".", b"..")), reverse=True
        )

    def content_of(self, path: str, most: int) -> bytes | None:
        reader = self.reader()
        try:
            found = reader.lookup(b"upper" + os.fsencode(path))
            if not found or not found[1].is_file or found[1].size > most:
                return None
            data = b"".join(reader.data_blocks(found[1]))
        except (ext3.FormatError, OSError):
            return None
        return data[: found[1].size] if len(data) >= found[1].size else None

    def those_inside(self, paths: Iterable[bytes], environ: Mapping[str, str]) -> set[bytes]:
        reader = self.reader()
        upper = reader.lookup(b"upper")
        return reader.those_there(paths, upper[0]) if upper and upper[1].is_directory else set()

    def has_markers(self, environ: Mapping[str, str]) -> bool:
        from overlay.image import markers

        return bool(markers.scan(self.reader()))

    def layout(self) -> Iterator[tuple[str, int, object]]:
        reader = self.reader()
        number, above = ext3.ROOT_INODE, reader.inode(ext3.ROOT_INODE)
        yield "its top", above.mode, number
        for name in ("upper", "work", "work/work"):
            there = reader.only(above, name.rpartition("/")[2].encode())
            if there:
                yield name, there[1].mode, there[0]
            if name == "work":
                if not there:
                    return
                above = there[1]

    def walk(self, top: str, environ: Mapping[str, str]) -> Iterator[Entry]:
        from overlay.image import ext3_contents

        return ext3_contents.walk(self, top)

    def fill(self, survey: Survey) -> None:
        superblock = self.superblock
        survey.room, survey.used = superblock.room_bytes, superblock.used_bytes
        survey.available = superblock.available_bytes
        survey.files, survey.files_used = superblock.inodes_count, superblock.used_inodes_count
        survey.clean = self.is_clean
        survey.written = superblock.write_time or None
        survey.made = superblock.make_time or None
        survey.use = lock.holder(self.descriptor, write=True)

    def lock(self, write: bool) -> None:
        lock.take(self.descriptor, write=write)
        holder = lock.holder(self.descriptor, write=write)
        if holder:
            lock.release(self.descriptor)
            raise lock.Busy(holder == "writer")

    def unlock(self) -> None:
        lock.release(self.descriptor)

    def lock_whole(self) -> None:
        lock.take(self.descriptor, write=True)
        lock.take_engine(self.descriptor)

    def lock_against_writers(self) -> None:
        lock.take(self.descriptor, write=False)
        lock.take_engine(self.descriptor, write=False)

    def read_again(self) -> None:
        self.superblock = read_superblock(self.path, self.descriptor)


def read_superblock(path: str, descriptor: int, head: bytes | None = None) -> ext3.Superblock:
    """Return the Superblock of an image, also in the midst of a change that can be undone.

    path  of the image, to find what lies beside it
    head  the first bytes of the file, where they have been read already
    Raises ext3.FormatError, OSError.
    """
    try:
        superblock = (
            ext3.read_superblock(descriptor)
            if head is None
            else ext3.Superblock(head[magic.SUPERBLOCK_OFFSET :])
        )
        if superblock.size <= os.fstat(descriptor).st_size:
            return superblock
    except ext3.FormatError:
        pass
    from overlay.image import pending  # not needed where all is well

    return pending.read_superblock(path, descriptor)


def second_superblock(descriptor: int) -> str | None:
    """Return the options of e2fsck(8) for a second superblock of an ext3 image, or None.

    It begins the second group, of as many blocks as a block has bits: see -b there.
    """
    for size, block in ((4096, 32768), (2048, 16384), (1024, 8193)):
        try:
            data = os.pread(descriptor, magic.SUPERBLOCK_SIZE, size * block)
            superblock = ext3.Superblock(data)
        except (ext3.FormatError, OSError):
            continue
        if superblock.is_ext3 and superblock.block_size == size:
            return f"-b {block} -B {size}"
    return None
