"""The files inside an overlay, listed without mounting it.

An ext3 image is read by our own Reader, a squashfs file by unsquashfs(1), a directory is a
directory. Paths are those that a session sees: upper/opt is /opt. Links are not followed.
"""

import os
import stat

from overlay.errors import DAMAGED, OverlayError, quote, reason
from overlay.host.names import group_name, user_name
from overlay.image import ext3, squashfs
from overlay.image.entry import Entry, nothing

DEEPEST = 16384  # bytes of a path; four times what Linux takes


def walk(image, top, environ):
    """Yield the Entries below a path in an Image, each directory before what is in it.

    top  an absolute path as a session sees it; a file gives itself
    Raises OverlayError: DAMAGED, MISSING when there is no such path, UNAVAILABLE.
    """
    top = "/" + os.path.normpath("/" + top).strip("/")
    try:
        if image.kind == "ext3":
            yield from _ext3(image, top)
        elif image.kind == "squashfs":
            yield from squashfs.walk(image, top, environ)
        else:
            yield from _directory(image, top)
    except (ext3.FormatError, OSError) as error:
        words = reason(error) if isinstance(error, OSError) else error
        raise OverlayError(
            f"{quote(image.path)} is damaged: {words}",
            status=DAMAGED,
            hint="when a session is writing to it, try again; else:"
            f" check-overlay {quote(image.path)}",
        ) from None


def _ext3(image, top):
    if image.upper is None:
        raise OverlayError(
            f"{quote(image.path)} has no directory upper, where an overlay has its files",
            status=DAMAGED,
            hint=f"see all that it holds: /sbin/debugfs -R 'ls -l /' {quote(image.path)}",
        )
    reader = ext3.Reader(image.descriptor, image.superblock)
    found = reader.lookup(os.fsencode(f"upper{top}".rstrip("/")))
    if found is None:
        raise nothing(image, top)
    number, inode = found
    if not inode.is_directory:
        yield _of_inode(reader, top, number, inode)
        return
    seen, blocks = {number}, set()
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
                raise ext3.FormatError("directories in it are nested too deeply")
            seen.add(number)
            stack.append((path, _names(reader, inode, blocks)))


def _names(reader, inode, blocks):
    """Return (name, inode number) of what is in a directory, the last name first."""
    entries = reader.entries(inode, blocks)
    found = {(name, number) for name, number, _kind in entries if name not in (b".", b"..")}
    if any(not name or b"/" in name or b"\0" in name for name, _number in found):
        raise ext3.FormatError("a name in it is none")
    return sorted(found, reverse=True)


def _of_inode(reader, path, number, inode):
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


def _directory(image, top):
    root = os.path.realpath(os.path.join(image.path, "upper"))
    start = (root + top).rstrip("/")
    if not os.path.lexists(start) or os.path.realpath(os.path.dirname(start)) != os.path.dirname(
        start
    ):
        raise nothing(image, top)
    if os.path.islink(start) or not os.path.isdir(start):
        yield _of_status(start, top, os.lstat(start))
        return
    stack = [(top.rstrip("/"), _listed(start))]
    while stack:
        parent, names = stack[-1]
        if not names:
            stack.pop()
            continue
        name = names.pop()
        path = f"{parent}/{name}"
        try:
            entry = _of_status(root + path, path, os.lstat(root + path))
        except FileNotFoundError:
            continue  # it went while we looked
        if entry.is_directory:
            try:
                stack.append((path, _listed(root + path)))
            except OSError as error:
                entry.note = f"cannot be read: {reason(error)}"
        yield entry


def _listed(directory):
    with os.scandir(directory) as found:
        return sorted((entry.name for entry in found), reverse=True)


def _of_status(real, path, status):
    """Return the Entry of a file in a directory overlay."""
    owner, group = user_name(status.st_uid), group_name(status.st_gid)
    entry = Entry(path, status.st_mode, owner, group, status.st_size, int(status.st_mtime))
    entry.links, entry.number, entry.room = status.st_nlink, status.st_ino, status.st_blocks * 512
    if stat.S_ISLNK(status.st_mode):
        entry.target = os.readlink(real)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        entry.device = os.major(status.st_rdev), os.minor(status.st_rdev)
    return entry.interpret()


class Usage:
    """What all below a directory takes: bytes, and how many files and directories it is."""

    __slots__ = ("files", "path", "room")

    def __init__(self, path):
        self.path = path
        self.room = 0
        self.files = 0

    def as_dictionary(self):
        """Return it for --json."""
        return {"path": self.path, "allocated": self.room, "files": self.files}


def directories(image, top, environ):
    """Return the Usage of every directory below a path and of the path itself, largest first.

    A file with several names counts where it is met first. Raises OverlayError as walk().
    """
    top = "/" + os.path.normpath("/" + top).strip("/")
    found = {top: Usage(top)}
    counted = set()
    for entry in walk(image, top, environ):
        if entry.is_directory:
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


def _above(path):
    return path.rpartition("/")[0] or "/"
