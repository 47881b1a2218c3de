"""Repairs that need decisions: e2fsck's answer to everything is yes, on a copy.

The original stays as it is unless the copy is sound, and then goes in one step.
"""

from __future__ import annotations

import os

from overlay.errors import CANNOT_CREATE, DAMAGED, OverlayError, quote, reason
from overlay.host import ending, process
from overlay.image import ext3, ext3_write
from overlay.image.ext3_read import Reader
from overlay.safety import blocks, repair, replace, salvage, stale

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from overlay.image.ext3_image import Ext3Image


def repair_copy(whole: Ext3Image, scratch: str, environ: Mapping[str, str]) -> str:
    """Repair a copy of an image with e2fsck -y, and put it in the place of the original.

    whole  the Image, locked against everybody
    The original stays as it is unless the copy is sound. Returns what was done, in words.
    Raises OverlayError (DAMAGED, CANNOT_CREATE).
    """
    path = os.path.realpath(whole.path)
    e2fsck = process.need("e2fsck", environ)
    replace.check_names(path, os.fstat(whole.descriptor))
    repair.finish_interrupted(path, whole.descriptor, environ)
    stale.remove_stale(os.path.dirname(path), scratch)
    if ext3.read_superblock(whole.descriptor).is_clean and repair.is_sound(
        e2fsck, whole.descriptor, environ
    ):
        repair.check_layout(path, whole.descriptor)
        return "clean"
    before = salvage.lost_and_found(whole.descriptor)
    names = salvage.names(whole.descriptor)
    with ending.cleaning_up():
        try:
            with replace.unfinished(path) as new:
                descriptor = new.descriptor
                blocks.copy(path, whole.descriptor, descriptor, environ)
                status = os.fstat(whole.descriptor)
                if status.st_blocks * 512 >= status.st_size:
                    blocks.reserve(path, descriptor, status.st_size, environ, None, "repair")
                salvage.spare(e2fsck, descriptor, environ)
                ext3_write.set_dir_nlink(descriptor, whole.superblock, True)
                first = process.run([e2fsck, "-f", "-y", descriptor], environ)
                ext3_write.set_dir_nlink(descriptor, whole.superblock, False)
                salvage.save_work(descriptor, environ)
                _see_that_it_is_taken(
                    path, whole.descriptor, first.status, e2fsck, descriptor, environ
                )
                found = salvage.lost_and_found(descriptor) - before
                told = salvage.describe(descriptor, found)
                gone = salvage.gone(names, salvage.names(descriptor))
                lost = any(one.had_content for one in gone)
                way = salvage.way_out(descriptor, "/lost+found", ".")
                kept = salvage.keep(path, whole.descriptor, environ) if lost else None
                new.over(whole.descriptor)
        except OSError as error:
            raise OverlayError(
                f"cannot repair {quote(path)}: {reason(error)}; it is left as it is",
                status=CANNOT_CREATE,
            ) from None
    return _repaired(path, told, way, gone, kept)


def _see_that_it_is_taken(
    path: str, original: int, status: int, e2fsck: str, descriptor: int, environ: Mapping[str, str]
) -> None:
    """Raise OverlayError (DAMAGED) unless a session would take a repaired image.

    original    descriptor of the image as it is
    status      of the repair, as e2fsck gave it
    descriptor  of the repaired copy
    """
    why = f"e2fsck {status}"
    if repair.is_sound(e2fsck, descriptor, environ):
        repair.check_layout(path, descriptor)
        superblock = ext3.read_superblock(descriptor)
        if not superblock.is_ext3:
            why = "it would not be an ext3 image any more"
        elif Reader(descriptor, superblock).lookup(b"upper") is None:
            why = "its directory upper, which has all that is in it, would have no name any more"
        else:
            return
    raise OverlayError(
        f"{quote(path)} cannot be repaired ({why}); it is left as it is",
        status=DAMAGED,
        hint="restore it from a copy, or save what can be read:"
        f" {salvage.way_out(original, '/upper', 'DIRECTORY')} {quote(path)}",
    )


def _repaired(
    path: str, found: str, way: str, gone: Sequence[salvage.Gone], kept: str | None
) -> str:
    """Return what a repair did, with the files that lost their names, and the names that are gone.

    found  lines that describe new files in lost+found
    way    of salvage.way_out(), to get them
    gone   of salvage.gone()
    kept   path of the image as it was; None when it is not kept
    """
    words = "repaired"
    if found:
        words += f"; these files lost their names (to get them: {way} {quote(path)}){found}"
    if gone:
        words += "\nthese names are gone" if found else "; these names are gone"
        if kept:
            words += f" (as it was, it is kept: {quote(kept)})"
        words += ":" + "".join(f"\n  {one.words}" for one in gone)
    return words
