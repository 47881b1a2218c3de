"""Deletion markers of fuse-overlayfs, and when they can go.

In a writable session the engine runs fuse-overlayfs. It notes a deletion as a file
.wh.NAME, and puts a file .wh..wh..opq into every directory that it makes, so that nothing
of the same name shines through from below. A read-only session runs the kernel's overlayfs
instead, which knows none of these: names with .wh. appear, what was deleted is back.

So a read-only session takes the way of fuse-overlayfs when a layer has markers. Because
that is slower, the end of a writable session removes those of its own markers that hide
nothing: the ones in directories that no layer below has. What is known of an image stands
in the record on it, with a stamp of the superblock that tells whether it still holds.
"""

import os

from overlay import extfs, lock, process, record, sif
from overlay.errors import DAMAGED, OverlayError, quote

PREFIX = b".wh."
OPAQUE = (b".wh..wh..opq", b".wh..opq")
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.+=@%,")


class Marker:
    """A marker: its name, the number of its inode, and the number of its directory's."""

    __slots__ = ("directory", "name", "number")

    def __init__(self, directory, name, number):
        self.directory = directory
        self.name = name
        self.number = number


def scan(reader):
    """Return all Markers in an image, in one pass over its directories.

    A character device 0/0 counts as one, with its own number and no directory: the kernel
    knows it, but not through fuse2fs, which does not tell the type of an entry.
    Raises extfs.FormatError, OSError.
    """
    found, seen = [], set()
    for directory, inode in reader.inodes(2, 4):
        if inode.is_whiteout:
            found.append(Marker(None, b"", directory))
        if not inode.is_directory:
            continue
        for data in reader.data_blocks(inode, seen):
            if PREFIX in data:
                found += [
                    Marker(directory, name, number)
                    for name, number, _kind in extfs.parse_entries(data)
                    if name.startswith(PREFIX)
                ]
    return found


def present(found, environ, *, remember=True):
    """Return whether a layer has markers, or may have.

    found     its Image, locked
    remember  whether to write down on it what was found
    """
    if found.kind == "directory":
        return True  # to look would take a walk through all of it
    there = known(found)
    if there is None and found.kind == "squashfs":
        there = _squashfs_has_markers(found.path, environ)
    elif there is None:
        try:
            there = bool(scan(extfs.Reader(found.descriptor, found.superblock)))
        except (extfs.FormatError, OSError) as error:
            raise OverlayError(
                f"{quote(found.path)} is damaged: {error}",
                status=DAMAGED,
                hint=f"check-overlay {quote(found.path)}",
            ) from None
    else:
        return there
    if remember:
        _remember(found, there)
    return there


def _stamp(found):
    """Return what changes whenever anything in an image does."""
    superblock = found.superblock
    if superblock is None:
        return f"{found.status.st_mtime_ns}.{found.status.st_size}"
    return (
        f"{superblock.write_time}.{superblock.mount_time}."
        f"{superblock.free_inodes_count}.{superblock.free_blocks_count}"
    )


def known(found):
    """Return whether an Image has markers by its record, None when that is not of this state."""
    fields = record.read(found.descriptor)
    if fields.get("stamp") != _stamp(found):
        return None
    return fields.get("markers") != "none"


def _remember(found, known):
    fields = record.read(found.descriptor)
    fields.update(markers="some" if known else "none", stamp=_stamp(found))
    record.write(found.descriptor, fields)


def last_second_of_others(found):
    """Return until when, in seconds since 1970, others may have put markers into an image."""
    return 0 if known(found) is False else found.superblock.write_time


def note_new(found):
    """Write down on a new image whether what it was filled with has markers."""
    _remember(found, bool(scan(extfs.Reader(found.descriptor, found.superblock))))


def _squashfs_has_markers(path, environ):
    """Return whether a squashfs file of unknown origin has markers."""
    program = process.which("unsquashfs", environ)
    if program is None:
        return True
    result = process.run([program, "-l", "-d", "", path], environ)
    return result.status != 0 or "/.wh." in result.output


