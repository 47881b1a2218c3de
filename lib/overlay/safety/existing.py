"""An overlay in whose place another is to come, because the user says --force."""

from __future__ import annotations

import time

from overlay.errors import CANNOT_CREATE, DAMAGED, OverlayError, quote
from overlay.host import mounts
from overlay.image import image as images
from overlay.image import lock
from overlay.safety.replace import check_names
from overlay.safety.use import ask_to_let_go, in_use, is_freed, waiting_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from overlay.image.kind import Image


def replaceable(
    path: str, wait: float | None = None, notice: Callable[[str], None] | None = None
) -> Image:
    """Return the overlay at a path that --force is to replace, locked until it is closed.

    Nobody can write it from then on. Sessions may read it, now and later: they go on with the
    old file, which only loses its name.
    wait    seconds to wait for a session that writes it; None not at all, infinity for ever
    notice  called with a line for the user
    Raises OverlayError: DAMAGED for what is not an overlay, IN_USE, CANNOT_CREATE.
    """
    deadline = None if wait is None else time.monotonic() + wait
    said = False
    while True:
        existing = _existing(path)
        try:
            _lock(existing)
            return existing
        except lock.Busy as busy:
            ended = deadline is None or time.monotonic() >= deadline
            # What is left of a killed session is soon ended, and no reason to fail.
            if ended and not is_freed(existing, busy):
                error = in_use(existing, busy, waits=notice is not None)
                existing.close()
                raise error from None
            if not ended:
                if notice and not said:
                    notice(waiting_for(path))
                    ask_to_let_go(existing)
                    said = True
                lock.want(existing.descriptor)
            time.sleep(lock.POLL)
            existing.close()


def _lock(existing: Image) -> None:
    """Lock an overlay that is to be replaced. Raises lock.Busy."""
    mount = mounts.find(existing.descriptor)
    if mount and not mount.keeps_open_files:
        existing.lock_whole()
    else:
        existing.lock_against_writers()


def if_not_needed(path: str) -> str:
    """Return the hint for a file that is the user's to remove."""
    return f"if it is not needed: rm {quote(path)}"


def _existing(path: str) -> Image:
    """Return the Image of an overlay that may be replaced. Raises OverlayError."""
    try:
        existing = images.look(path, write=True)
    except OverlayError as error:
        if error.status == DAMAGED:
            error.what += "; --force replaces overlays only"
            error.hint = if_not_needed(path)
        raise
    why = existing.why_not_replaced()
    if why:
        raise OverlayError(f"{quote(path)} cannot be replaced: {why}", status=CANNOT_CREATE)
    check_names(path, existing.status)
    return existing
