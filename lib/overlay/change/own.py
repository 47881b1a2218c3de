"""A copy of somebody else's overlay, made the caller's own."""

from __future__ import annotations

import os

from overlay import size
from overlay.errors import quote
from overlay.image import ext3, ext3_write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from overlay.image.ext3_image import Ext3Image


def own(whole: Ext3Image, notice: Callable[[str], object]) -> None:
    """Give all that is inside to the caller, so that they can mount it writable.

    A kill in its midst leaves some files to each, and the image marked as not clean: the
    next session checks it, and doing it again completes it.
    """
    ext3_write.write_state(whole.descriptor, 0)
    changed = ext3_write.give_away(whole.descriptor, whole.superblock, os.getuid(), os.getgid())
    ext3_write.write_state(whole.descriptor, ext3.STATE_CLEAN)
    notice(f"{quote(whole.path)}: {size.format_files(changed)} are yours now")