def stack_name(base, below):
    """Return the layers below a writable overlay as one word; empty when they are too many.

    base   path of the base image
    below  paths of the overlays between
    """
    name = " ".join(quote(os.path.realpath(path)) for path in (base, *below))
    return name if len(name) < 2000 else ""


def tidy(found, base, below, environ):
    """Remove the needless markers that a writable session has left in an image.

    found   its Image, locked against all others; its superblock read after the session
    base    path of the base image of the session
    below   Images of the overlays that were below
    Nothing is touched when another process got hold of the image meanwhile. A kill in the
    midst leaves the image marked as not clean, and the next session repairs it. Returns
    how many were removed.
    """
    since = record.tidy_from(record.read(found.descriptor))
    reader = extfs.Reader(found.descriptor, found.superblock)
    markers = scan(reader)
    needless = _needless(reader, markers, since, base, below, environ) if since else []
    program = process.which("debugfs", environ)
    if needless and program:
        try:
            lock.take_engine(found.descriptor)
        except lock.Busy:
            return 0
        if _remove(program, found, needless, environ):
            found.superblock = extfs.read_superblock(found.descriptor)
            markers = scan(extfs.Reader(found.descriptor, found.superblock))
        else:
            needless = []
    _remember(found, bool(markers))
    return len(needless)


def _needless(reader, markers, since, base, below, environ):
    """Return those markers of the last sessions that hide nothing of the layers below."""
    upper = reader.lookup(b"upper")
    if upper is None:
        return []
    paths = Paths(reader, upper[0])
    opaque = {}
    for marker in markers:
        if marker.name in OPAQUE and reader.inode(marker.number).change_time >= since:
            path = paths.of(marker.directory)
            if path:
                opaque.setdefault(path, []).append(marker)
    # What a directory hides shows at the topmost one: below it, all was made with it.
    top = [path for path in opaque if not any(parent in opaque for parent in _parents(path))]
    if not top:
        return []
    hidden = _existing(top, base, below, environ)
    return [
        marker
        for path, found in opaque.items()
        if path not in hidden and hidden.isdisjoint(_parents(path))
        for marker in found
    ]


def _parents(path):
    """Yield the directories above a path of bytes, nearest first."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path


class Paths:
    """Paths of directories in an image, found from below through their ".." entries."""

    def __init__(self, reader, upper):
        self._reader = reader
        self._known = {upper: b""}

    def of(self, number):
        """Return the path below upper/ of a directory's inode, None when it is elsewhere."""
        chain = []
        while number not in self._known:
            chain.append(number)
            entries = self._reader.entries(self._reader.inode(number))
            parent = next((other for name, other, _kind in entries if name == b".."), number)
            if parent == number or len(chain) > 1000:
                self._known[number] = None
                break
            number = parent
        for number_below in reversed(chain):
            if number_below in self._known:
                continue
            above = self._known[number]
            for name, other, kind in self._reader.entries(self._reader.inode(number)):
                if kind == extfs.DIRECTORY and name not in (b".", b".."):
                    self._known.setdefault(
                        other,
                        None if above is None else above + b"/" + name if above else name,
                    )
            self._known.setdefault(number_below, None)
            number = number_below
        return self._known[chain[0]] if chain else self._known[number]


def _existing(paths, base, below, environ):
    """Return those of some paths that a layer below has; all of them when it cannot be seen."""
    try:
        return _found(paths, base, below, environ)
    except (OSError, extfs.FormatError):
        return set(paths)


def _found(paths, base, below, environ):
    """Do that. Raises OSError, FormatError for a layer that is gone, or damaged."""
    hidden = set()
    for layer in below:
        if layer.kind == "ext3":
            reader = extfs.Reader(layer.descriptor, layer.superblock)
            hidden.update(path for path in paths if reader.lookup(b"upper/" + path))
        elif layer.kind == "directory":
            root = os.path.join(os.fsencode(layer.path), b"upper")
            hidden.update(path for path in paths if os.path.lexists(os.path.join(root, path)))
        else:
            hidden |= _in_squashfs(paths, layer.path, environ)
    if os.path.isdir(base):
        root = os.fsencode(base)
        hidden.update(path for path in paths if os.path.lexists(os.path.join(root, path)))
    else:
        hidden |= _in_squashfs(paths, base, environ)
    return hidden


