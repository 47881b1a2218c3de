"""What hides what in a stack of read-only layers, in the form that the kernel's overlayfs knows.

A deletion that fuse-overlayfs noted, as a file .wh.NAME, is to the kernel a file of that name.
In its own form it is a character device 0/0, but fuse2fs lists names without their types, and
the kernel then takes such a device for a file that cannot be read. So a session that needs it
gets small layers in memory, one before each layer of the stack, with such devices in them:

- what a layer has deleted, is deleted in the one behind it
- of a directory that hides all below, the whole is: a deletion ends what a directory is merged
  from
- what only fuse-overlayfs should see, the markers, is deleted in the one before it

What is in them is handed to our launcher as a tar archive, which it unpacks (helpers/stack,
helpers/read-only): the directory N lies before the Nth of the layers that the engine names,
and a file called fuse says that fuse-overlayfs has to stand above all.
"""

from __future__ import annotations

import io
import os

from overlay.image import ext3, markers
from overlay.safety.tidy import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from overlay.image.ext3_read import Reader
    from overlay.image.kind import Image
    from overlay.launch.engine import Launchers
    from overlay.launch.facts import Facts

# Where our launchers look for the archive. The engine and what it starts inherit it; it is far
# above what shells and scripts use, and what it opens itself.
DESCRIPTOR = 199

KERNEL = (5, 11)  # the first whose overlayfs users may mount: its change log

_MOST = 20000  # entries in memory; more take longer than fuse-overlayfs would
_MOST_LOOKED_AT = 5000  # names in a directory overlay; on a shared file system that takes seconds
_ALONE = b"alone"  # what our launcher writes over the archive when it had to do without
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


class Stack:
    """What our launcher is told: an archive, handed on as a descriptor."""

    __slots__ = ("_data", "_handed")

    why = (
        f"deletions in lower overlays are handed on as descriptor {DESCRIPTOR};"
        " without it fuse-overlayfs stands alone"
    )

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._handed = False

    def hand_over(self) -> None:
        """Put the archive where our launcher looks for it, and where what we start inherits it."""
        import fcntl

        try:
            fcntl.fcntl(DESCRIPTOR, fcntl.F_GETFD)
            return  # it is somebody else's
        except OSError:
            pass
        memory = os.memfd_create("overlay-stack", os.MFD_CLOEXEC)
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(self._data)
            os.dup2(memory, DESCRIPTOR)
            self._handed = True
        except OSError:
            pass  # a limit on open files: fuse-overlayfs stands alone
        finally:
            os.close(memory)

    def take_back(self) -> str | None:
        """Close the descriptor when the session has ended.

        Returns why our launcher had to do without the kernel's overlayfs; None when it had not.
        """
        if not self._handed:
            return f"descriptor {DESCRIPTOR} cannot be had"
        alone = os.pread(DESCRIPTOR, len(_ALONE), 0) == _ALONE
        os.close(DESCRIPTOR)
        self._handed = False
        return "the kernel does not let you mount them" if alone else None


def look(facts: Facts, launchers: Launchers | None) -> tuple[Stack | None, str | None]:
    """Return what our launcher is to be told of a stack, or why the layers cannot be told apart.

    launchers  ours, as they were settled
    """
    layers = facts.images[1:] if facts.writable else facts.images
    try:
        if launchers is None:
            raise Unknown("this engine does not take our launchers")
        if not _kernel_mounts():
            raise Unknown(f"the kernel is older than {'.'.join(map(str, KERNEL))}")
        return Stack(_archive(layers, facts.environ, view=not facts.writable)), None
    except Unknown as error:
        # An engine that is setuid root has the kernel mount all of them.
        several = sum(image.is_file for image in facts.images) > 1
        setuid = facts.launchers is None and facts.engine.is_setuid()
        return None, str(error) if several and not setuid else None
    except (ext3.FormatError, OSError):
        return None, None  # said where it matters


def _kernel_mounts() -> bool:
    """Return whether the kernel is one whose overlayfs users may mount."""
    words = os.uname().release.replace("-", ".").split(".")[:2]
    return tuple(int(word) for word in words if word.isdecimal()) >= KERNEL


def _archive(layers: Sequence[Image], environ: Mapping[str, str], *, view: bool) -> bytes:
    """Return the tar archive for our launcher.

    layers  Images of the read-only overlays, locked, the top one first
    view    whether the kernel's overlayfs alone is to be seen, without fuse-overlayfs above it
    Raises Unknown, ext3.FormatError, OSError.
    """
    hidden = [_hidden(image, environ) for image in layers]
    kernel = view and all(map(_can_be_made, hidden))
    trees = _trees(layers, hidden, environ, kernel=kernel)
    if sum(len(names) for names, _directories in trees) > _MOST:
        raise Unknown("too much was deleted in them")
    return _packed(trees, fuse=not kernel)


