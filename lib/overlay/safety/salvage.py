"""What a repair that answers every question with yes would lose, and what it has lost.

fuse2fs writes the pointer to an indirect block into an inode before the block itself. After
a kill in between, what stands there by chance is read as numbers of blocks, and e2fsck(8)
clears an inode with more than eleven that cannot be: the whole file, although only what was
appended last is missing.

A rename over a file takes several steps there, and a file can be left with a name in the
directory work/work only, which fuse-overlayfs empties at the next mount.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import struct

from overlay.errors import quote
from overlay.host import process
from overlay.image import ext3
from overlay.image.ext3_read import Inode, Reader, parse_entries
from overlay.safety import blocks, e2fsck, replace
from overlay.size import format_files, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence


_CLEARED = re.compile(r"Too many illegal blocks in inode (\d+)\.")
# What e2fsck(8) says of a name that it takes away, and of files of which it changes the content.
_LED_NOWHERE = re.compile(
    r"Entry '(.*)' in /upper(/.*)? \(\d+\) has deleted/unused inode \d+\.\s+clear(?:ed\.|\? yes)",
    re.IGNORECASE,
)
_DOUBTFUL = re.compile(
    r"[Bb]lock #-?\d+ \(\d+\) in inode (\d+)"
    r"|Inode (\d+) has illegal block"
    r"|Multiply-claimed block\(s\) in inode (\d+):"
    r"|Inode (\d+), i_size is \d+, should be \d+"
)
_FIRST_INDIRECT = 12  # of the pointers in an inode; the next two are of more levels
_KEPT = ".before-repair"
_LONGEST = 4096  # bytes of a path: PATH_MAX of Linux
_PLAIN = re.compile(rb"[\w.-]+\Z")  # names that debugfs(8) takes as they are


def spare(program: str, descriptor: int, environ: Mapping[str, str]) -> set[int]:
    """Take from inodes that e2fsck would clear the pointers for which it would; return which.

    program     the path of e2fsck
    descriptor  of an image that nobody uses, open for writing
    The content before them stays. Raises OSError.
    """
    said = e2fsck.run(program, "-fn", descriptor, environ).output
    numbers = {int(found) for found in _CLEARED.findall(said)}
    for number in numbers:
        try:
            _spare(descriptor, number)
        except ext3.FormatError:
            continue  # the inode itself cannot be read, and nothing in it
    return numbers


def _spare(descriptor: int, number: int) -> None:
    reader = Reader(descriptor, ext3.read_superblock(descriptor))
    place = reader.place(number) + 40 + 4 * _FIRST_INDIRECT
    for depth, block in enumerate(reader.inode(number).blocks[_FIRST_INDIRECT:], 1):
        if _is_chance(reader, block, depth):
            os.pwrite(descriptor, bytes(4), place + 4 * (depth - 1))


def cut_behind_end(descriptor: int, numbers: Iterable[int]) -> None:
    """Take from inodes the pointers to indirect blocks of which all is behind the file's end.

    descriptor  of an image that nobody uses, open for writing
    fuse2fs writes them before it writes how long the file has become. Raises OSError.
    """
    for number in numbers:
        try:
            reader = Reader(descriptor, ext3.read_superblock(descriptor))
            inode, size = reader.inode(number), reader.superblock.block_size
            place = reader.place(number) + 40 + 4 * _FIRST_INDIRECT
        except ext3.FormatError:
            continue
        first = _FIRST_INDIRECT
        for depth, block in enumerate(inode.blocks[_FIRST_INDIRECT:], 1):
            if inode.is_file and block and inode.size <= first * size:
                os.pwrite(descriptor, bytes(4), place + 4 * (depth - 1))
            first += (size // 4) ** depth


def _is_chance(reader: Reader, number: int, depth: int) -> bool:
    """Return whether an indirect block holds what stood there by chance.

    In one that does not, the pointers that do not lead anywhere are taken out.
    """
    superblock = reader.superblock
    if not number:
        return False
    try:
        data = reader.block(number)
    except ext3.FormatError:
        return True
    pointers = struct.unpack(f"<{len(data) // 4}I", data)
    first, end = superblock.first_data_block, superblock.blocks_count
    wrong = [index for index, one in enumerate(pointers) if one and not first <= one < end]
    if 2 * len(wrong) > sum(map(bool, pointers)):
        return True
    if depth > 1:
        wrong += [
            index
            for index, one in enumerate(pointers)
            if first <= one < end and _is_chance(reader, one, depth - 1)
        ]
    for index in wrong:
        os.pwrite(reader.descriptor, bytes(4), number * superblock.block_size + 4 * index)
    return False


def save_work(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Move files that have names in work/work only to lost+found, as work-NUMBER.

    descriptor  of an image that nobody uses, sound, open for writing; a copy of its tables does
    Returns whether there were any. Raises OSError.
    """
    try:
        reader = Reader(descriptor, ext3.read_superblock(descriptor))
        work = reader.lookup(b"work/work")
        if work is None or not work[1].is_directory:
            return False
        only = _only_there(reader, work[1])
        has_place = reader.lookup(b"lost+found") is not None
    except ext3.FormatError:
        return False
    if not only:
        return False
    if not has_place:
        _debugfs(descriptor, ["mklost_found"], environ)
    # debugfs leaves the number of links as it is: to give a name and to take one is to move.
    given = {number: f"work-{number}" for number in only}
    before = lost_and_found(descriptor)
    lines = [f"ln <{number}> /lost+found/{name}" for number, name in given.items()]
    _debugfs(descriptor, lines, environ)
    moved = lost_and_found(descriptor) - before
    lines = [f"cd <{work[0]}>"]
    lines += [
        f"unlink {only[number].decode()}"
        for number, name in given.items()
        if name.encode() in moved
    ]
    _debugfs(descriptor, lines, environ)
    return True


