"""The sources that a new overlay is filled with: named, told apart, unpacked.

Archives are unpacked into a staging directory on node-local scratch; directories are read
where they are.
"""

from __future__ import annotations

import os

from overlay.create.allowance import NO_ROOM
from overlay.create.attributes import LeftOut
from overlay.create.squashfs import unpack_squashfs
from overlay.create.tar import Unpacker, compression, is_tar, open_regular, unpack_tar
from overlay.errors import DAMAGED, MISSING, USAGE, OverlayError, quote, reason
from overlay.image.magic import HEAD, SUPERBLOCK_OFFSET, is_squashfs, is_superblock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from overlay.create.allowance import Allowance

# Archives that are not read, as (how it begins, what it is, what unpacks it into DIR).
_OTHERS = (
    (b"PK\3\4", "a zip archive", "unzip -q {} -d DIR"),
    (b"PK\5\6", "a zip archive", "unzip -q {} -d DIR"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x -oDIR {}"),
    (b"Rar!", "a rar archive", "unrar x {} DIR/"),
    (b"0707", "a cpio archive", "cpio -D DIR -idm --no-absolute-filenames <{}"),
    (b"\xc7\x71", "a cpio archive", "cpio -D DIR -idm --no-absolute-filenames <{}"),
    (b"\xed\xab\xee\xdb", "an RPM package", "rpm2cpio {} | cpio -D DIR -idm"),
    (b"!<arch>\ndebian", "a Debian package", "dpkg-deb -x {} DIR"),
    (b"LZIP", "compressed by lzip", "lzip -dc {} | tar -C DIR -x"),
    (b"\x1f\x9d", "compressed by compress", "gzip -dc {} | tar -C DIR -x"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "lz4 -dc {} | tar -C DIR -x"),
)
_LONGEST_EMPTY = 1 << 20  # bytes; tar(1) writes 10,240 zeros for an archive of nothing


class Source:
    """Something to fill an overlay with.

    path  where it is
    dest  where its content appears inside, an absolute path
    kind  "directory", "tar", "squashfs" or "ext3"
    """

    __slots__ = ("dest", "kind", "path")

    def __init__(self, path: str, dest: str, kind: str) -> None:
        self.path = path
        self.dest = dest
        self.kind = kind


def parse_source(text: str, hidden: Iterable[str]) -> Source:
    """Return the Source of SOURCE[:DEST].

    hidden  directories of the host that cover what lies in their place inside
    Raises OverlayError: USAGE for a DEST that cannot be, MISSING and DAMAGED for a SOURCE.
    """
    path, colon, dest = text.rpartition(":")
    if not colon or not dest.startswith("/"):
        path, dest = text, ""
    try:
        kind = _kind(path)
    except OverlayError as error:
        first, colon, rest = text.rpartition(":")
        if colon and not dest and os.path.exists(first):
            error.hint = f"where it goes inside begins with /: --from {quote(first)}:/{rest}"
        raise
    if not dest:
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


def _kind(path: str) -> str:
    """Return what a source is."""
    try:
        if os.path.isdir(path):
            os.listdir(path)
            return "directory"
        with open_regular(path) as file:
            start = file.read(HEAD)
            head = start[:512]
            empty = not start.strip(b"\0") and _is_empty_tar(start + file.read(_LONGEST_EMPTY))
    except (OSError, ValueError) as error:
        raise OverlayError(f"cannot read {quote(path)}: {reason(error)}", status=MISSING) from None
    if is_squashfs(head):
        return "squashfs"
    if is_superblock(start[SUPERBLOCK_OFFSET:]):
        return "ext3"
    if empty or compression(head) or is_tar(head):
        return "tar"
    for mark, what, command in _OTHERS:
        if head.startswith(mark):
            raise OverlayError(
                f"{quote(path)} is {what}, which is not unpacked here",
                status=DAMAGED,
                hint=f"unpack it first: mkdir DIR && {command.format(quote(path))};"
                " then: --from DIR:/PLACE",
            )
    raise OverlayError(
        f"{quote(path)} is neither a directory, a tar archive, a squashfs file nor an overlay",
        status=DAMAGED,
    )


def _is_empty_tar(content: bytes) -> bool:
    """Return whether the content of a file is an archive of nothing: two blocks of zeros or more."""
    return 1024 <= len(content) <= _LONGEST_EMPTY and not content.strip(b"\0")


def unpack(
    source: Source,
    target: str,
    *,
    allowance: Allowance,
    environ: Mapping[str, str],
    left_out: LeftOut | None = None,
    tick: Callable[[int], object] = lambda count: None,
) -> None:
    """Unpack an archive into a directory.

    allowance  the Allowance: how much it may be
    left_out   takes note of attributes that cannot be carried; None: nobody is told
    tick       called with how many files there are by now, now and then
    Raises OverlayError: DAMAGED for a member that would reach outside, CANNOT_CREATE when
    that is not enough, UNAVAILABLE without the tool; OSError (ENOSPC, EDQUOT) when the room on
    scratch is used up meanwhile.
    """
    os.makedirs(target, exist_ok=True)
    left_out = left_out or LeftOut()
    try:
        if source.kind == "squashfs":
            unpack_squashfs(source.path, target, allowance, environ, left_out)
        else:
            unpacker = Unpacker(source.path, target, allowance, source.dest != "/", left_out, tick)
            unpack_tar(source.path, unpacker, environ)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
        raise OverlayError(
            f"cannot unpack {quote(source.path)}: {reason(error)}", status=DAMAGED
        ) from None