def _hidden(image: Image, environ: Mapping[str, str]) -> Hidden:
    """Return what an overlay hides. Raises Unknown, ext3.FormatError, OSError."""
    if not markers.present(image, environ):
        return Hidden()
    if image.kind == "ext3":
        return _of_ext3(image.as_ext3().reader())
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


def _of_ext3(reader: Reader) -> Hidden:
    found = Hidden()
    upper = reader.lookup(b"upper")
    if upper is None:
        return found
    paths = Paths(reader, upper[0])
    numbers: dict[bytes, int] = {}
    for number, name in _entries(reader):
        directory = paths.of(number)
        if directory is not None:
            found.add(directory, name, opaque=name in markers.OPAQUE)
            numbers[directory] = number
    wanted = {above for path in found.markers for above in _above(path)}
    for path in wanted:
        if path not in numbers:
            there = reader.lookup(b"upper/" + path)
            if there is None:
                raise ext3.FormatError("a directory in it has no name")
            numbers[path] = there[0]
        number = numbers[path]
        inode = reader.inode(number)
        modified = f"{inode.modify_time}.{inode.nanoseconds:09}"
        plain = not any(not _is_own(name) for name, _value in reader.attributes(number))
        assert found.directories is not None
        found.directories[path] = Directory(
            inode.mode, inode.owner, inode.group, modified, plain=plain
        )
    return found


def _is_own(name: bytes) -> bool:
    """Return whether an extended attribute is fuse-overlayfs's own."""
    return name.startswith(b"user.fuseoverlayfs.")


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


def _above(path: bytes) -> Iterator[bytes]:
    """Yield the directories above a path, nearest first, without upper/ itself."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path


def _can_be_made(layer: Hidden) -> bool:
    """Return whether directories in memory can be like those of a layer: what is seen is theirs."""
    me = os.geteuid(), os.getegid()
    return layer.directories is not None and all(
        one.plain and (one.owner, one.group) == me for one in layer.directories.values()
    )


def _trees(
    layers: Sequence[Image],
    hidden: Sequence[Hidden],
    environ: Mapping[str, str],
    *,
    kernel: bool,
) -> list[tuple[set[bytes], dict[bytes, Directory | None]]]:
    """Return the layers in memory: the first comes before all, the last before the base image.

    Each has the paths of its devices, and its directories, with what they are to be like.
    """
    names: list[set[bytes]] = [set() for _place in range(len(layers) + 1)]
    for place, layer in enumerate(hidden):
        names[place + 1] |= layer.deleted
        out = layer.markers
        if not kernel:
            # fuse-overlayfs takes the marker of one layer for one of the name that another
            # layer above has anew.
            anew: set[bytes] = set()
            for above in layers[:place] if out else ():
                anew |= above.those_inside(set(out.values()), environ)
            out = {path: what for path, what in out.items() if what in anew or path == what}
            if any(path == what for path, what in out.items()) and not _can_be_made(layer):
                raise Unknown("directories with deletions in them are not yours")
        names[place] |= set(out)
    trees = []
    for place, paths in enumerate(names):
        known = hidden[place].directories if place < len(hidden) else None
        paths = {path for path in paths if not any(above in paths for above in _above(path))}
        directories = {above for path in paths for above in _above(path)}
        trees.append((paths, {path: (known or {}).get(path) for path in directories}))
    return trees


def _packed(
    trees: Sequence[tuple[set[bytes], dict[bytes, Directory | None]]], *, fuse: bool
) -> bytes:
    import tarfile

    memory = io.BytesIO()
    with tarfile.open(
        fileobj=memory, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as tar:
        if fuse:
            tar.addfile(tarfile.TarInfo("fuse"))
        for place, (paths, directories) in enumerate(trees):
            top = str(place)
            for path in sorted(directories):
                one = directories[path]
                member = tarfile.TarInfo(f"{top}/{os.fsdecode(path)}")
                member.type, member.mode = tarfile.DIRTYPE, one.mode & 0o7777 if one else 0o755
                if one:
                    member.pax_headers = {"mtime": one.modified}
                tar.addfile(member)
            for path in sorted(paths):
                member = tarfile.TarInfo(f"{top}/{os.fsdecode(path)}")
                member.type = tarfile.CHRTYPE
                tar.addfile(member)
    return memory.getvalue()