def _only_there(reader: Reader, directory: Inode) -> dict[int, bytes]:
    """Return the files with content that have a name in one directory only: number -> name."""
    found = {}
    for name, number, _kind in reader.entries(directory):
        inode = reader.inode(number)
        if inode.is_file and inode.size and inode.links == 1 and _PLAIN.match(name):
            found[number] = name
    return found


def _debugfs(descriptor: int, lines: Iterable[str], environ: Mapping[str, str]) -> None:
    words: list[str | int] = [process.need("debugfs", environ), "-w", "-f", "-", descriptor]
    process.run(words, environ, text="\n".join(lines) + "\n")


def lost_and_found(descriptor: int) -> set[bytes]:
    """Return the names in lost+found of an image; empty when it cannot be read."""
    try:
        reader = Reader(descriptor, ext3.read_superblock(descriptor))
        found = reader.lookup(b"lost+found")
        entries = reader.entries(found[1]) if found else ()
        return {name for name, _number, _kind in entries} - {b".", b".."}
    except (ext3.FormatError, OSError):
        return set()


def describe(descriptor: int, found: Collection[bytes], most: int | None = None) -> str:
    """Return lines for the user that tell files of lost+found by size and first line.

    found  their names
    most   how many are told; None is all
    """
    lines = []
    for name in sorted(found)[:most]:
        lines.append(f"\n  lost+found/{quote(os.fsdecode(name))}{_looks(descriptor, name)}")
    if len(lines) < len(found):
        lines.append(f"\n  and {format_files(len(found) - len(lines))} more in lost+found")
    return "".join(lines)


def way_out(descriptor: int, top: str, place: str) -> str:
    """Return the line that gets what is below a directory of an image, but for the image's name.

    top    the directory, as debugfs has it
    place  the directory on the host where it is put
    rdump of debugfs(8) writes to what names in the image say: one with a slash in it, or of
    a link and a file at once, leads to any file of the caller's. Where there is such a one,
    or all cannot be read, the line is one for each file.
    """
    if _is_plain(descriptor, top.strip("/").encode()):
        return f"/sbin/debugfs -R 'rdump {top} {place}'"
    return f"file by file: /sbin/debugfs -R 'dump {top}/NAME COPY'"


def _is_plain(descriptor: int, top: bytes) -> bool:
    """Return whether every name below a directory is one that a directory of the host can have."""
    try:
        reader = Reader(descriptor, ext3.read_superblock(descriptor))
        found = reader.lookup(top)
        pending = [found[1]] if found else []
        blocks: set[int] = set()
        while pending:
            there: set[bytes] = set()
            for name, number, _kind in reader.entries(pending.pop(), blocks):
                if name in (b".", b".."):
                    continue
                if not name or name in there or b"/" in name or b"\0" in name:
                    return False
                there.add(name)
                inode = reader.inode(number)
                if inode.is_directory:
                    pending.append(inode)
    except (ext3.FormatError, OSError):
        return False
    return found is not None


def _looks(descriptor: int, name: bytes) -> str:
    """Return size and first line of a file in lost+found, as words to follow its name."""
    try:
        reader = Reader(descriptor, ext3.read_superblock(descriptor))
        found = reader.lookup(b"lost+found/" + name)
        if found is None:
            return ""
        inode = found[1]
        if not inode.is_file:
            return ", a directory" if inode.is_directory else ""
        line = next(reader.data_blocks(inode), b"")[: inode.size].partition(b"\n")[0][:60]
        text = line.decode(errors="replace")
    except (ext3.FormatError, OSError):
        return ""
    begins = f", begins with {quote(text)}" if text and text.isprintable() else ""
    return f": {format_size(inode.size)}{begins}"


