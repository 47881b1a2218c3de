"""What unsquashfs(1) tells of a squashfs file, or of the one in a base image."""

from __future__ import annotations

import os
import re
import stat

from overlay.host import process
from overlay.image import ext3, sif
from overlay.image.entry import Entry, nothing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from overlay.image.squashfs_image import SquashfsImage

# -rw-r--r-- user/group   1234 2024-05-31 12:34 /name -> target; for a device two numbers
_LINE = re.compile(
    r"([-a-zA-Z]{10}) (\S+)/(\S+) +(?:(\d+), *(\d+)|(\d+)) (\d+)-(\d\d)-(\d\d) (\d\d):(\d\d) ?(.*)",
    re.DOTALL,
)

LONGEST_LISTING = 1 << 30  # bytes that are read of it; ten million files have long names in less

# The bytes of which names are made that a listing shows as they are.
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.+=@%,")


def walk(image: SquashfsImage, top: str, environ: Mapping[str, str]) -> Iterator[Entry]:
    """Yield the Entries below a path in a squashfs file, as contents.walk() does."""
    program = process.need("unsquashfs", environ)
    command: list[str | int] = [program, "-ll", "-d", "", image.descriptor]
    variables = {"TZ": "UTC0", "LC_ALL": "C"}
    result = process.run(command, environ, variables=variables, most=LONGEST_LISTING)
    if result.status:
        raise ext3.FormatError(
            process.last_line(result.errors, otherwise="unsquashfs cannot read it")
        )
    below = top.rstrip("/") + "/"
    there = top == "/"
    for line in _joined(result.output):
        match = _LINE.match(line)
        if match is None:
            continue  # _joined() yields none
        mode, owner, group, major, minor, size, *date, rest = match.groups()
        target = None
        if mode[0] == "l":
            # What follows the last arrow is as long as the link says: a name may have one too.
            data = rest.encode(errors="surrogateescape")
            length = int(size or 0)
            target = os.fsdecode(data[len(data) - length :])
            rest = os.fsdecode(data[: len(data) - length - len(" -> ")])
        is_top = rest == top
        there = there or is_top
        if not (rest.startswith(below) and rest != below) and not (is_top and mode[0] != "d"):
            continue
        entry = Entry(rest, _mode(mode), owner, group, int(size or 0), _seconds(date))
        entry.target = target
        if major is not None:
            entry.device = int(major), int(minor)
        yield entry.interpret()
    if not there:
        raise nothing(image, top)


def _seconds(date: list[str]) -> int:
    """Return the time of a line, year to minute as text; 0 when there is no such time.

    A name with a line feed in it can make a line of anything.
    """
    import calendar

    try:
        return calendar.timegm((*map(int, date), 0))
    except (ValueError, OverflowError):
        return 0


def _joined(text: str) -> Iterator[str]:
    """Yield the lines of a listing; a name with a line feed in it makes one of two."""
    line = None
    for piece in text.split("\n"):
        if _LINE.match(piece):
            if line is not None:
                yield line
            line = piece
        elif line is not None:
            line += "\n" + piece
    if line is not None:
        yield line.rstrip("\n")


_TYPES = {
    "-": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
}


def _mode(text: str) -> int:
    """Return the number that ten letters such as drwxr-sr-t stand for."""
    mode = _TYPES.get(text[0], 0)
    for place, letter in enumerate(text[1:]):
        if letter not in "-ST":
            mode |= 0o400 >> place
        if letter in "sStT":
            mode |= 0o4000 >> place // 3
    return mode


def has_markers(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Return whether an open squashfs file of unknown origin has deletion markers, or may have."""
    program = process.which("unsquashfs", environ)
    if program is None:
        return True
    result = process.run([program, "-l", "-d", "", descriptor], environ, most=LONGEST_LISTING)
    return result.status != 0 or "/.wh." in result.output


def those_named(descriptor: int, paths: list[str], environ: Mapping[str, str]) -> set[str]:
    """Return those of some paths, below the top, that an open squashfs file, or that in a SIF, has.

    Without a listing of all of it. All of them where that cannot be found out. Raises OSError.
    """
    program = process.which("unsquashfs", environ)
    offset = sif.squashfs_offset(descriptor)
    if program is None or offset is None:
        return set(paths)
    words: list[str | int] = [program, "-o", str(offset), "-l", "-d", "", descriptor, *paths]
    result = process.run(words, environ, most=LONGEST_LISTING)
    if result.status:
        return set(paths)
    return set(paths).intersection(line[1:] for line in result.output.split("\n"))


def those_inside(descriptor: int, names: Iterable[bytes], environ: Mapping[str, str]) -> set[bytes]:
    """Return those of some paths that an open squashfs file, or that in a SIF, has; or may have."""
    names = set(names)
    program = process.which("unsquashfs", environ)
    offset = sif.squashfs_offset(descriptor)
    if program is None or offset is None:
        return names
    words: list[str | int] = [program, "-o", str(offset), "-l", "-d", "", descriptor]
    result = process.run(words, environ, most=LONGEST_LISTING)
    if result.status:
        return names
    listed = set(result.output.split("\n"))
    # Names that the listing may show otherwise than they are count as there.
    return {
        one
        for one in names
        if not _SAFE.issuperset(one.replace(b"/", b"").replace(b" ", b""))
        or "/" + one.decode() in listed
    }
