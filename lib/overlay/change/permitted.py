"""Whether an overlay may be updated, or put back, by the caller, now."""

from __future__ import annotations

import os
import time

from overlay.errors import NOT_ALLOWED, OverlayError, quote
from overlay.image import lock
from overlay.safety import guard
from overlay.safety.use import updated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.image.kind import Image


def take_update(image: Image, wait: float | None, waits: bool = True) -> None:
    """Announce an update. Raises OverlayError (IN_USE) while there is another.

    wait   seconds to wait for its end; None not at all
    waits  whether the user could have asked for that
    """
    start = time.monotonic()
    while not lock.take_update(image.descriptor):
        if wait is None or time.monotonic() - start >= wait:
            raise updated(image.path, waits)
        time.sleep(lock.POLL)


def check_own(old: Image) -> None:
    """Refuse what could not keep its owner, or be written, before anything is done."""
    if not old.writable and not old.is_compressed:
        raise guard.may_not_write(old.path)
    directory = os.path.dirname(os.path.realpath(old.path))
    if not os.access(directory, os.W_OK | os.X_OK):
        raise OverlayError(
            f"{quote(old.path)} cannot be updated: you may not create files in {quote(directory)}",
            status=NOT_ALLOWED,
            hint=f"see who may: ls -ld {quote(directory)}",
        )
    if old.status.st_uid != os.geteuid() and os.geteuid() != 0:
        raise OverlayError(
            f"{quote(old.path)} cannot be updated: it is not yours, and the new one would be",
            status=NOT_ALLOWED,
            hint=f"ask its owner; or update a copy: cp --sparse=always {quote(old.path)} NAME",
        )
    if not old.upper_is_mine:
        why, hint = old.whose_inside()
        words = f"{quote(old.path)} cannot be updated: {why}"
        raise OverlayError(words, status=NOT_ALLOWED, hint=hint)
