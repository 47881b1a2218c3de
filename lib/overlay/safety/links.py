"""Hard links of lower overlays, after a session that has written through one of their names.

fuse-overlayfs copies a file up under one name before it is written: the one that was looked up
last, whichever it is written by, and a rename makes another copy. In the session all names that it
knows show what was written; afterwards the others show the lower file again, or a copy of it. What
was copied up has an extended attribute with the name, so that the others can be found, and given to
the new file.
"""

from __future__ import annotations

import io
import os
from itertools import zip_longest

from overlay.errors import OverlayError
from overlay.host import namespace, process
from overlay.image import ext3, ext3_write, lock, record
from overlay.image.hidden import OWN, Directory, Unknown, hidden, of_ext3
from overlay.image.paths import names, parents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from overlay.image.ext3_image import Ext3Image
    from overlay.image.ext3_read import Inode, Reader
    from overlay.image.kind import Image

_ORIGIN = OWN + b"origin"


class Joined:
    """What became of the other names: how many lead to the new files, and which do not."""

    __slots__ = ("count", "failed")

    def __init__(self) -> None:
        self.count = 0
        self.failed: list[bytes] = []


def join(found: Ext3Image, below: Sequence[Image], environ: Mapping[str, str]) -> Joined:
    """Give files that the last sessions have copied up their other names.

    found  the Image that was written, locked against all others, clean; its superblock is read
           again when that was written
    below  Images of the overlays that were below
    A kill in the midst leaves the image marked as not clean, as one in a session does. Raises
    ext3.FormatError, OSError.
    """
    result = Joined()
    since = record.tidy_from(record.read(found.descriptor))
    if not since:
        return result
    reader = found.reader()
    written = _copied_up(reader, since)
    if not written:
        return result
    try:
        layers = [_Layer(image, environ) for image in below]
        wanted, copies = _names_wanted(reader, written, layers, result)
        if wanted:
            wanted = _seen(wanted, _Layer.written(reader), layers)
        if copies:
            wanted.update((path, copies[number]) for number, path in names(reader, copies))
        if wanted:
            _link(found, wanted, layers, environ, result)
    except Unknown:
        result.failed += sorted(written)
    _forget(found, written.values(), environ)
    return result


def _forget(found: Ext3Image, numbers: Iterable[int], environ: Mapping[str, str]) -> None:
    """Remove the attribute from files that have been seen to.

    fuse-overlayfs would hand it on when it copies such a file up from here, in the place of the
    right one; and by it, it takes two names of one file for two, depending on their directories.
    """
    program = process.which("debugfs", environ)
    if program is None:
        return
    try:
        lock.take_engine(found.descriptor)
    except lock.Busy:
        return
    lines = [f"ea_rm <{number}> {_ORIGIN.decode()}" for number in sorted(numbers)]
    ext3_write.write_state(found.descriptor, 0)
    words: list[str | int] = [program, "-w", "-f", "-", found.descriptor]
    if process.run(words, environ, text="\n".join(lines) + "\n").status == 0:
        ext3_write.write_state(found.descriptor, ext3.STATE_CLEAN)
    found.superblock = ext3.read_superblock(found.descriptor)


def _copied_up(reader: Reader, since: int) -> dict[bytes, int]:
    """Return the regular files that were copied up since then: their lower path -> number.

    What was replaced by a rename can be left in work/, and has no name any more.
    """
    found = {}
    for number in reader.made_since(since):
        for name, value in reader.attributes(number):
            if name == _ORIGIN:
                found[value.rstrip(b"\0")] = number
    named = {number for number, _path in names(reader, set(found.values()))} if found else ()
    return {path: number for path, number in found.items() if number in named}


class _Layer:
    """One overlay: what it has, and what it hides."""

    def __init__(self, image: Image, environ: Mapping[str, str]) -> None:
        self.image = image
        self.environ = environ
        self.reader = image.direct_reader()
        self.hidden = hidden(image, environ)

    @classmethod
    def written(cls, reader: Reader) -> _Layer:
        """Return the one that was written, by its Reader."""
        layer = cls.__new__(cls)
        layer.reader, layer.hidden = reader, of_ext3(reader)
        return layer

    def has(self, paths: Iterable[bytes]) -> set[bytes]:
        """Return those of some paths that it has."""
        if self.reader is None:
            return self.image.those_inside(paths, self.environ)
        return {path for path in paths if self.reader.lookup(b"upper/" + path)}

    def covers(self, path: bytes) -> bool:
        """Return whether what lower layers have at a path is not seen through it."""
        if any(one in self.hidden.deleted for one in (path, *parents(path))):
            return True
        if self.reader is None:
            return bool(self.has([path]))
        for one in (*reversed([*parents(path)]), path):
            there = self.reader.lookup(b"upper/" + one)
            if there is None:
                return False
            if not there[1].is_directory:
                return True
        return True


