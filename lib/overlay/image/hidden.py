"""What one overlay hides of those below it: by markers of fuse-overlayfs, or devices 0/0."""

from __future__ import annotations

import os

from overlay.image import ext3, markers
from overlay.image.paths import Paths, TooLong, parents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from tarfile import TarInfo

    from overlay.image.ext3_read import Reader
    from overlay.image.kind import Image

OWN = b"user.fuseoverlayfs."  # how its own extended attributes begin

_MOST_LOOKED_AT = 5000  # names in a directory overlay; on a shared file system that takes seconds
_CHARACTER_DEVICE = 3  # file type in a directory entry


class Unknown(Exception):
    """What is hidden in a layer cannot be told, or is too much."""


class Directory:
    """A directory that has markers in it, or on whose way one lies, as a layer has it.

    mode, owner, group   as in stat(2)
    modified  seconds since 1970, a decimal number as text
    plain     whether that is all there is to say of it: no extended attributes
    """

    __slots__ = ("group", "mode", "modified", "owner", "plain")

    def __init__(self, mode: int, owner: int, group: int, modified: str, *, plain: bool) -> None:
        self.mode = mode
        self.owner = owner
        self.group = group
        self.modified = modified
        self.plain = plain

    @classmethod
    def of(cls, reader: Reader, number: int) -> Directory:
        """Return that of an inode."""
        inode = reader.inode(number)
        attributes = reader.attributes(number)
        return cls(
            inode.mode,
            inode.owner,
            inode.group,
            f"{inode.modify_time}.{inode.nanoseconds:09}",
            plain=all(name.startswith(OWN) for name, _value in attributes),
        )

    @property
    def can_be_made(self) -> bool:
        """Whether the caller can make one that is like it."""
        return self.plain and (self.owner, self.group) == (os.geteuid(), os.getegid())

    def member(self, name: str) -> TarInfo:
        """Return it as a member of a tar archive."""
        import tarfile

        member = tarfile.TarInfo(name)
        member.type, member.mode = tarfile.DIRTYPE, self.mode & 0o7777
        member.pax_headers = {"mtime": self.modified}
        return member


class Hidden:
    """What one layer hides.

    deleted      paths below upper/ that it hides in lower layers, as bytes
    markers      path of a marker -> path of what it hides; both paths are one for a device
    directories  path -> Directory, those above the markers; None where that is not known
    """

    __slots__ = ("deleted", "directories", "markers")

    def __init__(self) -> None:
        self.deleted: set[bytes] = set()
        self.markers: dict[bytes, bytes] = {}
        self.directories: dict[bytes, Directory] | None = {}

    def add(self, directory: bytes, name: bytes, *, opaque: bool) -> None:
        """Add a marker by its directory and its name."""
        path = _join(directory, name)
        hides = path
        if opaque:
            hides = directory
        elif name.startswith(markers.PREFIX):
            hides = _join(directory, name[len(markers.PREFIX) :])
        if not hides:
            raise Unknown("one of them hides all that lies below")
        self.markers[path] = hides
        self.deleted.add(hides)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def hidden(image: Image, environ: Mapping[str, str], *, remember: bool = True) -> Hidden:
    """Return what an overlay hides. Raises Unknown, ext3.FormatError, OSError.

    remember  whether it is noted on the image that it hides nothing
    """
    if not markers.present(image, environ, remember=remember):
        return Hidden()
    reader = image.direct_reader()
    if reader:
        return of_ext3(reader)
    found = Hidden()
    for number, entry in enumerate(image.walk("/", environ) if _has_upper(image) else ()):
        if number > _MOST_LOOKED_AT and not image.is_file:
            raise Unknown("one of them is a directory with many files")
        if entry.note is None:
            continue
        found.directories = None
        path = os.fsencode(entry.path)[1:]
        if path.endswith(b"/"):
            for name in markers.OPAQUE:
                found.add(path[:-1], name, opaque=True)
        else:
            directory, _slash, name = path.rpartition(b"/")
            found.add(directory, markers.PREFIX + name, opaque=False)
    return found


def _has_upper(image: Image) -> bool:
    return not image.is_plain_directory


def of_ext3(reader: Reader) -> Hidden:
    """Do that for an ext3 image."""
    found = Hidden()
    upper = reader.lookup(b"upper")
    if upper is None:
        return found
    paths = Paths(reader, upper[0])
    numbers: dict[bytes, int] = {}
    for number, name in _entries(reader):
        try:
            directory = paths.of(number)
        except TooLong:
            raise Unknown("a path in one of them is too long") from None
        if directory is not None:
            found.add(directory, name, opaque=name in markers.OPAQUE)
            numbers[directory] = number
    wanted = {one for path in found.markers for one in parents(path)}
    for path in wanted:
        if path not in numbers:
            there = reader.lookup(b"upper/" + path)
            if there is None:
                raise ext3.FormatError("a directory in it has no name")
            numbers[path] = there[0]
    found.directories = {path: Directory.of(reader, numbers[path]) for path in wanted}
    return found


def _entries(reader: Reader) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the directory, name) of every marker, and of every device 0/0."""
    named: dict[int, int] = {}
    for marker in markers.scan(reader):
        if marker.directory is None:
            named.setdefault(marker.number, 0)
        else:
            named[marker.number] = named.get(marker.number, 0) + 1
            yield marker.directory, marker.name
    devices = set()
    for number, names in named.items():
        inode = reader.inode(number)
        if inode.is_whiteout and inode.links != names:
            devices.add(number)
    if not devices:
        return
    seen: set[int] = set()
    for directory, inode in reader.inodes(4):
        for name, number, kind in reader.entries(inode, seen):
            if (
                kind in (0, _CHARACTER_DEVICE)
                and number in devices
                and not name.startswith(markers.PREFIX)
            ):
                yield directory, name
