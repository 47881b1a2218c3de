"""What an overlay carries of itself, written anew into its image by debugfs(8).

debugfs keeps no journal: what it writes into is a copy, or tables of which repair makes a note.
"""

from __future__ import annotations

import os

from overlay.environment import history, note
from overlay.errors import CANNOT_CREATE, OverlayError, quote
from overlay.host import ending, private, process
from overlay.image import ext3
from overlay.image.ext3_image import Ext3Image
from overlay.safety import repair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from overlay.image.kind import Image

_MARGIN = 1 << 16  # bytes that are left free beside what is written


def histories(image: Image, entry: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the histories of an overlay with one more entry, by their paths inside.

    One that carries none gets none, and one of a newer version stays as it is.
    """
    found = {}
    for name, (number, entries) in history.read(image).items():
        if number <= history.FORMAT:
            try:
                data = history.data([*entries, dict(entry)])
            except RecursionError:  # nobody writes such a one but to do harm
                continue
            found[note.path(name, history.NAME)] = data
    return found


def add_entry(
    whole: Ext3Image, entry: Mapping[str, Any], scratch: str, environ: Mapping[str, str]
) -> bool:
    """Add an entry to what histories an image has, in its place; return whether they have it.

    whole    clean, and locked whole
    scratch  a directory on a disk of the node
    Raises OverlayError; the image is as it was then.
    """
    files = histories(whole, entry)
    if not files or not has_room(whole, files):
        return not files
    place = private.make_work(scratch, os.uname().nodename, os.getpid(), ".carried")
    try:

        def work(copy: int) -> None:
            status, superblock = os.fstat(copy), ext3.read_superblock(copy)
            write(Ext3Image(whole.path, status, copy, True, superblock), files, [], place, environ)

        with ending.cleaning_up():
            repair.change(whole.path, whole.descriptor, environ, work)
    finally:
        private.leave(scratch, place)
    return True


def has_room(whole: Ext3Image, files: Mapping[str, bytes]) -> bool:
    """Return whether files would leave room in an image."""
    blocks = sum(len(data) // whole.superblock.block_size + 2 for data in files.values())
    needed = blocks * whole.superblock.block_size + _MARGIN
    return (
        whole.superblock.available_bytes > needed
        and whole.superblock.free_inodes_count > 2 * len(files) + 4
    )


def write(
    whole: Ext3Image,
    files: Mapping[str, bytes],
    removed: Iterable[str],
    place: str,
    environ: Mapping[str, str],
) -> None:
    """Write files into an image, with the directories above them, and remove others.

    whole    a copy, locked whole
    files    content by the path inside
    removed  paths inside of what is not to be there
    place    a private directory for what debugfs(8) reads
    Raises OverlayError (CANNOT_CREATE) when they are not there then.
    """
    lines = [f"rm upper{path}\n" for path in removed if whole.holds(path)]
    made: set[str] = set()
    for number, (path, data) in enumerate(files.items()):
        if whole.content_of(path, len(data)) == data:
            continue
        lines += _directories(whole, os.path.dirname(path), made)
        if whole.holds(path):
            lines.append(f"rm upper{path}\n")
        name = os.path.join(place, f"carried.{number}")
        with open(name, "wb") as file:
            file.write(data)
        lines += [f'write "{name}" upper{path}\n', *_owned(path, 0o100644)]
    if not lines:
        return
    words: list[str | int] = [process.need("debugfs", environ), "-w", "-f", "-", whole.descriptor]
    result = process.run(words, environ, text="".join(lines))
    whole.read_again()
    for path, data in files.items():
        if whole.content_of(path, len(data)) != data:
            why = process.last_line(result.errors, otherwise=f"{quote(path)} cannot be written")
            raise OverlayError(
                f"{quote(whole.path)} cannot take what it is to carry of itself: {why}",
                status=CANNOT_CREATE,
                hint=f"is it full? See: show-overlay {quote(whole.path)}",
            )


def _directories(whole: Ext3Image, directory: str, made: set[str]) -> list[str]:
    """Return the lines for debugfs that make a directory inside, and those above it.

    made  those that are made already, to which these are added
    """
    lines = []
    path = ""
    for part in filter(None, directory.split("/")):
        path += f"/{part}"
        if path not in made and not whole.holds(path):
            lines += [f"mkdir upper{path}\n", *_owned(path, 0o40755)]
        made.add(path)
    return lines


def _owned(path: str, mode: int) -> list[str]:
    """Return the lines for debugfs that give something inside its mode, and to the caller."""
    fields = {"uid": str(os.getuid()), "gid": str(os.getgid()), "mode": f"0{mode:o}"}
    return [f"sif upper{path} {name} {value}\n" for name, value in fields.items()]
