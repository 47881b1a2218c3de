"""A squashfs file: a packed overlay, which nobody writes."""

from __future__ import annotations

import os
import struct

from overlay.errors import DAMAGED, OverlayError, quote
from overlay.image import lock, record
from overlay.image.kind import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from overlay.image.entry import Entry
    from overlay.image.survey import Survey

# The header of a squashfs file, "Squashfs binary format" 4.0: its bytes, and the numbers of
# what its content is compressed with.
HEADER = 96
_COMPRESSIONS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}

_MOUNTED = (1, 3, 4, 5, 6)  # those that squashfuse and the kernel can read


_OPTIONS = 1 << 10  # the flag that options of the compression stand behind the header
_PLAIN = 1 << 15  # in the length of such a block: it is not compressed itself


class Settings:
    """How a squashfs file was packed.

    compression  what with, a word
    block        bytes that are compressed at a time
    level        of zstd and gzip; of lz4 1 for its slow form; None for what mksquashfs(1) takes
    """

    __slots__ = ("block", "compression", "level")

    def __init__(self, compression: str, block: int, level: int | None) -> None:
        self.compression = compression
        self.block = block
        self.level = level


def used_bytes(descriptor: int) -> int:
    """Return how long the file system at the beginning of a squashfs file is. Raises OSError."""
    return int.from_bytes(os.pread(descriptor, 8, 40), "little")  # bytes_used


def _anew(path: str) -> str:
    """Return what to type for a file of the same content that can be mounted."""
    return f"pack it anew: create-overlay --from {quote(path + ':/')} -o NAME.sqsh"


class SquashfsImage(Image):
    """A squashfs file. It is taken from its root, and none of its names is opened."""

    __slots__ = ("_copies",)

    kind = "squashfs"
    suffixes = (".sqsh", ".squashfs", ".sqfs", ".sfs", ".img")
    is_compressed = True
    never_writable = "a squashfs file cannot be written"

    def __init__(self, path: str, status: os.stat_result, descriptor: int, writable: bool) -> None:
        super().__init__(path, status, descriptor, writable)
        self._copies: dict[str, bytes] | None = None

    @classmethod
    def found(
        cls, path: str, status: os.stat_result, descriptor: int, writable: bool, head: bytes
    ) -> SquashfsImage:
        version = int.from_bytes(head[28:30], "little")
        if version in (1, 2, 3):
            raise OverlayError(
                f"{quote(path)} is a squashfs file of version {version}, and sessions read version 4",
                status=DAMAGED,
                hint=_anew(path),
            )
        used = int.from_bytes(head[40:48], "little")  # bytes_used
        if used > status.st_size:
            raise OverlayError(
                f"{quote(path)} is damaged: it is cut off: {status.st_size} bytes of {used} are"
                " there",
                status=DAMAGED,
                hint="fetch it again: a copy of it was not finished",
            )
        return cls(path, status, descriptor, False)

    @classmethod
    def may_be(cls, path: str, descriptor: int, head: bytes) -> bool:
        return path.endswith(cls.suffixes) or bool(record.read(descriptor))

    def check_mountable(self) -> None:
        number = int.from_bytes(os.pread(self.descriptor, 2, 20), "little")
        if number in _MOUNTED:
            return
        how = _COMPRESSIONS.get(number)
        raise OverlayError(
            f"{quote(self.path)} is compressed with {how or 'a method that is not known'}, which"
            " sessions cannot read",
            status=DAMAGED,
            hint=_anew(self.path) if how else None,
        )

    def settings(self) -> Settings:
        """Return how it was packed. Raises OSError."""
        data = os.pread(self.descriptor, HEADER + 10, 0)
        block, _fragments, number, _log, flags = struct.unpack_from("<IIHHH", data, 12)
        compression = _COMPRESSIONS.get(number, "")
        level = None
        length = int.from_bytes(data[HEADER : HEADER + 2], "little")
        if flags & _OPTIONS and length in (4 | _PLAIN, 8 | _PLAIN):
            first, second = (
                int.from_bytes(data[HEADER + at : HEADER + at + 4], "little") for at in (2, 6)
            )
            level = {"zstd": first, "gzip": first, "lz4": second & 1 or None}.get(compression)
        return Settings(compression, block, level)

    def holds(self, path: str) -> bool:
        return False  # a look would take a program and all of its names

    def names_in(self, path: str) -> list[str]:
        top = path + "/"
        below = [name[len(top) :] for name in self._carried() if name.startswith(top)]
        return list(dict.fromkeys(name.partition("/")[0] for name in below))

    def content_of(self, path: str, most: int) -> bytes | None:
        content = self._carried().get(path)
        return content if content is not None and len(content) <= most else None

    def has_changed(self) -> bool | None:
        from overlay.image import carried

        told = self._carried().get(carried.CHECKSUM)
        if told is None:
            return None
        return told != carried.checksum(self.descriptor, used_bytes(self.descriptor))

    def _carried(self) -> dict[str, bytes]:
        """Return the copies behind the end of the file system, see carried; they are read once."""
        if self._copies is None:
            from overlay.image import carried

            try:
                used = used_bytes(self.descriptor)
                there = used < self.status.st_size
                self._copies = carried.read(self.descriptor, used) if there else {}
            except OSError:
                self._copies = {}
        return self._copies

    def those_inside(self, paths: Iterable[bytes], environ: Mapping[str, str]) -> set[bytes]:
        from overlay.image import squashfs

        return squashfs.those_inside(self.descriptor, paths, environ)

    def has_markers(self, environ: Mapping[str, str]) -> bool:
        from overlay.image import squashfs

        return squashfs.has_markers(self.descriptor, environ)

    def layout(self) -> Iterator[tuple[str, int, object]]:
        return iter(())

    def walk(self, top: str, environ: Mapping[str, str]) -> Iterator[Entry]:
        from overlay.image import squashfs

        return squashfs.walk(self, top, environ)

    def fill(self, survey: Survey) -> None:
        data = os.pread(self.descriptor, HEADER, 0)
        if len(data) < HEADER or struct.unpack_from("<H", data, 28)[0] != 4:
            raise OverlayError(
                f"{quote(self.path)} is damaged: it has no header of squashfs 4",
                status=DAMAGED,
            )
        count, made, _block, _fragments, compression = struct.unpack_from("<IIIIH", data, 4)
        survey.files_used = count
        survey.compression = _COMPRESSIONS.get(compression)
        survey.written = survey.made = made or None
        survey.use = lock.holder(self.descriptor, write=True)

    def lock(self, write: bool) -> None:
        pass  # never changed in place

    def unlock(self) -> None:
        pass

    def lock_whole(self) -> None:
        if lock.holder(self.descriptor, write=False):
            raise lock.Busy(True)
