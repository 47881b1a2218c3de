"""What every change of an overlay as a whole does, and its errors."""

from __future__ import annotations

import errno
import os

from overlay import size
from overlay.errors import CANNOT_CREATE, OverlayError, quote, reason
from overlay.host import limits, process
from overlay.host.room import free_bytes
from overlay.image import ext3
from overlay.plan import Step
from overlay.safety import blocks, repair, stale

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from overlay.image.ext3_image import Ext3Image

SMALLER = "choose a smaller size, or make room"


def checking(whole: Ext3Image, environ: Mapping[str, str], notice: Callable[[str], object]) -> Step:
    """Return the Step that looks at an image, and repairs what a session would.

    notice  called with lines for the user that say what was repaired
    """
    path = os.path.realpath(whole.path)

    def check() -> None:
        repair.tell(
            whole.path, repair.make_sound(path, whole.descriptor, environ, full=True), notice
        )
        whole.superblock = ext3.read_superblock(whole.descriptor)
        whole.status = os.fstat(whole.descriptor)

    words = [process.need("e2fsck", environ), "-fn", path]
    return Step(words, action=check, why="what a session would repair is repaired first")


def tidying(path: str, scratch: str | None) -> Step:
    """Return the Step that removes what killed runs have left beside a path, and in scratch."""
    return Step(
        action=lambda: stale.remove_stale(os.path.dirname(path), scratch),
        why="what killed runs have left here is removed",
    )


def reserving(
    name: str, bytes_: int, environ: Mapping[str, str], action: Callable[[], object]
) -> Step:
    """Return the Step that makes all blocks of a file its own, by an action."""
    return Step(
        [process.need("fallocate", environ), "-l", str(bytes_), name],
        action=action,
        why=blocks.RESERVING,
    )


def is_reserved(status: os.stat_result) -> bool:
    """Return whether all blocks of a file are its own."""
    return status.st_blocks * 512 >= status.st_size


def check_room(path: str, needed: int) -> None:
    """Raise OverlayError (CANNOT_CREATE) where so many bytes more have no room."""
    free = free_bytes(os.path.dirname(path))
    if needed > free:
        raise OverlayError(
            f"there is no room for {quote(path)}: {size.format_size(needed)} more are needed,"
            f" {size.format_size(free)} are free",
            status=CANNOT_CREATE,
            hint=SMALLER,
        )


def failed(path: str, why: OSError | str) -> OverlayError:
    """Return what to say of a resize that failed and changed nothing."""
    words, hint = why if isinstance(why, str) else reason(why), None
    limit = limits.of_files() if isinstance(why, OSError) and why.errno == errno.EFBIG else None
    if limit is not None:
        words, hint = limit, limits.HINT
    return OverlayError(
        f"cannot resize {quote(path)}: {words}; it is as it was", status=CANNOT_CREATE, hint=hint
    )
