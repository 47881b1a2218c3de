"""What must be in an overlay, so that a session can start in it."""

from __future__ import annotations

import os
import stat

from overlay.errors import DAMAGED, OverlayError, quote
from overlay.image import magic
from overlay.image.ext3 import FormatError
from overlay.image.kind import damaged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.image.kind import Image

# What makes the engines take a file for something else than what begins with its first byte,
# beside the mark of a SIF: a launch line, behind which they look for the file system.
_LAUNCH = b" run-singularity"

_MADE_SO = (
    "do not open it with the plain engine either, it can delete your files; ask whoever made it"
    " for another"
)


def check_locked_layout(image: Image) -> None:
    """Do what check_layout() does, with the words for an image that is damaged besides.

    image  an Image that is locked
    """
    try:
        check_layout(image)
    except (FormatError, OSError) as error:
        raise damaged(image.path, error) from None


def check_layout(image: Image) -> None:
    """See that upper, work and work/work of an overlay are directories of their own, or absent.

    The engine and fuse-overlayfs open them by name, and empty work/work. Through a link they
    would read, write and delete where it leads on the host; as two names of one directory,
    what the overlay holds. To be asked of what is locked, and again when it was repaired.
    Raises OverlayError (DAMAGED), FormatError, OSError.
    """
    if image.is_file:
        _check_start(image)
    seen: list[object] = []
    for name, mode, identity in image.layout():
        what = f"{name} in {quote(image.path)} is"
        if stat.S_ISLNK(mode):
            what += " a symbolic link, and a session would read, change or delete what it leads to"
        elif not stat.S_ISDIR(mode):
            what += " not a directory, and no session can work so"
        elif identity in seen:
            what += " another name of a directory that a session uses, and would delete"
        else:
            seen.append(identity)
            continue
        raise OverlayError(what, status=DAMAGED, hint=_MADE_SO)


def _check_start(image: Image) -> None:
    """Refuse what the engine would take for something else: it would not be what we look at."""
    head = os.pread(image.descriptor, 2048, 0)  # as much as the engine reads
    if head.find(_LAUNCH) > 0 or magic.is_sif(head):
        raise OverlayError(
            f"{quote(image.path)} is an image in another, and the engine would not open"
            f" the {image.kind} that it seems to be",
            status=DAMAGED,
            hint=_MADE_SO,
        )
