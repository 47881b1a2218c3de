"""Tar archives, unpacked member by member.

Everything that comes from an archive is treated as untrusted: nothing is written outside
the directory, whatever names and links it holds.
"""

from __future__ import annotations

import math
import os
import stat
import sys

from overlay.create.compressed import compression, opened
from overlay.create.kind import HEAD, Source
from overlay.create.place import DEEPEST, hide_below, make_directory
from overlay.errors import DAMAGED, UNAVAILABLE, OverlayError, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from tarfile import TarFile, TarInfo
    from typing import Any, NoReturn

    from overlay.create.allowance import Allowance
    from overlay.create.attributes import LeftOut
    from overlay.create.compressed import Readable
    from overlay.create.kind import Means

_LONGEST_HEADER = 8 << 20  # bytes of what describes one member of a tar archive
_BLOCK = 512  # bytes of a header
_LATEST = 1 << 40  # seconds since 1970

# Kinds of members that only GNU tar writes: see "Basic Tar" and "GNU Extensions" in its manual.
_GNU_DIRECTORY = b"D"  # of --incremental; its data are the names that were in it
_GNU_CONTINUED = b"M"  # the rest of a file that began on another volume
_GNU_LABEL = b"V"

_UNPACK_VOLUMES = (
    "unpack them first: mkdir DIR && tar -C DIR -xMf FIRST -f SECOND; then: --from DIR:/PLACE"
)


