"""The sources that a new overlay is filled with: named, told apart, unpacked.

Archives are unpacked into a staging directory on node-local scratch; directories are read
where they are.
"""

import errno
import math
import os

from overlay.create.squashfs import unpack_squashfs
from overlay.create.tar import Unpacker, compression, is_tar, open_regular, unpack_tar
from overlay.errors import CANNOT_CREATE, DAMAGED, MISSING, USAGE, OverlayError, quote, reason


class Source:
    """Something to fill an overlay with.

    path  where it is
    dest  where its content appears inside, an absolute path
    kind  "directory", "tar" or "squashfs"
    """

    __slots__ = ("dest", "kind", "path")

    def __init__(self, path, dest, kind):
        self.path = path
        self.dest = dest
        self.kind = kind


def parse_source(text, hidden):
    """Return the Source of SOURCE[:DEST].

    hidden  directories of the host that cover what lies in their place inside
    Raises OverlayError: USAGE for a DEST that cannot be, MISSING and DAMAGED for a SOURCE.
    """
    path, colon, dest = text.rpartition(":")
    if not colon or not dest.startswith("/"):
        path, dest = text, None
    kind = _kind(path)
    if dest is None:
        name = os.path.basename(os.path.realpath(path))
        dest = "/" + name if kind == "directory" else "/"
    if ".." in dest.split("/"):
        raise OverlayError(f"{quote(dest)} must not hold ..", status=USAGE)
    dest = os.path.normpath("/" + dest.strip("/"))
    for directory in hidden:
        if (dest + "/").startswith(directory.rstrip("/") + "/"):
            raise OverlayError(
                f"{quote(dest)} would not be seen inside: the host's {quote(directory)} covers it",
                status=USAGE,
                hint=f"choose another place: --from {quote(path)}:/opt/NAME",
            )
    return Source(path, dest, kind)


def _kind(path):
    """Return what a source is."""
    try:
        if os.path.isdir(path):
            os.listdir(path)
            return "directory"
        with open_regular(path) as file:
            head = file.read(512)
    except (OSError, ValueError) as error:
        words = reason(error) if isinstance(error, OSError) else "it is no file name"
        raise OverlayError(f"cannot read {quote(path)}: {words}", status=MISSING) from None
    if head[:4] == b"hsqs":
        return "squashfs"
    if compression(head) or is_tar(head):
        return "tar"
    raise OverlayError(
        f"{quote(path)} is neither a directory, a tar archive nor a squashfs file",
        status=DAMAGED,
    )


def unpack(source, target, *, limit, environ, files=math.inf, tick=lambda count: None):
    """Unpack an archive into a directory.

    limit  bytes that its files may have in all
    files  how many they may be, of a tar archive
    tick   called with how many there are by now, now and then
    Raises OverlayError: DAMAGED for a member that would reach outside, CANNOT_CREATE when
    the limit or the room on scratch is not enough, UNAVAILABLE without the tool.
    """
    os.makedirs(target, exist_ok=True)
    try:
        if source.kind == "squashfs":
            unpack_squashfs(source.path, target, limit, environ)
        else:
            unpacker = Unpacker(source.path, target, limit, source.dest != "/", files, tick)
            unpack_tar(source.path, unpacker, environ)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OverlayError(
                f"there is no room to unpack {quote(source.path)} in {quote(target)}:"
                f" {reason(error)}",
                status=CANNOT_CREATE,
                hint="set TMPDIR to a local directory with room",
            ) from None
        raise OverlayError(
            f"cannot unpack {quote(source.path)}: {reason(error)}", status=DAMAGED
        ) from None
