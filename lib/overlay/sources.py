"""What a new overlay is filled with: directories, tar archives, squashfs files.

Archives are unpacked into a staging directory on node-local scratch; directories are read
where they are. Everything that comes from an archive is treated as untrusted: nothing is
written outside the staging directory, whatever names and links it holds.
"""

import errno
import os
import stat

from overlay import process, size
from overlay.errors import (
    CANNOT_CREATE,
    DAMAGED,
    MISSING,
    UNAVAILABLE,
    USAGE,
    OverlayError,
    quote,
    reason,
)

_BLOCK = 4096
_ZSTD = b"\x28\xb5\x2f\xfd"
_TAR_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", _ZSTD: "zstd"}


class Source:
    """Something to fill an overlay with.

    path  where it is
    dest  where its content appears inside, an absolute path
    kind  "directory", "tar" or "squashfs"
    """

    __slots__ = ("dest", "kind", "path")

    def __init__(self, path, dest, kind):
        self.path = path
        self.dest = dest
        self.kind = kind


class Amount:
    """How much there is to write: files (directories and links too), and bytes of blocks."""

    __slots__ = ("bytes", "files")

    def __init__(self, files=0, bytes_=0):
        self.files = files
        self.bytes = bytes_


def parse(text, hidden):
    """Return the Source of SOURCE[:DEST].

    hidden  directories of the host that cover what lies in their place inside
    Raises OverlayError: USAGE for a DEST that cannot be, MISSING and DAMAGED for a SOURCE.
    """
    path, colon, dest = text.rpartition(":")
    if not colon or not dest.startswith("/"):
        path, dest = text, None
    kind = _kind(path)
    if dest is None:
        name = os.path.basename(os.path.realpath(path))
        dest = "/" + name if kind == "directory" else "/"
    if ".." in dest.split("/"):
        raise OverlayError(f"{quote(dest)} must not hold ..", status=USAGE)
    dest = os.path.normpath("/" + dest.strip("/"))
    for directory in hidden:
        if dest == directory or dest.startswith(directory.rstrip("/") + "/"):
            raise OverlayError(
                f"{quote(dest)} would not be seen inside: the host's {quote(directory)} covers it",
                status=USAGE,
                hint=f"choose another place: --from {quote(path)}:/opt/NAME",
            )
    return Source(path, dest, kind)


def _kind(path):
    """Return what a source is."""
    try:
        if os.path.isdir(path):
            os.listdir(path)
            return "directory"
        with open(path, "rb") as file:
            head = file.read(512)
    except (OSError, ValueError) as error:
        words = reason(error) if isinstance(error, OSError) else "it is no file name"
        raise OverlayError(f"cannot read {quote(path)}: {words}", status=MISSING) from None
    if head[:4] == b"hsqs":
        return "squashfs"
    if head[257:262] == b"ustar" or any(head.startswith(magic) for magic in _TAR_MAGIC):
        return "tar"
    raise OverlayError(
        f"{quote(path)} is neither a directory, a tar archive nor a squashfs file",
        status=DAMAGED,
    )


