"""Whether what a user names as a base image can be one: not asked of the images of the site."""

from __future__ import annotations

import os

from overlay.errors import DAMAGED, OverlayError, quote
from overlay.image import magic

# Before the image itself old ones have a line that starts them: "image format" of Singularity 2.
_STARTED_BY = (b"singularity\n", b"apptainer\n")

# One of these at least is in whatever a program could run in.
_OF_A_SYSTEM = (".singularity.d", "bin", "usr", "etc", "lib", "lib64", "sbin", "opt", "nix")


def check(path: str) -> None:
    """Refuse a file or directory that the engine cannot take as a base image.

    Raises OverlayError (DAMAGED). What cannot be read is left to the engine.
    """
    try:
        if os.path.isdir(path):
            if not any(os.path.lexists(os.path.join(path, name)) for name in _OF_A_SYSTEM):
                raise _is_not(path, "there is no system in that directory")
            return
        with open(path, "rb") as file:
            head = file.read(magic.HEAD)
    except OSError:
        return
    if magic.is_sif(head) or magic.is_squashfs(head) or any(map(head.__contains__, _STARTED_BY)):
        return
    if not magic.is_superblock(head[magic.SUPERBLOCK_OFFSET :]):
        raise _is_not(path, "it is in none of the formats SIF, squashfs and ext3")
    if _is_overlay(path):
        raise OverlayError(
            f"{quote(path)} is an overlay, not a base image",
            status=DAMAGED,
            hint=f"to lay it over the base image: -o {quote(path)}",
        )


def _is_not(path: str, why: str) -> OverlayError:
    return OverlayError(
        f"{quote(path)} is not a base image: {why}",
        status=DAMAGED,
        hint="name the file of a container image, or leave -c out for the site's own",
    )


def _is_overlay(path: str) -> bool:
    """Return whether a file system of the ext2 family holds the layers of an overlay."""
    from overlay.image.image import look

    try:
        image = look(path)
    except OverlayError:
        return False
    try:
        return not image.lacks_upper
    finally:
        image.close()
