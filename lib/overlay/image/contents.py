"""The files inside an overlay, listed without mounting it.

An ext3 image is read by our own Reader, a squashfs file by unsquashfs(1), a directory is a
directory. Paths are those that a session sees: upper/opt is /opt. Links are not followed.
"""

from __future__ import annotations

import os

from overlay.image.ext3 import FormatError
from overlay.image.kind import damaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from overlay.image.entry import Entry
    from overlay.image.kind import Image


_LONGEST = 1 << 28  # bytes of the paths of all directories that are told; they are kept in memory


def walk(image: Image, top: str, environ: Mapping[str, str]) -> Iterator[Entry]:
    """Yield the Entries below a path in an Image, each directory before what is in it.

    top  an absolute path as a session sees it; a file gives itself
    Raises OverlayError: DAMAGED, MISSING when there is no such path, UNAVAILABLE.
    """
    top = "/" + os.path.normpath("/" + top).strip("/")
    try:
        yield from image.walk(top, environ)
    except (FormatError, OSError) as error:
        hint = "when a session is writing to it, try again; else: check-overlay {}"
        raise damaged(image.path, error, hint) from None


class Usage:
    """What all below a directory takes: bytes, and how many files and directories it is."""

    __slots__ = ("files", "path", "room")

    def __init__(self, path: str) -> None:
        self.path = path
        self.room = 0
        self.files = 0

    def as_dictionary(self) -> dict[str, str | int]:
        """Return it for --json."""
        return {"path": self.path, "allocated": self.room, "files": self.files}


def directories(image: Image, top: str, environ: Mapping[str, str]) -> list[Usage]:
    """Return the Usage of every directory below a path and of the path itself, largest first.

    A file with several names counts where it is met first. Raises OverlayError as walk().
    """
    top = "/" + os.path.normpath("/" + top).strip("/")
    found = {top: Usage(top)}
    counted: set[int | None] = set()
    left = _LONGEST
    for entry in walk(image, top, environ):
        if entry.is_directory:
            left -= len(entry.path)
            if left < 0:
                raise damaged(image.path, "its directories have paths that are too long", None)
            found[entry.path] = Usage(entry.path)
        elif entry.links is not None and entry.links > 1:
            if entry.number in counted:
                continue
            counted.add(entry.number)
        usage = found.get(_above(entry.path), found[top])
        usage.room += entry.room
        usage.files += 1
    # Each directory came after the one that it is in; one that a squashfs file has made up of
    # a name with a line feed is in none, and counted at the top.
    for path in reversed(list(found)):
        if path != top:
            above = found.get(_above(path), found[top])
            above.room += found[path].room
            above.files += found[path].files
    return sorted(found.values(), key=lambda usage: (-usage.room, usage.path))


def _above(path: str) -> str:
    return path.rpartition("/")[0] or "/"