def _names_wanted(
    reader: Reader, written: Mapping[bytes, int], layers: Sequence[_Layer], result: Joined
) -> tuple[dict[bytes, tuple[int, int]], dict[int, tuple[int, int]]]:
    """Return the other names of the lower files of what was written, and their needless copies.

    reader  of what was written
    path -> (number of the new file, place of the layer that has it), and number of a copy -> the
    same. Those that cannot be told go to the result.
    """
    left, wanted = dict(written), {}
    copies: dict[int, tuple[int, int]] = {}
    for place, layer in enumerate(layers):
        inside = layer.has(left)
        if layer.reader is not None:
            linked = set(layer.reader.linked()) if inside else set()
            made: dict[int, set[int]] = {}  # number of a lower file -> those made of it
            for path in inside:
                there = layer.reader.lookup(b"upper/" + path)
                if there and there[0] in linked:
                    made.setdefault(there[0], set()).add(left[path])
            new = {
                number: _only_changed(reader, several, layer.reader, number)
                for number, several in made.items()
            }
            for number, path in names(layer.reader, new) if new else ():
                one = new[number]
                if one is not None:
                    wanted[path] = one, place
                elif path not in written:
                    result.failed.append(path)
            for number, several in made.items():
                one = new[number]
                if one is not None:
                    copies.update((copy, (one, place)) for copy in several - {one})
        elif not layer.image.is_file:
            # To find the other names would take a walk through all of the file system.
            root = os.path.join(os.fsencode(layer.image.path), b"upper")
            result.failed += [
                path for path in sorted(inside) if os.lstat(os.path.join(root, path)).st_nlink > 1
            ]
        left = {
            path: number
            for path, number in left.items()
            if path not in inside and not layer.covers(path)
        }
    return wanted, copies


def _only_changed(reader: Reader, made: set[int], lower: Reader, number: int) -> int | None:
    """Return that of several files made of a lower one which is not just a copy of it.

    Any when all are; None when several are not: each of its names was written for itself.
    """
    changed = [one for one in made if not _is_copy(reader, one, lower, number)]
    return None if len(changed) > 1 else changed[0] if changed else min(made)


def _is_copy(reader: Reader, made: int, lower: Reader, number: int) -> bool:
    """Return whether a file is what a lower one is; fuse2fs keeps no fractions of seconds."""
    new, old = reader.inode(made), lower.inode(number)
    if any(
        getattr(new, name) != getattr(old, name)
        for name in ("mode", "owner", "group", "size", "modify_time")
    ):
        return False
    blocks = zip_longest(_content(reader, new), _content(lower, old))
    return all(one == other for one, other in blocks)


def _content(reader: Reader, inode: Inode) -> Iterator[bytes]:
    """Yield what is in a file, without what the last block has behind its end."""
    left = inode.size
    for data in reader.data_blocks(inode):
        yield data[: max(0, left)]
        left -= len(data)


def _seen(
    wanted: Mapping[bytes, tuple[int, int]], top: _Layer, layers: Sequence[_Layer]
) -> dict[bytes, tuple[int, int]]:
    """Return those of some names that are seen through all that lies above them."""
    return {
        path: (number, place)
        for path, (number, place) in wanted.items()
        if not any(layer.covers(path) for layer in (top, *layers[:place]))
    }


def _link(
    found: Ext3Image,
    wanted: Mapping[bytes, tuple[int, int]],
    layers: Sequence[_Layer],
    environ: Mapping[str, str],
    result: Joined,
) -> None:
    """Make the names, and note in the result which lead to the new files afterwards."""
    import tarfile

    reader = found.reader()
    first: dict[int, bytes] = {}
    for number, path in names(reader, {number for number, _place in wanted.values()}):
        first.setdefault(number, path)
    directories: dict[bytes, Directory] = {}
    members = []
    for path, (number, _place) in sorted(wanted.items()):
        if number not in first:
            continue  # it was deleted again
        if not all(_add_directory(one, reader, layers, directories) for one in parents(path)):
            result.failed.append(path)
            continue
        member = tarfile.TarInfo(os.fsdecode(path))
        member.type, member.linkname = tarfile.LNKTYPE, os.fsdecode(first[number])
        members.append(member)
    if not members:
        return
    memory = io.BytesIO()
    with tarfile.open(
        fileobj=memory, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as tar:
        for path in sorted(directories):
            tar.addfile(directories[path].member(os.fsdecode(path)))
        for member in members:
            tar.addfile(member)
    _unpack(found, memory.getvalue(), environ)
    found.superblock = ext3.read_superblock(found.descriptor)
    reader = found.reader()
    for member in members:
        path = os.fsencode(member.name)
        there = reader.lookup(b"upper/" + path)
        if there and there[0] == wanted[path][0]:
            result.count += 1
        else:
            result.failed.append(path)


def _add_directory(
    path: bytes,
    reader: Reader,
    layers: Sequence[_Layer],
    directories: dict[bytes, Directory],
) -> bool:
    """Note what a directory above a new name is like; return whether it is there or can be made.

    One that is there is noted as well: it keeps its time.
    """
    if path in directories:
        return True
    there = reader.lookup(b"upper/" + path)
    if there is not None:
        directories[path] = Directory.of(reader, there[0])
        return True
    for layer in layers:
        if layer.reader is None:
            if layer.has([path]):
                return False
            continue
        there = layer.reader.lookup(b"upper/" + path)
        if there is not None:
            directories[path] = Directory.of(layer.reader, there[0])
            return directories[path].can_be_made
    return False


def _unpack(found: Ext3Image, data: bytes, environ: Mapping[str, str]) -> None:
    memory = os.memfd_create("overlay-links", os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(data)
        lock.take_engine(found.descriptor)
        namespace.unpack(found.descriptor, memory, environ)
    except (lock.Busy, OverlayError):
        pass  # what is missing afterwards is told
    finally:
        os.close(memory)
