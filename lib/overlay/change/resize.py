"""Overlays of another size, or for another number of files.

More room is made in place, with a way back (overlay.safety.undo). Less room is made on a copy, and
another number of files in a new image that everything is written into; either takes the
overlay's place only when it is finished and seen to be sound. So does a larger copy where it is
not known before what is overwritten in place, because something has to move.
"""

from __future__ import annotations

from overlay.change import steps
from overlay.change.grow import Growth
from overlay.change.rebuild import Rebuilding
from overlay.change.shrink import Shrinking
from overlay.errors import CANNOT_CREATE, OverlayError, quote
from overlay.host.room import free_bytes
from overlay.image import ext3
from overlay.image.ext3_read import Reader
from overlay.size import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Union

    from overlay.image.ext3_image import Ext3Image
    from overlay.settings.config import Config

    Resizing = Union[Growth, Rebuilding, Shrinking]


def now(whole: Ext3Image) -> tuple[int, int]:
    """Return (bytes, files) that an image has been made for."""
    superblock = whole.superblock
    length = whole.status.st_size
    if length - superblock.size > superblock.blocks_per_group * superblock.block_size:
        length = superblock.size  # a resize that was cut short has left the file longer
    return length, superblock.inodes_count - ext3.RESERVED_INODES


def resizing(
    whole: Ext3Image,
    wanted: int,
    files: int,
    config: Config,
    notice: Callable[[str], object],
    progress: Callable[[str], object],
) -> Resizing | None:
    """Return what makes an image of another size; None where there is nothing to do.

    whole   the image, locked against everybody
    wanted  bytes
    files   how many files it can hold in all; where that is as now, it follows the size
    notice, progress  called with lines for the user, and with how far it is
    Its plan() tells what do() does; do() returns the new Superblock. Raises OverlayError for
    what cannot work, and so does do(): USAGE when it would be too small, CANNOT_CREATE, DAMAGED.
    """
    size_now, files_now = now(whole)
    if files != files_now:
        return Rebuilding(whole, wanted, files, config, notice, progress)
    if wanted > size_now:
        if _is_known(whole, wanted):
            return Growth(whole, wanted, config.environ, notice)
        _check_room(whole, wanted - size_now if steps.is_reserved(whole.status) else 0)
    if wanted != size_now:
        return Shrinking(whole, wanted, config, notice)
    return None


def _is_known(whole: Ext3Image, wanted: int) -> bool:
    """Return whether we can write ourselves what a growth in place overwrites."""
    try:
        return bool(list(Reader(whole.descriptor, whole.superblock).changed_by_growth(wanted)))
    except ext3.FormatError:
        return False


def _check_room(whole: Ext3Image, more: int) -> None:
    """Raise OverlayError (CANNOT_CREATE) without room for a copy of an image, some bytes larger."""
    needed = min(whole.status.st_blocks * 512, whole.superblock.size) + more
    free = free_bytes(whole.descriptor)
    if needed > free:
        raise OverlayError(
            f"there is no room to make {quote(whole.path)} larger: that is done on a copy of it,"
            f" which takes {format_size(needed)}, and {format_size(free)} are free",
            status=CANNOT_CREATE,
            hint="make room there, or move the overlay to where there is",
        )
