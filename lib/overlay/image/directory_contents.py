"""The files inside a directory that is an overlay."""

from __future__ import annotations

import os
import stat

from overlay.errors import reason
from overlay.host.names import group_name, user_name
from overlay.image.entry import Entry, nothing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlay.image.directory_image import DirectoryImage


def walk(image: DirectoryImage, top: str) -> Iterator[Entry]:
    """Yield the Entries below a path, as contents.walk() does."""
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


def _listed(directory: str) -> list[str]:
    with os.scandir(directory) as found:
        return sorted((entry.name for entry in found), reverse=True)


def _of_status(real: str, path: str, status: os.stat_result) -> Entry:
    """Return the Entry of a file in a directory overlay."""
    owner, group = user_name(status.st_uid), group_name(status.st_gid)
    entry = Entry(path, status.st_mode, owner, group, status.st_size, int(status.st_mtime))
    entry.links, entry.number, entry.room = status.st_nlink, status.st_ino, status.st_blocks * 512
    if stat.S_ISLNK(status.st_mode):
        entry.target = os.readlink(real)
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        entry.device = os.major(status.st_rdev), os.minor(status.st_rdev)
    return entry.interpret()
