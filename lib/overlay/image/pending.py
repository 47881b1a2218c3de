"""What lies beside an image whose change was interrupted, and what the image is then."""

from __future__ import annotations

import os
import stat

from overlay.image import ext3, magic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

PREFIX = ".overlay-undo."


def path_with(directory: str, words: Iterable[object]) -> str:
    """Return the path of an undo file in a directory, with these words in its name."""
    return os.path.join(directory, PREFIX + ".".join(map(str, words)))


def words_in(entry: str) -> list[str]:
    """Return the words in the name of an undo file, as path_with() was given them."""
    return entry[len(PREFIX) :].partition("-")[0].split(".")


def identity_of(superblock: ext3.Superblock) -> tuple[str, str, str]:
    """Return, as words, what tells an image and its last mount from every other."""
    return superblock.uuid.hex(), str(superblock.mount_time), str(superblock.mount_count)


def read_superblock(path: str, descriptor: int) -> ext3.Superblock:
    """Return the Superblock of an image, also in the midst of a change that an undo file undoes.

    resize2fs writes the superblock word by word. Raises ext3.FormatError, OSError.
    """
    superblock: ext3.Superblock | None
    try:
        superblock = ext3.read_superblock(descriptor)
        if superblock.size <= os.fstat(descriptor).st_size:
            return superblock
    except ext3.FormatError:
        superblock = None
    data = os.pread(descriptor, magic.SUPERBLOCK_SIZE, magic.SUPERBLOCK_OFFSET)
    half = ext3.Superblock(data, in_change=True)
    if _pending(path, os.fstat(descriptor), half):
        return half
    return superblock or ext3.Superblock(data)


def _pending(path: str, status: os.stat_result, superblock: ext3.Superblock) -> bool:
    """Return whether there is an undo file for the state that an image is in."""
    directory, prefix = os.path.dirname(os.path.realpath(path)), f"{PREFIX}{status.st_ino}."
    identity = list(identity_of(superblock))
    try:
        names = os.listdir(directory)
    except OSError:
        return False
    for entry in names:
        if not entry.startswith(prefix) or words_in(entry)[2:] != identity:
            continue
        file = open_ours(os.path.join(directory, entry), status)
        if file is not None:
            file.close()
            return True
    return False


def open_ours(undo: str, status: os.stat_result) -> BinaryIO | None:
    """Return an undo file, open for reading, None when it is not to be trusted.

    status  of the image
    It was made by the owner of the image, or by us, and nobody may write it who may not
    write the image: others could harm that.
    """
    try:
        descriptor = os.open(undo, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    found = os.fstat(descriptor)
    writers = stat.S_IWOTH | (stat.S_IWGRP if found.st_gid == status.st_gid else 0)
    by_others = found.st_mode & (stat.S_IWOTH | stat.S_IWGRP) & ~(status.st_mode & writers)
    mine = found.st_uid in (status.st_uid, os.getuid())
    if stat.S_ISREG(found.st_mode) and mine and not by_others:
        return open(descriptor, "rb")
    os.close(descriptor)
    return None