def measure(path):
    """Return the Amount that a directory takes as blocks of 4 KiB of an ext3 image.

    Holes of sparse files are left out; files with several names count once.
    """
    amount = Amount()
    linked = set()
    pending = [os.fsencode(path)]
    while pending:
        directory = pending.pop()
        names = 24
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    names += (11 + len(entry.name)) & ~3
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                        continue
                    if status.st_nlink > 1:
                        if (status.st_dev, status.st_ino) in linked:
                            continue
                        linked.add((status.st_dev, status.st_ino))
                    amount.files += 1
                    if not (status.st_blocks == 0 and _is_hole(entry.path, status)):
                        amount.bytes += _blocks(status) * _BLOCK
        except OSError as error:
            raise OverlayError(
                f"cannot read {quote(os.fsdecode(directory))}: {reason(error)}", status=MISSING
            ) from None
        amount.files += 1
        amount.bytes += (names + names // 8 + _BLOCK) // _BLOCK * _BLOCK
    return amount


def _is_hole(path, status):
    """Return whether a file without blocks has no data, and not only none written out yet."""
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    finally:
        os.close(descriptor)
    return False


def _blocks(status):
    """Return the blocks of a file in ext3, the indirect ones included."""
    if stat.S_ISLNK(status.st_mode):
        return 0 if status.st_size < 60 else 1
    if not stat.S_ISREG(status.st_mode):
        return 0
    blocks = -(-min(status.st_size, status.st_blocks * 512 or status.st_size) // _BLOCK)
    if status.st_size > 12 * _BLOCK:
        blocks += 3 + blocks // 1000
    return blocks


def unpack(source, target, *, limit, environ):
    """Unpack an archive into a directory.

    limit  bytes that its files may have in all
    Raises OverlayError: DAMAGED for a member that would reach outside, CANNOT_CREATE when
    the limit or the room on scratch is not enough, UNAVAILABLE without the tool.
    """
    os.makedirs(target, exist_ok=True)
    if source.kind == "squashfs":
        _unpack_squashfs(source.path, target, environ)
        return
    try:
        _unpack_tar(source.path, target, limit, environ)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OverlayError(
                f"there is no room to unpack {quote(source.path)} in {quote(target)}:"
                f" {reason(error)}",
                status=CANNOT_CREATE,
                hint="set TMPDIR to a local directory with room",
            ) from None
        raise OverlayError(
            f"cannot unpack {quote(source.path)}: {reason(error)}", status=DAMAGED
        ) from None


def _unpack_squashfs(path, target, environ):
    program = process.need("unsquashfs", "squashfs-tools", environ)
    result = process.run([program, "-n", "-f", "-d", target, path], environ)
    lines = (result.errors + result.output).splitlines()
    devices = [line for line in lines if "could not create character device" in line]
    if devices and not any("rror" in line for line in lines if line not in devices):
        _make_whiteouts(path, target, program, environ)
        return
    if result.status:
        words = (result.errors.strip() or result.output.strip()).splitlines() or ["it failed"]
        raise OverlayError(f"cannot unpack {quote(path)}: {words[-1]}", status=DAMAGED)


def _make_whiteouts(path, target, program, environ):
    """Make the deletions of a squashfs file that unsquashfs makes for root only.

    Every user may make the character device 0/0, overlayfs's mark of a deletion (mknod(2),
    Linux 5.8). Other devices are refused.
    """
    listing = process.run([program, "-lln", "-d", "", path], environ)
    for line in listing.output.splitlines():
        if not line.startswith("c"):
            continue
        major, _comma, rest = line.partition(",")
        if major.split()[-1] != "0" or rest.split()[0] != "0":
            raise OverlayError(f"{quote(path)} is refused: it holds a device", status=DAMAGED)
        name = rest.split(None, 3)[3]
        os.mknod(os.path.join(target, name.lstrip("/")), stat.S_IFCHR | 0o600, 0)


def _unpack_tar(path, target, limit, environ):
    """Unpack a tar archive, compressed or not, one member after the other."""
    import tarfile

    with open(path, "rb") as file:
        zstd = file.read(4) == _ZSTD
    try:
        if zstd:
            with _decompressed(path, environ) as stream:
                with tarfile.open(fileobj=stream, mode="r|") as archive:
                    _Unpacker(path, target, limit).run(archive)
            return
        with tarfile.open(path, "r|*") as archive:
            _Unpacker(path, target, limit).run(archive)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise OverlayError(f"{quote(path)} is damaged: {error}", status=DAMAGED) from None
    except ImportError as error:
        raise OverlayError(
            f"{quote(path)}: this Python cannot decompress it ({error})", status=UNAVAILABLE
        ) from None


class _decompressed:
    """The decompressed bytes of a zstd file, as a context."""

    def __init__(self, path, environ):
        self._arguments = [process.need("zstd", "zstd", environ), "-dc", "--", path]
        self._environ = environ
        self._path = path

    def __enter__(self):
        import subprocess

        self._child = subprocess.Popen(
            self._arguments, env=self._environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        return self._child.stdout

    def __exit__(self, kind, _error, _traceback):
        self._child.stdout.close()
        if self._child.wait() and kind is None:
            raise OverlayError(f"{quote(self._path)} is damaged: zstd fails", status=DAMAGED)


class _Unpacker:
    """Unpacks the members of one archive below a directory, and nothing anywhere else.

    Symbolic links are made at the very end, so that no member can be written through one;
    a member whose path goes through a link of the archive is refused.
    """

    def __init__(self, path, target, limit):
        self._path = path
        self._target = target
        self._left = limit
        self._links = {}  # path below target -> (target of the link, time)
        self._directories = {}  # path below target -> (mode, time)
        self._files = set()

    def run(self, archive):
        """Unpack everything."""
        for member in archive:
            name = self._name(member)
            if name:
                self._unpack(archive, member, name)
        for name, (link, time) in self._links.items():
            self._parents(name)
            path = os.path.join(self._target, name)
            os.symlink(link, path)
            os.utime(path, (time, time), follow_symlinks=False)
        for name, (mode, time) in sorted(self._directories.items(), reverse=True):
            path = os.path.join(self._target, name)
            os.chmod(path, mode)
            os.utime(path, (time, time))

    def _refuse(self, member, why):
        raise OverlayError(
            f"{quote(self._path)} is refused: its member {quote(member.name)} {why}",
            status=DAMAGED,
            hint="nothing was created; look at the archive: tar -tvf " + quote(self._path),
        )

    def _name(self, member):
        """Return the path of a member below the target, "" for the target itself."""
        if member.name.startswith("/") or ".." in member.name.split("/"):
            self._refuse(member, "has a name that leads outside")
        name = os.path.normpath(member.name)
        parts = name.split("/")
        for count in range(1, len(parts)):
            if "/".join(parts[:count]) in self._links:
                self._refuse(member, "goes through a link of the archive")
        return "" if name == "." else name

    def _parents(self, name):
        os.makedirs(os.path.dirname(os.path.join(self._target, name)), mode=0o755, exist_ok=True)

    def _unpack(self, archive, member, name):
        path = os.path.join(self._target, name)
        self._parents(name)
        if member.isdir():
            os.makedirs(path, mode=0o700, exist_ok=True)
            os.chmod(path, 0o700)
            self._directories[name] = (member.mode & 0o7777, member.mtime)
            return
        if name in self._directories or os.path.isdir(path):
            self._refuse(member, "takes the place of a directory")
        if os.path.lexists(path):
            os.unlink(path)  # the later of two members of one name counts
        self._links.pop(name, None)
        if member.issym():
            self._check_link(member, name)
            self._links[name] = (member.linkname, member.mtime)
        elif member.islnk():
            other = os.path.normpath(member.linkname)
            if other not in self._files:
                self._refuse(member, "is a link to something that is not in the archive")
            os.link(os.path.join(self._target, other), path, follow_symlinks=False)
            self._files.add(name)
        elif member.isreg():
            self._write(archive, member, path)
            self._files.add(name)
        elif member.isfifo():
            os.mkfifo(path, member.mode & 0o777)
        else:
            self._refuse(member, "is a device")

    def _check_link(self, member, name):
        """Refuse a relative link that climbs out of the archive.

        An absolute one is seen inside a container, where it leads to the container's own.
        """
        if not member.linkname.startswith("/"):
            reached = os.path.normpath(os.path.join("/x", os.path.dirname(name), member.linkname))
            if reached != "/x" and not reached.startswith("/x/"):
                self._refuse(member, "is a link that leads outside")

    def _write(self, archive, member, path):
        self._left -= member.size
        if self._left < 0:
            raise OverlayError(
                f"{quote(self._path)} does not fit: its files have more than the"
                f" {size.format_size(self._left + member.size)} that are left",
                status=CANNOT_CREATE,
                hint="choose a larger size with -s",
            )
        archive.makefile(member, path)
        for key, value in member.pax_headers.items():
            if key.startswith("SCHILY.xattr.user."):
                try:
                    os.setxattr(path, key[13:], value.encode(errors="surrogateescape"))
                except OSError:
                    pass  # scratch has none
        os.chmod(path, member.mode & 0o7777)
        os.utime(path, (member.mtime, member.mtime))