def is_tar(head: bytes) -> bool:
    """Return whether 512 bytes are the beginning of a tar archive; the oldest have no mark."""
    if head[257:262] == b"ustar":
        return True
    try:
        wanted = int(head[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return len(head) == 512 and wanted == sum(head[:148]) + 8 * ord(" ") + sum(head[156:])


def _is_empty(head: bytes) -> bool:
    """Return whether a file of these bytes is an archive of nothing: some blocks of zeros.

    tar(1) writes 10,240; of a file that is longer than a megabyte nobody could say.
    """
    return 2 * _BLOCK <= len(head) < HEAD and not head.strip(b"\0")


class Tar(Source):
    """A tar archive, compressed or not."""

    __slots__ = ()

    @classmethod
    def begins(cls, head: bytes) -> bool:
        return is_tar(head[:_BLOCK]) or compression(head) is not None or _is_empty(head)

    def words(self, target: str) -> list[str]:
        return ["tar", "-C", target, "-xf", self.path]

    def _bring(self, target: str, means: Means) -> None:
        below = self.dest != "/"
        unpacker = Unpacker(self.path, target, means.allowance, below, means.left_out, means.tick)
        unpack_tar(self.path, unpacker, means.config.environ)


def unpack_tar(path: str, unpacker: Unpacker, environ: Mapping[str, str]) -> None:
    """Unpack a tar archive, compressed or not, one member after the other, to its very end."""
    import tarfile

    whole: Any = tarfile  # with what the hints of the standard library leave out

    class Member(tarfile.TarInfo):
        """A member of an archive that ends with its mark, and not where it is cut or damaged."""

        @classmethod
        def frombuf(cls, data: Any, encoding: str, errors: str) -> Any:
            member = super().frombuf(data, encoding, errors)
            # Where POSIX has the first part of a long name, GNU tar has times.
            if data[257:263] != b"ustar\0" and member.type not in tarfile.GNU_TYPES:
                member.name = data[:100].partition(b"\0")[0].decode(encoding, errors)
                if member.isdir():
                    member.name = member.name.rstrip("/")
            return member

        @classmethod
        def fromtarfile(cls, archive: TarFile) -> Any:
            try:
                return super().fromtarfile(archive)
            except (whole.EmptyHeaderError, whole.TruncatedHeaderError):
                raise tarfile.ReadError("it ends early") from None
            except whole.InvalidHeaderError as error:
                raise tarfile.ReadError(str(error)) from None

    try:
        with opened(path, environ, is_tar) as file:
            stream = _Stream(file)
            with whole.open(fileobj=stream, mode="r|", tarinfo=Member) as archive:
                unpacker.run(archive, stream)
                # A checksum, a missing end and further archives show only there.
                while block := archive.fileobj.read(1 << 20):
                    more = block.lstrip(b"\0")
                    if more:
                        start = (len(block) - len(more)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
                        _check_another(path, block[start : start + tarfile.BLOCKSIZE])
                        raise tarfile.ReadError("more follows behind its end")
                if archive.fileobj.tell() % tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("it ends early")
    except ImportError as error:
        raise OverlayError(
            f"{quote(path)}: this Python cannot decompress it ({error})", status=UNAVAILABLE
        ) from None
    except _data_errors() as error:
        hint = f"get it once more; where it is one of several volumes, {_UNPACK_VOLUMES}"
        raise OverlayError(
            f"{quote(path)} is damaged: {error}",
            status=DAMAGED,
            hint=hint if "end" in str(error) else None,
        ) from None


def _check_another(path: str, head: bytes) -> None:
    """Name a file that holds one archive behind another, given what follows the first."""
    if is_tar(head):
        raise OverlayError(
            f"{quote(path)} holds several tar archives, one behind the other",
            status=DAMAGED,
            hint=f"unpack them first: mkdir DIR && tar -C DIR -ixf {quote(path)};"
            " then: --from DIR:/PLACE",
        )


def _data_errors() -> tuple[type[Exception], ...]:
    """Return what is raised for damaged data; by decompressors, those that have been loaded."""
    found: list[type[Exception]] = [EOFError, ValueError, OverflowError, RecursionError]
    for module, name in (("tarfile", "TarError"), ("zlib", "error"), ("lzma", "LZMAError")):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


class _Stream:
    """The bytes of an archive, of which only so many may be read for a header.

    tarfile takes a header into memory whole, however long it says that it is.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self.left: float = _LONGEST_HEADER  # infinite while content is read

    def read(self, count: int) -> bytes:
        """Return the next bytes."""
        data = self._file.read(count)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("a header is too long")
        return data


# The attributes by which overlayfs says that a directory hides all below it: root's, and a user's.
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


class Unpacker:
    """Unpacks the members of one archive below a directory, and nothing anywhere else.

    Symbolic links are made at the very end, so that no member can be written through one;
    a member whose path goes through a link of this archive or another source is refused.

    below  whether the place is a directory of its own, which takes mode and time of the
           archive's top: at / that could close all of the overlay to others
    """

    def __init__(
        self,
        path: str,
        target: str,
        allowance: Allowance,
        below: bool,
        left_out: LeftOut,
        tick: Callable[[int], object],
    ) -> None:
        self._allowance = allowance
        self._left_out = left_out
        self._count = 0
        self._tick = tick
        self._below = below
        self._path = path
        self._target = target
        self._left = allowance.bytes
        self._links: dict[
            str, tuple[str, float]
        ] = {}  # path below target -> (target of the link, time)
        self._directories: dict[str, tuple[int, float]] = {}  # path below target -> (mode, time)
        self._files: set[str] = set()
        self._made: set[str] = set()  # directories that are there, and no links

    def run(self, archive: TarFile, stream: _Stream) -> None:
        """Unpack everything."""
        whole: Any = archive  # with what the hints of the standard library leave out
        while (member := archive.next()) is not None:
            whole.members.clear()  # they would fill the memory
            stream.left = math.inf
            name = self._name(member)
            if not _is_directory(member) or name in self._directories:
                self._count_one()
            if member.type == _GNU_LABEL:
                pass
            elif name:
                self._unpack(archive, member, name)
            elif self._below and _is_directory(member):
                self._directories[""] = (member.mode & 0o7777, member.mtime)
            stream.left = _LONGEST_HEADER
        stream.left = math.inf
        for name, (link, time) in self._links.items():
            path = os.path.join(self._target, name)
            os.symlink(link, path)
            os.utime(path, (time, time), follow_symlinks=False)
        for name, (mode, time) in sorted(self._directories.items(), reverse=True):
            path = os.path.join(self._target, name)
            os.chmod(path, mode)
            os.utime(path, (time, time))

    def _count_one(self) -> None:
        """Count one file or directory more, before it is made."""
        self._count += 1
        if self._count > self._allowance.files:
            raise self._allowance.too_many(self._path)
        if self._count % 1000 == 0:
            self._tick(self._count)

    def _refuse(self, member: TarInfo, why: str) -> NoReturn:
        raise OverlayError(
            f"{quote(self._path)} is refused: its member {quote(member.name)} {why}",
            status=DAMAGED,
            hint="nothing was created; look at the archive: tar -tvf " + quote(self._path),
        )

    def _name(self, member: TarInfo) -> str:
        """Return the path of a member below the target, "" for the target itself.

        Absolute names, which tar -P writes, are taken as below it, as by tar(1).
        """
        if ".." in member.name.split("/"):
            self._refuse(member, "has a name that leads outside")
        if not abs(member.mtime) < _LATEST:
            self._refuse(member, "has a time that cannot be")
        name = _below_top(member.name)
        parts = name.split("/")
        if len(parts) > DEEPEST:
            self._refuse(member, "is too deep")
        for count in range(1, len(parts)):
            if "/".join(parts[:count]) in self._links:
                self._refuse(member, "goes through a link of the archive")
        return "" if name == "." else name

    def _make_directory(self, member: TarInfo, name: str) -> None:
        """Make a directory and those on the way; one member can be the only one of 256."""
        if name in self._made:
            return
        path = ""
        for part in name.split("/"):
            path = os.path.join(path, part)
            if path not in self._made:
                place = os.path.join(self._target, path)
                if not os.path.lexists(place):
                    self._count_one()
                if not make_directory(place):
                    self._refuse(member, "goes through something that is not a directory")
                self._made.add(path)

    def _unpack(self, archive: TarFile, member: TarInfo, name: str) -> None:
        path = os.path.join(self._target, name)
        self._make_directory(member, os.path.dirname(name))
        if member.islnk() and _below_top(member.linkname) == name:
            # What was named twice when the archive was made is a link to itself.
            if name not in self._files and name not in self._links:
                self._refuse(member, "is a link to something that is not in the archive")
            return
        if _is_directory(member):
            self._make_directory(member, name)
            os.chmod(path, 0o700)
            self._directories[name] = (member.mode & 0o7777, member.mtime)
            if any(
                attribute in _OPAQUE and data == b"y" for attribute, data in _attributes(member)
            ):
                self._hide_below(path)
            return
        if os.path.lexists(path):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                self._refuse(member, "takes the place of a directory")
            os.unlink(path)  # the later of two members of one name counts
        self._links.pop(name, None)
        if member.issym():
            # Wherever it leads: it is seen inside a container, where it leads to the container's.
            self._links[name] = (member.linkname, member.mtime)
        elif member.islnk():
            other = _below_top(member.linkname)
            if other in self._links:  # one more name of a symbolic link
                self._links[name] = self._links[other]
                return
            if other not in self._files:
                self._refuse(member, "is a link to something that is not in the archive")
            os.link(os.path.join(self._target, other), path, follow_symlinks=False)
            self._files.add(name)
        elif member.isreg():
            self._write(archive, member, path)
            self._files.add(name)
        elif member.isfifo():
            os.mkfifo(path)
            os.chmod(path, member.mode & 0o777)
            os.utime(path, (member.mtime, member.mtime))
            self._files.add(name)
        elif member.ischr() and (member.devmajor, member.devminor) == (0, 0):
            # overlayfs's mark of a deletion, which every user may make: mknod(2), Linux 5.8.
            os.mknod(path, stat.S_IFCHR | 0o600, 0)
            self._files.add(name)
        elif member.type == _GNU_CONTINUED:
            raise OverlayError(
                f"{quote(self._path)} is one of the volumes of an archive, and not the first",
                status=DAMAGED,
                hint=_UNPACK_VOLUMES,
            )
        else:
            self._refuse(member, "is a device")

    def _hide_below(self, path: str) -> None:
        """Mark a directory where overlayfs has an attribute; the mark is a file more."""
        if hide_below(path):
            self._count_one()

    def _write(self, archive: TarFile, member: TarInfo, path: str) -> None:
        if member.size > self._left:
            raise self._allowance.too_much(self._path)
        sparse: Any = member.sparse  # pairs, whatever the hints of the standard library say
        if any(offset + length > member.size for offset, length in sparse or ()):
            self._refuse(member, "has parts behind its end")
        self._left -= member.size
        archive.makefile(member, path)
        for attribute, data in _attributes(member):
            try:
                os.setxattr(path, attribute, data)
            except (OSError, ValueError):  # only root's to set, too large, or no name
                self._left_out.add(attribute, "/" + os.path.relpath(path, self._target))
        os.chmod(path, member.mode & 0o7777)
        os.utime(path, (member.mtime, member.mtime))


def _below_top(name: str) -> str:
    """Return the path below the top of an archive that a name in it stands for, "." for the top."""
    return os.path.normpath(name.lstrip("/"))


def _attributes(member: TarInfo) -> Iterator[tuple[str, bytes]]:
    """Yield (name, value) of the extended attributes of a member, but SELinux's labels."""
    for key, value in member.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and name != "security.selinux":
            yield name, value.encode(errors="surrogateescape")


def _is_directory(member: TarInfo) -> bool:
    return member.isdir() or member.type == _GNU_DIRECTORY
