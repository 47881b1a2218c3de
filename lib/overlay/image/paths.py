"""Where the files of an ext3 image have their names, found from their numbers."""

from __future__ import annotations

from overlay.image import ext3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from overlay.image.ext3_read import Reader

_LONGEST = 4096  # bytes of a path: PATH_MAX of Linux


def parents(path: bytes) -> Iterator[bytes]:
    """Yield the directories above a path of bytes, nearest first."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path


def names(reader: Reader, wanted: Container[int]) -> Iterator[tuple[int, bytes]]:
    """Yield (number, path below upper/) of every name of some files."""
    upper = reader.lookup(b"upper")
    if upper is None:
        return
    paths, seen = Paths(reader, upper[0]), set[int]()
    for directory, inode in reader.inodes(4):
        for name, number, _kind in reader.entries(inode, seen):
            if number in wanted:
                try:
                    place = paths.of(directory)
                except TooLong:
                    continue
                if place is not None:
                    yield number, place + b"/" + name if place else name


class TooLong(Exception):
    """A path in an image is longer than Linux takes, which can still be made step by step."""


class Paths:
    """Paths of directories in an image, found from below through their ".." entries.

    Each directory is read once, whatever the others claim, and its names are kept once.
    """

    def __init__(self, reader: Reader, upper: int) -> None:
        self._reader = reader
        self._upper = upper
        self._places: dict[int, tuple[int, bytes] | None] = {
            upper: None
        }  # number -> (number above, name); None where there is none
        self._read: set[int] = set()

    def of(self, number: int) -> bytes | None:
        """Return the path below upper/ of a directory's inode, None when it is elsewhere.

        Raises TooLong for a path that is longer than Linux takes, and ext3.FormatError.
        """
        parts, left = [], _LONGEST
        while number != self._upper:
            place = self._place(number)
            if place is None:
                return None
            number, name = place
            parts.append(name)
            left -= len(name) + 1
            if left < 0:
                raise TooLong
        return b"/".join(reversed(parts))

    def _place(self, number: int) -> tuple[int, bytes] | None:
        """Return (number of the directory above, name in it) of a directory, or None."""
        if number not in self._places:
            entries = self._reader.entries(self._reader.inode(number))
            above = next((other for name, other, _kind in entries if name == b".."), number)
            if above not in self._read:
                self._read.add(above)
                for name, other, kind in self._reader.entries(self._reader.inode(above)):
                    if kind == ext3.DIRECTORY and name not in (b".", b".."):
                        self._places.setdefault(other, (above, name))
            self._places.setdefault(number, None)
        return self._places[number]
