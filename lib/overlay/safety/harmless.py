"""Damage at which e2fsck -p stops, and which is mended without a loss all the same.

A kill in the midst of an unlink(2), a mkdir(2) or a rename(2) leaves a file without a name, or
one with two names of which it knows one; one in the midst of a write(2) leaves pointers behind
a file's end that lead to what stood there before. e2fsck(8) asks then, and is told yes here when
it asks nothing else, and when all that could be reached before can be reached afterwards.
"""

from __future__ import annotations

import re

from overlay.image import ext3
from overlay.image.ext3_read import Reader
from overlay.safety import e2fsck, salvage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from overlay.host.process import Result

# What e2fsck says before it asks, as problem.c of e2fsprogs has it; names in it are quoted.
_HARMLESS = re.compile(
    r"Inode \d+, i_(blocks|size) is \d+, should be \d+\."
    r"|Inode \d+ ref count is \d+, should be \d+\."
    r"|Deleted inode \d+ has zero dtime\."
    r"|Unattached (zero-length )?inode \d+\.?"
    r"|Unconnected directory inode \d+ \(was in .*\)"
    r"|'\.\.' in .* \(\d+\) is .* \(\d+\), should be .* \(\d+\)\."
    r"|Entry '.*' in .* \(\d+\) is a link to directory .* \(\d+\)\."
    r"|Entry '.*' in .* \(\d+\) has deleted/unused inode \d+\."
    r"|Entry '.*' in .* \(\d+\) has an incorrect filetype \(was \d+, should be \d+\)\."
    r"|(Block|Inode) bitmap differences: .*"
    r"|(Free blocks|Free inodes|Directories) count wrong.* \(\d+, counted=\d+\)\."
    r"|Padding at end of (block|inode) bitmap is not set\."
)
_QUESTION = re.compile(r"(?P<said>.*?)\s*(Fix|Clear|Connect to /lost\+found)\? no")
_CLAIMED = re.compile(
    r"(?:Too many illegal blocks in inode|Multiply-claimed block\(s\) in inode"
    r"|Inode(?= \d+ has illegal block)) (\d+)"
)

_UNUSED = "has deleted/unused inode"
_NAMELESS = "Unattached inode", "Unconnected directory inode"


def mend(program: str, original: int, copy: int, environ: Mapping[str, str]) -> Result | None:
    """Mend what loses nothing, when there is nothing else; return the Result of e2fsck.

    program   the path of e2fsck
    original  descriptor of an image
    copy      that of a copy of its tables, at which e2fsck -p has stopped
    Returns None when something else is wrong: the copy is of no use any more.
    """
    # Names of what is not there, and files without a name: a directory may have been lost.
    said = e2fsck.run(program, "-fn", original, environ).output
    if _UNUSED in said and any(word in said for word in _NAMELESS):
        return None
    said = e2fsck.run(program, "-fn", copy, environ).output
    claimed = {int(found) for found in _CLAIMED.findall(said)}
    if claimed:
        salvage.cut_behind_end(copy, claimed)
        said = e2fsck.run(program, "-fn", copy, environ).output
    if not all(map(_HARMLESS.fullmatch, _asked(said))):
        return None
    before = _reachable(copy, (b"upper",))
    result = e2fsck.run(program, "-fy", copy, environ)
    after = _reachable(copy, (b"upper", b"lost+found"))
    if before is None or after is None or before - after:
        return None
    sound = e2fsck.run(program, "-fn", copy, environ)
    return result if sound.status == 0 and "? no" not in sound.output else None


def _asked(said: str) -> Iterator[str]:
    """Yield what e2fsck -fn has said before each of its questions, all other harm included."""
    before = ""
    for line in filter(None, map(str.strip, said.splitlines())):
        found = _QUESTION.fullmatch(line)
        if found:
            yield found["said"] or before
        elif "? no" in line or "IGNORED" in line or "aborted" in line:
            yield line
        before = line


def _reachable(descriptor: int, tops: tuple[bytes, ...]) -> set[int] | None:
    """Return the inodes below some directories of an image; None when not all can be read.

    Empty directories are left out: one has two names while it is being removed.
    """
    found: set[int] = set()
    try:
        reader = Reader(descriptor, ext3.read_superblock(descriptor))
        pending = [(place[0], place[1]) for top in tops if (place := reader.lookup(top))]
        blocks: set[int] = set()
        seen: set[int] = set()
        while pending:
            number, directory = pending.pop()
            if number in seen:
                continue
            seen.add(number)
            for name, other, _kind in reader.entries(directory, blocks):
                if name in (b".", b".."):
                    continue
                found.add(number)
                inode = reader.inode(other)
                if inode.is_directory:
                    pending.append((other, inode))
                elif inode.mode and inode.links:
                    found.add(other)
    except (ext3.FormatError, OSError):
        return None
    return found
