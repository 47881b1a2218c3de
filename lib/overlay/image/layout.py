"""What must be in an overlay, so that a session can start in it."""

import os
import stat

from overlay.errors import DAMAGED, OverlayError, quote, reason
from overlay.image import ext3

# What makes the engines take a file for something else than what begins with its first byte:
# a launch line, behind which they look for the file system, and the mark of a SIF.
_LAUNCH = b" run-singularity"
_SIF = b"SIF_MAGIC"

_MADE_SO = (
    "do not open it with the plain engine either, it can delete your files; ask whoever made it"
    " for another"
)


def check_locked_layout(image):
    """Do what check_layout() does, with the words for an image that is damaged besides.

    image  an Image that is locked, or what has its fields path, kind, descriptor, superblock
    """
    try:
        check_layout(image)
    except (ext3.FormatError, OSError) as error:
        words = reason(error) if isinstance(error, OSError) else error
        raise OverlayError(
            f"{quote(image.path)} is damaged: {words}",
            status=DAMAGED,
            hint=f"check-overlay {quote(image.path)}",
        ) from None


def check_layout(image):
    """See that upper, work and work/work of an overlay are directories of their own, or absent.

    The engine and fuse-overlayfs open them by name, and empty work/work. Through a link they
    would read, write and delete where it leads on the host; as two names of one directory,
    what the overlay holds. To be asked of what is locked, and again when it was repaired.
    Raises OverlayError (DAMAGED), ext3.FormatError, OSError.
    """
    if image.kind != "directory":
        _check_start(image)
    if image.kind == "squashfs":
        return  # taken from its root, and none of its names is opened
    parts = _layout_of_ext3(image) if image.kind == "ext3" else _layout_of_directory(image)
    seen = []
    for name, mode, number in parts:
        what = f"{name} in {quote(image.path)} is"
        if stat.S_ISLNK(mode):
            what += " a symbolic link, and a session would read, change or delete what it leads to"
        elif not stat.S_ISDIR(mode):
            what += " not a directory, and no session can work so"
        elif number in seen:
            what += " another name of a directory that a session uses, and would delete"
        else:
            seen.append(number)
            continue
        raise OverlayError(what, status=DAMAGED, hint=_MADE_SO)


def _check_start(image):
    """Refuse what the engine would take for something else: it would not be what we look at."""
    head = os.pread(image.descriptor, 2048, 0)  # as much as the engine reads
    if head.find(_LAUNCH) > 0 or head[32:41] == _SIF:
        raise OverlayError(
            f"{quote(image.path)} is an image in another, and the engine would not open"
            f" the {image.kind} that it seems to be",
            status=DAMAGED,
            hint=_MADE_SO,
        )


def _layout_of_ext3(image):
    """Yield (name, mode, inode number) of what is there, of upper, work and work/work."""
    reader = ext3.Reader(image.descriptor, image.superblock)
    number, above = ext3.ROOT_INODE, reader.inode(ext3.ROOT_INODE)
    yield "its top", above.mode, number
    for name in ("upper", "work", "work/work"):
        found = reader.only(above, name.rpartition("/")[2].encode())
        if found:
            yield name, found[1].mode, found[0]
        if name == "work":
            if not found:
                return
            above = found[1]


def _layout_of_directory(image):
    """Yield the same of a directory. None of its links is followed, nor any behind our back."""
    if image.is_plain_directory:
        return  # it is taken from its top, to be read
    yield from _status_of("upper", "upper", image.descriptor)
    yield from _status_of("work", "work", image.descriptor)
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        work = os.open("work", flags, dir_fd=image.descriptor)
    except (FileNotFoundError, PermissionError):
        return
    try:
        yield from _status_of("work/work", "work", work)
    finally:
        os.close(work)


def _status_of(name, last, directory):
    try:
        status = os.stat(last, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, PermissionError):
        return  # the engine, which is the caller, cannot reach it either
    yield name, status.st_mode, (status.st_dev, status.st_ino)
