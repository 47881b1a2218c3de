"""Deletion markers of fuse-overlayfs.

In a writable session the engine runs fuse-overlayfs. It notes a deletion as a file
.wh.NAME, and puts a file .wh..wh..opq into every directory that it makes, so that nothing
of the same name shines through from below. A read-only session runs the kernel's overlayfs
instead, which knows none of these: names with .wh. appear, what was deleted is back.

So a read-only session takes the way of fuse-overlayfs when a layer has markers. What is
known of an image stands in the record on it, with a stamp of the superblock that tells
whether it still holds.
"""

from __future__ import annotations

import os

from overlay.errors import quote
from overlay.image import ext3, record
from overlay.image.ext3_read import Reader, parse_entries
from overlay.image.kind import damaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from overlay.image.ext3_image import Ext3Image
    from overlay.image.kind import Image

PREFIX = b".wh."
OPAQUE = (b".wh..wh..opq", b".wh..opq")


class Marker:
    """A marker: its name, the number of its inode, and the number of its directory's."""

    __slots__ = ("directory", "name", "number")

    def __init__(self, directory: int | None, name: bytes, number: int) -> None:
        self.directory = directory
        self.name = name
        self.number = number


def scan(reader: Reader) -> list[Marker]:
    """Return all Markers in an image, in one pass over its directories.

    A character device 0/0 counts as one, with its own number and no directory: the kernel
    knows it, but not through fuse2fs, which does not tell the type of an entry.
    Raises ext3.FormatError, OSError.
    """
    found: list[Marker] = []
    seen: set[int] = set()
    for directory, inode in reader.inodes(2, 4):
        if inode.is_whiteout:
            found.append(Marker(None, b"", directory))
        if not inode.is_directory:
            continue
        for data in reader.data_blocks(inode, seen):
            if PREFIX in data:
                found += [
                    Marker(directory, name, number)
                    for name, number, _kind in parse_entries(data)
                    if name.startswith(PREFIX)
                ]
    return found


def present(found: Image, environ: Mapping[str, str], *, remember: bool = True) -> bool:
    """Return whether a layer has markers, or may have.

    found     its Image, locked
    remember  whether to write down on it what was found
    """
    there = known(found) if found.is_file else None
    if there is not None:
        return there
    try:
        there = found.has_markers(environ)
    except (ext3.FormatError, OSError) as error:
        raise damaged(found.path, error) from None
    if remember and found.is_file:
        note(found, there)
    return there


def known(found: Image) -> bool | None:
    """Return whether an Image has markers by its record, None when that is not of this state."""
    fields = record.read(found.descriptor)
    if fields.get("stamp") != found.stamp:
        return None
    return fields.get("markers") != "none"


def note(found: Image, known: bool) -> None:
    """Write down on an image whether it has markers, as it is now."""
    record.note_markers(found.descriptor, found.stamp, known)


def last_second_of_others(found: Ext3Image) -> int:
    """Return until when, in seconds since 1970, others may have put markers into an image."""
    return 0 if known(found) is False else found.superblock.write_time


def stack_name(base: str, below: Iterable[str]) -> str:
    """Return the layers below a writable overlay as one word; empty when they are too many.

    base   path of the base image
    below  paths of the overlays between
    """
    name = " ".join(quote(os.path.realpath(path)) for path in (base, *below))
    return name if len(name) < 2000 else ""
