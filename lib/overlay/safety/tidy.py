"""Deletion markers that hide nothing, removed at the end of a writable session.

To go through fuse-overlayfs is slower, so the end of a writable session removes those of its
own markers that hide nothing: the ones in directories that no layer below has.
"""

from __future__ import annotations

import os

from overlay.host import process
from overlay.image import ext3, lock, record
from overlay.image.ext3_read import Reader
from overlay.image.markers import OPAQUE, note, scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Mapping, Sequence

    from overlay.image.ext3_image import Ext3Image
    from overlay.image.kind import Image
    from overlay.image.markers import Marker


def tidy(found: Ext3Image, base: str, below: Iterable[Image], environ: Mapping[str, str]) -> int:
    """Remove the needless markers that a writable session has left in an image.

    found   its Image, locked against all others; its superblock read after the session
    base    path of the base image of the session
    below   Images of the overlays that were below
    Nothing is touched when another process got hold of the image meanwhile. A kill in the
    midst leaves the image marked as not clean, and the next session repairs it. Returns
    how many were removed.
    """
    since = record.tidy_from(record.read(found.descriptor))
    reader = Reader(found.descriptor, found.superblock)
    markers = scan(reader)
    needless = _needless(reader, markers, since, base, below, environ) if since and markers else []
    program = process.which("debugfs", environ)
    if needless and program:
        try:
            lock.take_engine(found.descriptor)
        except lock.Busy:
            return 0
        if _remove(program, found, needless, environ):
            found.superblock = ext3.read_superblock(found.descriptor)
            markers = scan(Reader(found.descriptor, found.superblock))
        else:
            needless = []
    note(found, bool(markers))
    return len(needless)


def _needless(
    reader: Reader,
    markers: Iterable[Marker],
    since: int,
    base: str,
    below: Iterable[Image],
    environ: Mapping[str, str],
) -> list[Marker]:
    """Return those markers of the last sessions that hide nothing of the layers below."""
    from overlay.image.paths import Paths, TooLong, parents  # most sessions leave none

    upper = reader.lookup(b"upper")
    if upper is None:
        return []
    paths = Paths(reader, upper[0])
    opaque: dict[bytes, list[Marker]] = {}
    for marker in markers:
        if marker.directory is None or marker.name not in OPAQUE:
            continue
        if reader.inode(marker.number).change_time >= since:
            try:
                path = paths.of(marker.directory)
            except TooLong:
                continue  # it stays
            if path:
                opaque.setdefault(path, []).append(marker)
    # What a directory hides shows at the topmost one: below it, all was made with it.
    top = [path for path in opaque if not any(parent in opaque for parent in parents(path))]
    if not top:
        return []
    hidden = _existing(top, base, below, environ)
    return [
        marker
        for path, found in opaque.items()
        if path not in hidden and hidden.isdisjoint(parents(path))
        for marker in found
    ]


def _existing(
    paths: Collection[bytes], base: str, below: Iterable[Image], environ: Mapping[str, str]
) -> set[bytes]:
    """Return those of some paths that a layer below has; all of them when it cannot be seen."""
    try:
        return _those_below(paths, base, below, environ)
    except (OSError, ext3.FormatError):
        return set(paths)


def _those_below(
    paths: Collection[bytes], base: str, below: Iterable[Image], environ: Mapping[str, str]
) -> set[bytes]:
    """Do that. Raises OSError, FormatError for a layer that is gone, or damaged."""
    hidden = set()
    for layer in below:
        hidden |= layer.those_inside(paths, environ)
    if os.path.isdir(base):
        root = os.fsencode(base)
        return hidden | {path for path in paths if os.path.lexists(os.path.join(root, path))}
    from overlay.image import squashfs

    descriptor = os.open(base, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return hidden | squashfs.those_inside(descriptor, paths, environ)
    finally:
        os.close(descriptor)


def _remove(
    program: str, found: Ext3Image, markers: Sequence[Marker], environ: Mapping[str, str]
) -> bool:
    """Remove markers with debugfs(8), the image marked as not clean all the while.

    debugfs writes the superblock only at its end, so the mark is set before it starts: a
    kill in its midst would else leave a damaged image that says it is clean. What such a
    kill leaves must be what e2fsck -p mends by itself: empty files without a name, wrong
    counts, names of inodes that are free; but not a device without a name, and fuse-overlayfs
    makes the second marker of every directory a name of one device. So that keeps one name,
    is then erased, and only when that is written the name goes. Returns whether all went
    well; if not, the image is to be checked.
    """
    from overlay.image import ext3_write  # most sessions leave none

    reader = Reader(found.descriptor, found.superblock)
    last = {  # number of a device -> the name that it keeps
        marker.number: marker for marker in markers if reader.inode(marker.number).is_whiteout
    }
    for number in list(last):
        names = sum(marker.number == number for marker in markers)
        if reader.inode(number).links != names:  # a deletion has it too: it stays in use
            del last[number]
    first = _script([marker for marker in markers if marker not in last.values()], last)
    first += [f"set_inode_field <{number}> links_count 1" for number in last]
    ext3_write.write_state(found.descriptor, 0)
    done = _debugfs(program, found, first, environ)
    if done and last:
        done = _debugfs(program, found, [f"clri <{number}>" for number in last], environ)
        done = done and _debugfs(program, found, _free(found.descriptor, last), environ)
    if done:
        ext3_write.write_state(found.descriptor, ext3.STATE_CLEAN)
    return done


def _debugfs(
    program: str, found: Ext3Image, lines: Iterable[str], environ: Mapping[str, str]
) -> bool:
    """Let debugfs change an image; return whether it says that all went well."""
    words: list[str | int] = [program, "-w", "-f", "-", found.descriptor]
    return process.run(words, environ, text="\n".join(lines) + "\n").status == 0


def _script(markers: Iterable[Marker], devices: Container[int]) -> list[str]:
    """Return lines for debugfs that remove markers, only the names of those of devices.

    Directories are named by inode, so that no name inside is ever read as a command.
    """
    lines, directory = [], None
    for marker in sorted(markers, key=lambda marker: marker.directory or 0):
        if marker.directory != directory:
            directory = marker.directory
            lines.append(f"cd <{directory}>")
            # fuse-overlayfs says it twice; what one of the two ways shows, both must.
            lines.append(f"ea_rm <{directory}> user.fuseoverlayfs.opaque")
        lines.append(f"{'unlink' if marker.number in devices else 'rm'} {marker.name.decode()}")
    return lines


def _free(descriptor: int, last: Mapping[int, Marker]) -> list[str]:
    """Return lines for debugfs that remove the last names of erased inodes, and free these.

    debugfs's freei leaves the numbers of free inodes as they are.
    """
    superblock = ext3.read_superblock(descriptor)
    reader = Reader(descriptor, superblock)
    lines = _script(last.values(), last)
    groups: dict[int, int] = {}
    for number in last:
        lines.append(f"freei <{number}>")
        group = (number - 1) // superblock.inodes_per_group
        groups[group] = groups.get(group, reader.free_inodes(group)) + 1
    lines += [f"set_bg {group} free_inodes_count {count}" for group, count in groups.items()]
    lines.append(f"set_super_value free_inodes_count {superblock.free_inodes_count + len(last)}")
    return lines
