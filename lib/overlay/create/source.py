"""The sources that a new overlay is filled with: named, told apart, unpacked.

Archives are unpacked into a staging directory on node-local scratch; directories are read
where they are.
"""

from __future__ import annotations

import os

from overlay.create.attributes import complete
from overlay.create.extract import Ext3
from overlay.create.kind import HEAD, Source, open_regular
from overlay.create.place import copy_tree
from overlay.create.squashfs import Squashfs
from overlay.create.tar import Tar
from overlay.errors import DAMAGED, MISSING, USAGE, OverlayError, quote, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlay.create.kind import Means

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
    (b"\x5d\0\0", "compressed by lzma", "xz -dc {} | tar -C DIR -x"),
    (b"\x89LZO", "compressed by lzop", "lzop -dc {} | tar -C DIR -x"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "lz4 -dc {} | tar -C DIR -x"),
)


class Directory(Source):
    """A directory, which is copied where it is not read in its place."""

    __slots__ = ()

    task = "copy"
    is_tree = True

    def words(self, target: str) -> list[str]:
        return ["cp", "-a", "--remove-destination", "--", self.path + "/.", target]

    def notice(self) -> str | None:
        return None

    def _bring(self, target: str, means: Means) -> None:
        copy_tree(self.path, target, means.config.environ, through=means.through + ".source")
        for below, name in complete(self.path, target):
            means.left_out.add(name, "/" + below)


# Kinds of files: the first that one begins like is taken.
FILES: tuple[type[Source], ...] = (Squashfs, Ext3, Tar)


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
        elif "://" in text:
            name = os.path.basename(text)
            error.what = f"{quote(text)} lies on another machine"
            error.hint = f"fetch it first: curl -LO {quote(text)}; then: --from {quote(name)}"
        elif error.status == MISSING and not os.path.lexists(path):
            from overlay.host.near import meant

            whole, colon, mode = text.rpartition(":")
            error.hint = meant(path, os.path.exists) or "name a directory or an archive; see: ls"
            if colon and mode in ("ro", "rw"):
                error.hint = f"it is copied, and not bound: --from {quote(whole)}"
        raise
    if kind is Directory and _is_overlay(path):
        path, dest = os.path.join(path, "upper"), dest or "/"
    dest = dest or kind.usual_dest(path)
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
    return kind(path, dest)


def _is_overlay(path: str) -> bool:
    """Return whether a directory is an overlay, with upper and work and nothing else in it."""
    names = ["upper", "work"]
    whole = [os.path.join(path, name) for name in names]
    return sorted(os.listdir(path)) == names and not any(
        os.path.islink(one) or not os.path.isdir(one) for one in whole
    )


def _kind(path: str) -> type[Source]:
    """Return what kind of source is at a path."""
    try:
        if os.path.isdir(path):
            os.listdir(path)
            return Directory
        with open_regular(path) as file:
            head = file.read(HEAD)
    except (OSError, ValueError) as error:
        raise OverlayError(f"cannot read {quote(path)}: {reason(error)}", status=MISSING) from None
    for kind in FILES:
        if kind.begins(head):
            return kind
    stem = quote(os.path.basename(path).partition(".")[0] or "NAME")
    name = stem if not os.path.lexists(stem) else "DIR"
    for mark, what, command in _OTHERS:
        if head.startswith(mark):
            raise OverlayError(
                f"{quote(path)} is {what}, which is not unpacked here",
                status=DAMAGED,
                hint=f"unpack it first: mkdir {name} && "
                + command.replace("DIR", name).format(quote(path))
                + f"; then: --from {name}:/opt/{stem}",
            )
    raise OverlayError(
        f"{quote(path)} is neither a directory, a tar archive, a squashfs file nor an overlay",
        status=DAMAGED,
        hint=f"put it into a directory: mkdir {name} && cp {quote(path)} {name};"
        f" then: --from {name}:/opt/{stem}",
    )
