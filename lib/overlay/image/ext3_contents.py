"""The files inside an ext3 image."""

from __future__ import annotations

import os
import stat

from overlay.errors import DAMAGED, OverlayError, quote
from overlay.host.names import group_name, user_name
from overlay.image import ext3
from overlay.image.entry import Entry, nothing
from overlay.image.ext3_read import Inode, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlay.image.ext3_image import Ext3Image

DEEPEST = 16384  # bytes of a path; four times what Linux takes
TOO_DEEP = "directories in it are nested too deeply"


def walk(image: Ext3Image, top: str) -> Iterator[Entry]:
    """Yield the Entries below a path, as contents.walk() does."""
    if image.lacks_upper:
        raise OverlayError(
            f"{quote(image.path)} has no directory upper, where an overlay has its files",
            status=DAMAGED,
            hint=f"see all that it holds: /sbin/debugfs -R 'ls -l /' {quote(image.path)}",
        )
    reader = image.reader()
    found = reader.lookup(os.fsencode(f"upper{top}".rstrip("/")))
    if found is None:
        raise nothing(image, top)
    number, inode = found
    if not inode.is_directory:
        yield _of_inode(reader, top, number, inode)
        return
    seen: set[int] = {number}
    blocks: set[int] = set()
    # A stack of our own: how deep directories nest is the image's to say.
    stack = [(top.rstrip("/"), _names(reader, inode, blocks))]
    while stack:
        parent, names = stack[-1]
        if not names:
            stack.pop()
            continue
        name, number = names.pop()
        inode = reader.inode(number)
        path = f"{parent}/{os.fsdecode(name)}"
        yield _of_inode(reader, path, number, inode)
        if inode.is_directory:
            if number in seen:
                raise ext3.FormatError("a directory in it has two names")
            if len(path) > DEEPEST:
                raise ext3.FormatError(TOO_DEEP)
            seen.add(number)
            stack.append((path, _names(reader, inode, blocks)))


def _names(reader: Reader, inode: Inode, blocks: set[int]) -> list[tuple[bytes, int]]:
    """Return (name, inode number) of what is in a directory, the last name first."""
    entries = reader.entries(inode, blocks)
    found = {(name, number) for name, number, _kind in entries if name not in (b".", b"..")}
    if any(not name or b"/" in name or b"\0" in name for name, _number in found):
        raise ext3.FormatError("a name in it is none")
    return sorted(found, reverse=True)


def _of_inode(reader: Reader, path: str, number: int, inode: Inode) -> Entry:
    """Return the Entry of a file in an ext3 image."""
    owner, group = user_name(inode.owner), group_name(inode.group)
    entry = Entry(path, inode.mode, owner, group, inode.size, inode.modify_time)
    entry.links, entry.number, entry.room = inode.links, number, inode.room
    if stat.S_ISLNK(inode.mode):
        entry.target = os.fsdecode(reader.link_target(inode))
    elif stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        old, new = inode.blocks[:2]  # the kernel's two encodings of a device number
        entry.device = (
            (old >> 8 & 0xFF, old & 0xFF)
            if old
            else (new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)
        )
    return entry.interpret()