def names(descriptor: int) -> dict[bytes, tuple[bool, bool, int]]:
    """Return what is in upper of an image: path -> (whether a directory, has content, inode).

    As far as it can be read: a damaged directory does not hide the others. What several
    directories claim is that of the first, and what no path leads to is left out; else a
    small image could say more names than there is memory for.
    """
    found: dict[bytes, tuple[bool, bool, int]] = {}
    try:
        reader = Reader(descriptor, ext3.read_superblock(descriptor))
        upper = reader.lookup(b"upper")
    except (ext3.FormatError, OSError):
        return found
    pending = [(b"", *upper)] if upper else []
    seen: set[int] = set()
    blocks: set[int] = set()
    while pending:
        above, number, directory = pending.pop()
        if number in seen:
            continue
        seen.add(number)
        for name, other in _entries(reader, directory, blocks):
            if len(above) + len(name) > _LONGEST:
                continue
            inode = _inode(reader, other)
            if inode is None:
                found[above + name] = False, False, other
                continue
            used = inode.mode != 0 and inode.links > 0
            found[above + name] = inode.is_directory, used, other
            if inode.is_directory and used:
                pending.append((above + name + b"/", other, inode))
    return found


def _entries(reader: Reader, directory: Inode, blocks: set[int]) -> Iterator[tuple[bytes, int]]:
    """Yield (name, inode number) of a directory, as far as it can be read.

    blocks  numbers of those that have been read, as Reader.data_blocks() has them
    """
    try:
        for data in reader.data_blocks(directory, blocks):
            try:
                for name, number, _kind in parse_entries(data):
                    if name not in (b".", b".."):
                        yield name, number
            except ext3.FormatError:
                continue
    except (ext3.FormatError, OSError):
        return


def _inode(reader: Reader, number: int) -> Inode | None:
    try:
        return reader.inode(number)
    except (ext3.FormatError, OSError):
        return None


class Gone:
    """A name that a repair has lost, and how many below it.

    words        for the user
    had_content  whether a file or a directory was there, as far as could be seen
    """

    __slots__ = ("had_content", "words")

    def __init__(self, path: bytes, had_content: bool, below: int) -> None:
        self.had_content = had_content
        self.words = quote(os.fsdecode(path))
        if below:
            self.words += f" and the {format_files(below)} below it"


def gone(
    before: Mapping[bytes, tuple[bool, bool, int]], after: Mapping[bytes, tuple[bool, bool, int]]
) -> list[Gone]:
    """Return the Gone of all names that were there before and are not after, in order.

    before, after  of names()
    """
    found, below = {}, {}
    for path in sorted(before.keys() - after.keys()):
        parts = path.split(b"/")
        above = (b"/".join(parts[:length]) for length in range(1, len(parts)))
        top = next((one for one in above if one in found), None)
        if top is None:
            found[path] = before[path][1]
            below[path] = 0
        else:
            found[top] = found[top] or before[path][1]
            below[top] += 1
    return [Gone(path, used, below[path]) for path, used in found.items()]


def led_nowhere(output: str, most: int) -> str:
    """Return lines that tell the names that led to nothing any more, and that e2fsck took away.

    output  what it said
    most    how many are told
    A file that was being made, or removed, when its session was killed has left them.
    """
    found = [f"{above}/{name}"[1:] for name, above in _LED_NOWHERE.findall(output)]
    return listed(found, most)


def doubtful(output: str) -> set[int]:
    """Return the numbers of the inodes of which e2fsck has changed the content.

    output  what it said
    """
    return {int(number) for found in _DOUBTFUL.findall(output) for number in found if number}


def named(numbers: Collection[int], there: Mapping[bytes, tuple[bool, bool, int]]) -> list[str]:
    """Return the names of the files that have some inodes, in order.

    there  of names()
    """
    found = {path for path, (_directory, _used, number) in there.items() if number in numbers}
    return [os.fsdecode(path) for path in sorted(found) if not there[path][0]]


def listed(names: Sequence[str], most: int) -> str:
    """Return a line for each of some names, and one that counts those left out.

    most  how many are told
    """
    lines = [f"\n  {quote(name)}" for name in names[:most]]
    if len(lines) < len(names):
        lines.append(f"\n  and {format_files(len(names) - len(lines))} more")
    return "".join(lines)


def kept(path: str) -> str:
    """Return the name under which keep() keeps an image, unless there is one already."""
    return path + _KEPT


def keep(path: str, descriptor: int, environ: Mapping[str, str]) -> str:
    """Give an image that is about to be replaced a second name; return that.

    path        of the image, absolute, without links
    descriptor  the image, whatever has its name by now
    Where there are no hard links it is a copy. Raises OSError, OverlayError.
    """
    parent, base = os.path.split(kept(path))
    directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for number in itertools.count(1):
            name = base if number == 1 else f"{base}.{number}"
            try:
                replace.link(descriptor, name, directory)
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno not in replace.NO_LINKS:
                    raise
                if os.path.lexists(os.path.join(parent, name)):
                    continue
                _copy(path, descriptor, os.path.join(parent, name), environ)
            return os.path.join(parent, name)
    finally:
        os.close(directory)
    raise AssertionError("no name is free")


def _copy(path: str, descriptor: int, name: str, environ: Mapping[str, str]) -> None:
    """Copy an image, with its attributes, to a name that is free."""
    with replace.unfinished(name) as new:
        blocks.copy(path, descriptor, new.descriptor, environ)
        replace.keep_attributes(descriptor, new.descriptor)
        new.into_place(mode=stat.S_IMODE(os.fstat(new.descriptor).st_mode))
