"""Deletion markers of fuse-overlayfs.

In a writable session the engine runs fuse-overlayfs. It notes a deletion as a file
.wh.NAME, and puts a file .wh..wh..opq into every directory that it makes, so that nothing
of the same name shines through from below. A read-only session runs the kernel's overlayfs
instead, which knows none of these: names with .wh. appear, what was deleted is back.

So a read-only session takes the way of fuse-overlayfs when a layer has markers. What is
known of an image stands in the record on it, with a stamp of the superblock that tells
whether it still holds.
"""

import os

from overlay.errors import DAMAGED, OverlayError, quote
from overlay.host import process
from overlay.image import ext3, record

PREFIX = b".wh."
OPAQUE = (b".wh..wh..opq", b".wh..opq")


class Marker:
    """A marker: its name, the number of its inode, and the number of its directory's."""

    __slots__ = ("directory", "name", "number")

    def __init__(self, directory, name, number):
        self.directory = directory
        self.name = name
        self.number = number


def scan(reader):
    """Return all Markers in an image, in one pass over its directories.

    A character device 0/0 counts as one, with its own number and no directory: the kernel
    knows it, but not through fuse2fs, which does not tell the type of an entry.
    Raises ext3.FormatError, OSError.
    """
    found, seen = [], set()
    for directory, inode in reader.inodes(2, 4):
        if inode.is_whiteout:
            found.append(Marker(None, b"", directory))
        if not inode.is_directory:
            continue
        for data in reader.data_blocks(inode, seen):
            if PREFIX in data:
                found += [
                    Marker(directory, name, number)
                    for name, number, _kind in ext3.parse_entries(data)
                    if name.startswith(PREFIX)
                ]
    return found


def present(found, environ, *, remember=True):
    """Return whether a layer has markers, or may have.

    found     its Image, locked
    remember  whether to write down on it what was found
    """
    if found.kind == "directory":
        return True  # to look would take a walk through all of it
    there = known(found)
    if there is None and found.kind == "squashfs":
        there = _squashfs_has_markers(found.path, environ)
    elif there is None:
        try:
            there = bool(scan(ext3.Reader(found.descriptor, found.superblock)))
        except (ext3.FormatError, OSError) as error:
            raise OverlayError(
                f"{quote(found.path)} is damaged: {error}",
                status=DAMAGED,
                hint=f"check-overlay {quote(found.path)}",
            ) from None
    else:
        return there
    if remember:
        note(found, there)
    return there


def _stamp(found):
    """Return what changes whenever anything in an image does."""
    superblock = found.superblock
    if superblock is None:
        return f"{found.status.st_mtime_ns}.{found.status.st_size}"
    return (
        f"{superblock.write_time}.{superblock.mount_time}."
        f"{superblock.free_inodes_count}.{superblock.free_blocks_count}"
    )


def known(found):
    """Return whether an Image has markers by its record, None when that is not of this state."""
    fields = record.read(found.descriptor)
    if fields.get("stamp") != _stamp(found):
        return None
    return fields.get("markers") != "none"


def note(found, known):
    """Write down on an image whether it has markers, as it is now."""
    fields = record.read(found.descriptor)
    fields.update(markers="some" if known else "none", stamp=_stamp(found))
    record.write(found.descriptor, fields)


def last_second_of_others(found):
    """Return until when, in seconds since 1970, others may have put markers into an image."""
    return 0 if known(found) is False else found.superblock.write_time


def note_new(found):
    """Write down on a new image whether what it was filled with has markers."""
    note(found, bool(scan(ext3.Reader(found.descriptor, found.superblock))))


def _squashfs_has_markers(path, environ):
    """Return whether a squashfs file of unknown origin has markers."""
    program = process.which("unsquashfs", environ)
    if program is None:
        return True
    result = process.run([program, "-l", "-d", "", path], environ)
    return result.status != 0 or "/.wh." in result.output


def stack_name(base, below):
    """Return the layers below a writable overlay as one word; empty when they are too many.

    base   path of the base image
    below  paths of the overlays between
    """
    name = " ".join(quote(os.path.realpath(path)) for path in (base, *below))
    return name if len(name) < 2000 else ""
