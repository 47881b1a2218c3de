"""Squashfs files, listed before they are unpacked: what is in them is not trusted."""

from __future__ import annotations

import os
import re
import signal
import stat

from overlay.create.allowance import check_room
from overlay.create.kind import Source, open_regular
from overlay.create.place import DEEPEST, copy_tree, make_directories
from overlay.create.workplace import was_changed
from overlay.errors import DAMAGED, OverlayError, quote
from overlay.host import private, process
from overlay.image.magic import is_squashfs
from overlay.image.squashfs import LONGEST_LISTING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from overlay.create.allowance import Allowance
    from overlay.create.attributes import LeftOut
    from overlay.create.kind import Means
    from overlay.host.process import Result

# A line of unsquashfs -lln: kind, size or device number, path.
_LISTED = re.compile(
    r"^([a-z-])\S{9} +\d+/\d+ +(\d+)(, *\d+)? +\d+-\d\d-\d\d \d\d:\d\d (/.*)?$", re.M | re.A
)

# What unsquashfs says of attributes: (which, of which file).
_REFUSED = {
    "large": r"failed to write xattr (\S+) for file (.*?) because no extended attribute space",
    "root": r"could not write xattr (\S+) for file (.*?) because you're not superuser",
}
_EXPECTED = re.compile(r"could not create character device|^write_xattr: |^Further error messages")


class Squashfs(Source):
    """A squashfs file, such as pack-overlay makes."""

    __slots__ = ()

    is_overlay = True

    @classmethod
    def begins(cls, head: bytes) -> bool:
        return is_squashfs(head)

    def words(self, target: str) -> list[str]:
        return ["unsquashfs", "-n", "-f", "-d", target, self.path]

    def _bring(self, target: str, means: Means) -> None:
        environ = means.config.environ
        unpack_squashfs(self.path, target, means.allowance, environ, means.left_out)


def unpack_squashfs(
    path: str, target: str, allowance: Allowance, environ: Mapping[str, str], left_out: LeftOut
) -> None:
    """Unpack a squashfs file whose listing shows nothing that speaks against it.

    left_out  takes note of attributes that cannot be carried

    Raises OverlayError, and OSError (ENOSPC, EDQUOT) when there is no room for it.
    """
    import tempfile

    program = process.need("unsquashfs", environ)
    with open_regular(path) as file:
        before = private.identity(os.fstat(file.fileno()))
        words: list[str | int] = [program, "-lln", "-d", "", file.fileno()]
        listing = process.run(words, environ, most=LONGEST_LISTING)
        if listing.status == -signal.SIGXFSZ:
            raise OverlayError(
                f"{quote(path)} is refused: the names in it are too long", status=DAMAGED
            )
        if listing.status:
            raise _fails(path, listing)
        whiteouts = _whiteouts(path, listing.output, allowance)
        into = target
        if not _only_directories(target):
            # unsquashfs writes through links that it finds; alone in a directory it finds none.
            into = tempfile.mkdtemp(dir=os.path.dirname(target))
        try:
            _run_unsquashfs(program, path, file.fileno(), into, whiteouts, environ, left_out)
            if private.identity(os.fstat(file.fileno())) != before:
                raise was_changed(quote(path))
            if into != target:
                copy_tree(into, target, environ, "--link")
        finally:
            if into != target:
                private.remove(into)


def _fails(path: str, result: Result) -> OverlayError:
    words = process.last_line(result.errors, result.output)
    return OverlayError(f"cannot unpack {quote(path)}: {words}", status=DAMAGED)


def _only_directories(target: str) -> bool:
    return not any(
        files or any(os.path.islink(os.path.join(directory, name)) for name in names)
        for directory, names, files in os.walk(target)
    )


def _whiteouts(path: str, listing: str, allowance: Allowance) -> list[str]:
    """Return the names of the deletions in a squashfs file: overlayfs's devices 0/0.

    Names may hold the ends of lines, so lines can be forged: they only add to what is looked
    for here. Files with several names count with each. Raises OverlayError for other devices,
    and for what is too large or too deep.
    """
    found, left, count = [], allowance.bytes, -1  # without its top
    for match in _LISTED.finditer(listing):
        kind, number, minor, name = match.groups("")
        count += 1
        if count > allowance.files:
            raise allowance.too_many(path)
        if name.count("/") > DEEPEST:
            raise OverlayError(f"{quote(path)} is refused: it is too deep", status=DAMAGED)
        if kind == "-":
            left -= int(number)
        elif kind in "bc":
            if (kind, int(number), int(minor.strip(", "))) != ("c", 0, 0):
                raise OverlayError(f"{quote(path)} is refused: it holds a device", status=DAMAGED)
            found.append(name.lstrip("/"))
    if left < 0:
        raise allowance.too_much(path)
    return found


def _note_attributes(result: Result, target: str, left_out: LeftOut) -> str | None:
    """Note the attribute that unsquashfs could not set, of which it names the first one.

    Return "large" when it gave up because one is larger than the file system here takes,
    "root" when it went on without those that only root may set, None when all were set.
    """
    said = result.errors + result.output
    for why, pattern in _REFUSED.items():
        found = re.search(pattern, said, re.DOTALL) if result.status else None
        if found:
            path = "/" + os.path.relpath(found[2], target)
            left_out.add(found[1], path)
            left_out.is_whole = False
            return why
    return None


def _run_unsquashfs(
    program: str,
    path: str,
    descriptor: int,
    target: str,
    whiteouts: Collection[str],
    environ: Mapping[str, str],
    left_out: LeftOut,
) -> None:
    """Unpack into a directory without links, and make the deletions there.

    path, descriptor  its name, for messages, and what was listed
    unsquashfs makes devices for root only. Every user may make the character device 0/0,
    overlayfs's mark of a deletion (mknod(2), Linux 5.8).
    """
    words: list[str | int] = [program, "-n", "-f", "-d", target]
    result = process.run([*words, descriptor], environ)
    refused = _note_attributes(result, target, left_out)
    if refused == "large":
        result = process.run([*words, "-no-xattrs", descriptor], environ)
    lines = (result.errors + result.output).splitlines()
    lines = [line for line in lines if not _EXPECTED.search(line)]
    expected = (whiteouts or refused) and not any("rror" in line for line in lines)
    if result.status and not expected:
        check_room(result.errors + result.output)
        raise _fails(path, result)
    for name in whiteouts:
        device = os.path.join(target, name)
        parent, parts = os.path.dirname(name), name.split("/")
        if ".." in parts or not make_directories(target, parent):
            raise OverlayError(f"{quote(path)} is refused: {quote(name)}", status=DAMAGED)
        if not os.path.lexists(device):
            os.mknod(device, stat.S_IFCHR | 0o600, 0)