def _in_squashfs(paths, path, environ):
    """Return those of some paths that a squashfs file, or the one in a SIF, has."""
    program = process.which("unsquashfs", environ)
    offset = sif.squashfs_offset(path)
    if program is None or offset is None:
        return set(paths)
    result = process.run([program, "-o", str(offset), "-l", "-d", "", path], environ)
    if result.status:
        return set(paths)
    listed = set(result.output.split("\n"))
    # Names that the listing may show otherwise than they are count as there.
    return {
        one
        for one in paths
        if not _SAFE.issuperset(one.replace(b"/", b"").replace(b" ", b""))
        or "/" + one.decode() in listed
    }


def _remove(program, found, markers, environ):
    """Remove markers with debugfs(8), the image marked as not clean all the while.

    debugfs writes the superblock only at its end, so the mark is set before it starts: a
    kill in its midst would else leave a damaged image that says it is clean. What such a
    kill leaves must be what e2fsck -p mends by itself: empty files without a name, wrong
    counts, names of inodes that are free; but not a device without a name, and fuse-overlayfs
    makes the second marker of every directory a name of one device. So that keeps one name,
    is then erased, and only when that is written the name goes. Returns whether all went
    well; if not, the image is to be checked.
    """
    reader = extfs.Reader(found.descriptor, found.superblock)
    last = {  # number of a device -> the name that it keeps
        marker.number: marker for marker in markers if reader.inode(marker.number).is_whiteout
    }
    for number in list(last):
        names = sum(marker.number == number for marker in markers)
        if reader.inode(number).links != names:  # a deletion has it too: it stays in use
            del last[number]
    first = _script([marker for marker in markers if marker not in last.values()], last)
    first += [f"set_inode_field <{number}> links_count 1" for number in last]
    extfs.write_state(found.descriptor, 0)
    done = _debugfs(program, found, first, environ)
    if done and last:
        done = _debugfs(program, found, [f"clri <{number}>" for number in last], environ)
        done = done and _debugfs(program, found, _free(found.descriptor, last), environ)
    if done:
        extfs.write_state(found.descriptor, extfs.STATE_CLEAN)
    return done


def _debugfs(program, found, lines, environ):
    """Let debugfs change an image; return whether it says that all went well."""
    words = [program, "-w", "-f", "-", found.descriptor]
    return process.run(words, environ, text="\n".join(lines) + "\n").status == 0


def _script(markers, devices):
    """Return lines for debugfs that remove markers, only the names of those of devices.

    Directories are named by inode, so that no name inside is ever read as a command.
    """
    lines, directory = [], None
    for marker in sorted(markers, key=lambda marker: marker.directory):
        if marker.directory != directory:
            directory = marker.directory
            lines.append(f"cd <{directory}>")
            # fuse-overlayfs says it twice; what one of the two ways shows, both must.
            lines.append(f"ea_rm <{directory}> user.fuseoverlayfs.opaque")
        lines.append(f"{'unlink' if marker.number in devices else 'rm'} {marker.name.decode()}")
    return lines


def _free(descriptor, last):
    """Return lines for debugfs that remove the last names of erased inodes, and free these.

    debugfs's freei leaves the numbers of free inodes as they are.
    """
    superblock = extfs.read_superblock(descriptor)
    reader = extfs.Reader(descriptor, superblock)
    lines = _script(last.values(), last)
    groups = {}
    for number in last:
        lines.append(f"freei <{number}>")
        group = (number - 1) // superblock.inodes_per_group
        groups[group] = groups.get(group, reader.free_inodes(group)) + 1
    lines += [f"set_bg {group} free_inodes_count {count}" for group, count in groups.items()]
    lines.append(f"set_super_value free_inodes_count {superblock.free_inodes_count + len(last)}")
    return lines
