"""What a new overlay is filled with: directories, tar archives, squashfs files.

Archives are unpacked into a staging directory on node-local scratch; directories are read
where they are. Everything that comes from an archive is treated as untrusted: nothing is
written outside the staging directory, whatever names and links it holds.
"""

import errno
import math
import os
import re
import stat
import sys

from overlay import namespace, private, process, size
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
_IN_INODE = 88  # bytes of attributes
_DEEPEST = 256  # directories in one another; what walks through trees later is recursive
_LONGEST_HEADER = 8 << 20  # bytes of what describes one member of a tar archive
_LATEST = 1 << 40  # seconds since 1970
_YEAR_2038 = 1 << 31  # the same, and too much for mke2fs(8)

# How compressed archives begin, and what decompresses them: modules of Python, one program.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ": "lzma",
    b"\x28\xb5\x2f\xfd": "zstd",
}

# A line of unsquashfs -lln: kind, size or device number, path.
_LISTED = re.compile(
    r"^([a-z-])\S{9} +\d+/\d+ +(\d+)(, *\d+)? +\d+-\d\d-\d\d \d\d:\d\d (/.*)?$", re.M | re.A
)


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
    """How much there is to write: files (directories and links too), and bytes of blocks.

    times  path of bytes -> (seconds, nanoseconds) of files whose times mke2fs(8) cuts off
    """

    __slots__ = ("bytes", "files", "times")

    def __init__(self, files=0, bytes_=0):
        self.files = files
        self.bytes = bytes_
        self.times = {}


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
        if (dest + "/").startswith(directory.rstrip("/") + "/"):
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
        with _open(path) as file:
            head = file.read(512)
    except (OSError, ValueError) as error:
        words = reason(error) if isinstance(error, OSError) else "it is no file name"
        raise OverlayError(f"cannot read {quote(path)}: {words}", status=MISSING) from None
    if head[:4] == b"hsqs":
        return "squashfs"
    if _compression(head) or _is_tar(head):
        return "tar"
    raise OverlayError(
        f"{quote(path)} is neither a directory, a tar archive nor a squashfs file",
        status=DAMAGED,
    )


def _open(path):
    """Open a regular file for reading; a FIFO would wait for a writer for ever. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    file = open(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is neither a directory nor a regular file")
    return file


def _is_tar(head):
    return head[257:262] == b"ustar"


def _compression(head):
    """Return what decompresses an archive that begins so; None for a plain one."""
    found = [name for magic, name in _COMPRESSED.items() if head.startswith(magic)]
    return found[0] if found and not _is_tar(head) else None


def measure(path, environ):
    """Return the Amount that a directory takes as blocks of 4 KiB of an ext3 image.

    Holes of sparse files are left out; files with several names count once. Directories
    that their owner has closed to himself are looked into from a namespace, as mke2fs will.
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
                    if not -_YEAR_2038 <= status.st_mtime < _YEAR_2038:
                        amount.times[entry.path] = divmod(status.st_mtime_ns, 10**9)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                        amount.bytes += _attributes(entry.path)
                        continue
                    if status.st_nlink > 1:
                        if (status.st_dev, status.st_ino) in linked:
                            continue
                        linked.add((status.st_dev, status.st_ino))
                    if status.st_uid != os.getuid() and stat.S_ISREG(status.st_mode):
                        _check_readable(entry.path)
                    amount.files += 1
                    amount.bytes += _attributes(entry.path)
                    amount.bytes += _blocks(entry.path, status) * _BLOCK
        except OSError as error:
            if error.errno != errno.EACCES or not _measure_closed(directory, amount, environ):
                raise OverlayError(
                    f"cannot read {quote(os.fsdecode(directory))}: {reason(error)}",
                    status=MISSING,
                ) from None
            continue
        amount.files += 1
        amount.bytes += (names + names // 8 + _BLOCK) // _BLOCK * _BLOCK
    return amount


def _check_readable(path):
    """Name a file of somebody else that may not be read; what is one's own always may."""
    if not os.access(path, os.R_OK):
        raise OverlayError(
            f"cannot read {quote(os.fsdecode(path))}: Permission denied",
            status=MISSING,
            hint="ask its owner for read permission, or leave it out",
        )


def _measure_closed(directory, amount, environ):
    """Add a directory that only its owner's namespace can read; return whether it could."""
    if not namespace.available(environ):
        return False
    find = process.need("find", "findutils", environ)
    words = [find, os.fsdecode(directory), "-printf", r"%y %s\n"]
    result = process.run(namespace.wrap(words, environ), environ)
    if result.status:
        return False
    for line in result.output.splitlines():
        kind, length = line.split()
        amount.files += 1
        # A block for each directory, and 64 bytes for each name, which is not looked at.
        amount.bytes += 64 + (_BLOCK if kind == "d" else 0)
        if kind == "f":
            amount.bytes += -(-int(length) // _BLOCK) * _BLOCK
    return True


def _attributes(path):
    """Return the bytes of the block for attributes that do not fit into the inode."""
    names = ()
    try:
        names = os.listxattr(path, follow_symlinks=False)
        values = [os.getxattr(path, name, follow_symlinks=False) for name in names]
    except OSError:
        return _BLOCK if names else 0
    # Each has a header of 16 bytes; name and value are rounded up to 4.
    used = sum(22 + len(name) + len(value) for name, value in zip(names, values))
    return _BLOCK if used > _IN_INODE else 0


def _data(path, status):
    """Return the bytes of a file that are no hole.

    st_blocks does not tell: ZFS counts compressed blocks, and few for what was just written.
    """
    if status.st_blocks * 512 >= status.st_size:
        return status.st_size
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return status.st_size
    data = place = 0
    try:
        while place < status.st_size:
            place = os.lseek(descriptor, place, os.SEEK_DATA)
            end = os.lseek(descriptor, place, os.SEEK_HOLE)
            data, place = data + end - place, end
    except OSError as error:
        if error.errno != errno.ENXIO:  # that is a hole up to the end
            return status.st_size
    finally:
        os.close(descriptor)
    return data


def _blocks(path, status):
    """Return the blocks of a file in ext3, the indirect ones included."""
    if stat.S_ISLNK(status.st_mode):
        return 0 if status.st_size < 60 else 1
    if not stat.S_ISREG(status.st_mode):
        return 0
    blocks = -(-_data(path, status) // _BLOCK)
    if blocks and status.st_size > 12 * _BLOCK:
        blocks += 3 + blocks // 1000
    return blocks


def make_place(top, source):
    """Make the directory where a source goes, below top, and return its path.

    Raises OverlayError (DAMAGED) when a link or a file that another source has brought is in
    in its way, CANNOT_CREATE.
    """
    name = source.dest.strip("/")
    what = f"{quote(source.path)} cannot go to {quote(source.dest)}"
    try:
        if not _make_directories(top, name):
            raise OverlayError(
                f"{what}: another source has a link or a file in its way", status=DAMAGED
            )
    except OSError as error:
        raise OverlayError(f"{what}: {reason(error)}", status=CANNOT_CREATE) from None
    return os.path.join(top, name)


def _make_directories(top, name):
    """Make a directory below top, and those above it, without following links.

    Others are to be let through whatever the umask is: a session needs /usr, /data and so on.
    Return whether it is there; not when something in its way is no directory.
    """
    path = top
    for part in filter(None, name.split("/")):
        path = os.path.join(path, part)
        try:
            os.mkdir(path, 0o755)
            os.chmod(path, 0o755)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                return False
    return True


def copy(tree, target, environ, *options, through=None):
    """Copy the content of a directory into another, over what has the same names there.

    options  more for cp(1)
    through  a directory that is made for it: the tree is read in its place, where the kernel
             follows no link that somebody puts there while it is read
    Raises OverlayError: DAMAGED when a directory and something else have one name,
    CANNOT_CREATE.
    """
    # Without --remove-destination cp would write into a file through a link to it.
    words = [process.need("cp", "coreutils", environ), "-a", "--remove-destination", *options]
    if not namespace.available(environ):
        result = process.run([*words, "--", os.path.join(tree, "."), target], environ)
    elif through is None:
        words = namespace.wrap([*words, "--", os.path.join(tree, "."), target], environ)
        result = process.run(words, environ)
    else:
        os.mkdir(through)
        try:
            words += ["--", os.path.join(through, "."), target]
            words = namespace.wrap(words, environ, binds=[(os.path.abspath(tree), through)])
            result = process.run(words, environ)
        finally:
            os.rmdir(through)
    if result.status:
        words = (result.errors.strip() or "cp fails").splitlines()[-1]
        raise OverlayError(
            f"cannot copy {quote(tree)}: {words}",
            status=DAMAGED if "cannot overwrite" in words else CANNOT_CREATE,
        )


def unpack(source, target, *, limit, environ, files=math.inf, tick=lambda count: None):
    """Unpack an archive into a directory.

    limit  bytes that its files may have in all
    files  how many they may be, of a tar archive
    tick   called with how many there are by now, now and then
    Raises OverlayError: DAMAGED for a member that would reach outside, CANNOT_CREATE when
    the limit or the room on scratch is not enough, UNAVAILABLE without the tool.
    """
    os.makedirs(target, exist_ok=True)
    try:
        if source.kind == "squashfs":
            _unpack_squashfs(source.path, target, limit, environ)
        else:
            unpacker = _Unpacker(source.path, target, limit, source.dest != "/", files, tick)
            _unpack_tar(source.path, unpacker, environ)
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


def _too_much(path, limit):
    return OverlayError(
        f"{quote(path)} does not fit: its files have more than the {size.format_size(limit)}"
        " that are left",
        status=CANNOT_CREATE,
        hint="choose a larger size with -s",
    )


def _unpack_squashfs(path, target, limit, environ):
    """Unpack a squashfs file whose listing shows nothing that speaks against it."""
    import tempfile

    program = process.need("unsquashfs", "squashfs-tools", environ)
    listing = process.run([program, "-lln", "-d", "", path], environ)
    if listing.status:
        raise _fails(path, listing)
    whiteouts = _whiteouts(path, listing.output, limit)
    if _only_directories(target):
        _run_unsquashfs(program, path, target, whiteouts, environ)
        return
    # unsquashfs writes through links that it finds; alone in a directory it finds none.
    alone = tempfile.mkdtemp(dir=os.path.dirname(target))
    try:
        _run_unsquashfs(program, path, alone, whiteouts, environ)
        copy(alone, target, environ, "--link")
    finally:
        private.remove(alone)


def _fails(path, result):
    words = (result.errors.strip() or result.output.strip()).splitlines() or ["it failed"]
    return OverlayError(f"cannot unpack {quote(path)}: {words[-1]}", status=DAMAGED)


def _only_directories(target):
    return not any(
        files or any(os.path.islink(os.path.join(directory, name)) for name in names)
        for directory, names, files in os.walk(target)
    )


def _whiteouts(path, listing, limit):
    """Return the names of the deletions in a squashfs file: overlayfs's devices 0/0.

    Names may hold the ends of lines, so lines can be forged: they only add to what is looked
    for here. Files with several names count with each. Raises OverlayError for other devices,
    and for what is too large or too deep.
    """
    found, left = [], limit
    for kind, number, minor, name in _LISTED.findall(listing):
        if name.count("/") > _DEEPEST:
            raise OverlayError(f"{quote(path)} is refused: it is too deep", status=DAMAGED)
        if kind == "-":
            left -= int(number)
        elif kind in "bc":
            if (kind, int(number), int(minor.strip(", "))) != ("c", 0, 0):
                raise OverlayError(f"{quote(path)} is refused: it holds a device", status=DAMAGED)
            found.append(name.lstrip("/"))
    if left < 0:
        raise _too_much(path, limit)
    return found


def _run_unsquashfs(program, path, target, whiteouts, environ):
    """Unpack into a directory without links, and make the deletions there.

    unsquashfs makes devices for root only. Every user may make the character device 0/0,
    overlayfs's mark of a deletion (mknod(2), Linux 5.8).
    """
    result = process.run([program, "-n", "-f", "-d", target, path], environ)
    lines = (result.errors + result.output).splitlines()
    lines = [line for line in lines if "could not create character device" not in line]
    if result.status and not (whiteouts and not any("rror" in line for line in lines)):
        raise _fails(path, result)
    for name in whiteouts:
        device = os.path.join(target, name)
        parent, parts = os.path.dirname(name), name.split("/")
        if ".." in parts or not _make_directories(target, parent):
            raise OverlayError(f"{quote(path)} is refused: {quote(name)}", status=DAMAGED)
        if not os.path.lexists(device):
            os.mknod(device, stat.S_IFCHR | 0o600, 0)


def _unpack_tar(path, unpacker, environ):
    """Unpack a tar archive, compressed or not, one member after the other, to its very end."""
    import tarfile

    class Member(tarfile.TarInfo):
        """A member of an archive that ends with its mark, and not where it is cut or damaged."""

        @classmethod
        def fromtarfile(cls, archive):
            try:
                return super().fromtarfile(archive)
            except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError):
                raise tarfile.ReadError("it ends early") from None
            except tarfile.InvalidHeaderError as error:
                raise tarfile.ReadError(str(error)) from None

    try:
        with _opened(path, environ) as file:
            stream = _Stream(file)
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=Member) as archive:
                unpacker.run(archive, stream)
                # A checksum, a missing end and further archives show only there.
                while block := archive.fileobj.read(1 << 20):
                    if block.strip(b"\0"):
                        raise tarfile.ReadError("more follows behind its end")
                if archive.fileobj.tell() % tarfile.BLOCKSIZE:
                    raise tarfile.ReadError("it ends early")
    except ImportError as error:
        raise OverlayError(
            f"{quote(path)}: this Python cannot decompress it ({error})", status=UNAVAILABLE
        ) from None
    except (
        tarfile.TarError,
        EOFError,
        ValueError,
        OverflowError,
        RecursionError,
        *_data_errors(),
    ) as error:
        raise OverlayError(f"{quote(path)} is damaged: {error}", status=DAMAGED) from None


def _data_errors():
    """Return what decompressors raise for damaged data; of those that have been loaded."""
    names = (("zlib", "error"), ("lzma", "LZMAError"))
    return [getattr(sys.modules[module], name) for module, name in names if module in sys.modules]


def _opened(path, environ):
    """Return the decompressed bytes of an archive, as a context.

    tarfile's own decompressors do not see checksums, further parts and a missing end.
    """
    import importlib

    file = _open(path)
    name = _compression(os.pread(file.fileno(), 512, 0))
    if name is None:
        return file
    if name == "zstd":
        return _Zstd(path, file, environ)
    return importlib.import_module(name).open(file, "rb")


class _Zstd:
    """The decompressed bytes of a zstd file, as a context."""

    def __init__(self, path, file, environ):
        self._arguments = [process.need("zstd", "zstd", environ), "-dcq"]
        self._environ = environ
        self._path = path
        self._file = file

    def __enter__(self):
        import subprocess

        self._child = subprocess.Popen(
            self._arguments,
            env=self._environ,
            stdin=self._file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self._child.stdout

    def __exit__(self, kind, _error, _traceback):
        self._child.stdout.close()
        self._file.close()
        if self._child.wait() and kind is None:
            raise OverlayError(f"{quote(self._path)} is damaged: zstd fails", status=DAMAGED)


class _Stream:
    """The bytes of an archive, of which only so many may be read for a header.

    tarfile takes a header into memory whole, however long it says that it is.
    """

    def __init__(self, file):
        self._file = file
        self.left = _LONGEST_HEADER

    def read(self, count):
        """Return the next bytes."""
        data = self._file.read(count)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("a header is too long")
        return data


class _Unpacker:
    """Unpacks the members of one archive below a directory, and nothing anywhere else.

    Symbolic links are made at the very end, so that no member can be written through one;
    a member whose path goes through a link of this archive or another source is refused.

    below  whether the place is a directory of its own, which takes mode and time of the
           archive's top: at / that could close all of the overlay to others
    """

    def __init__(self, path, target, limit, below, files, tick):
        self._most = files
        self._tick = tick
        self._below = below
        self._path = path
        self._target = target
        self._left = limit
        self._links = {}  # path below target -> (target of the link, time)
        self._directories = {}  # path below target -> (mode, time)
        self._files = set()
        self._made = set()  # directories that are there, and no links

    def run(self, archive, stream):
        """Unpack everything."""
        count = 0
        while (member := archive.next()) is not None:
            archive.members.clear()  # they would fill the memory
            stream.left = math.inf
            count += 1
            if count > self._most:
                raise OverlayError(
                    f"{quote(self._path)} does not fit: it has more than {self._most:,} files",
                    status=CANNOT_CREATE,
                    hint="choose a larger number with -n",
                )
            if count % 1000 == 0:
                self._tick(count)
            name = self._name(member)
            if name:
                self._unpack(archive, member, name)
            elif self._below and member.isdir():
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
        if not abs(member.mtime) < _LATEST:
            self._refuse(member, "has a time that cannot be")
        name = os.path.normpath(member.name)
        parts = name.split("/")
        if len(parts) > _DEEPEST:
            self._refuse(member, "is too deep")
        for count in range(1, len(parts)):
            if "/".join(parts[:count]) in self._links:
                self._refuse(member, "goes through a link of the archive")
        return "" if name == "." else name

    def _make_directory(self, member, name):
        if name not in self._made:
            if not _make_directories(self._target, name):
                self._refuse(member, "goes through what is no directory")
            self._made.add(name)

    def _unpack(self, archive, member, name):
        path = os.path.join(self._target, name)
        self._make_directory(member, os.path.dirname(name))
        if member.isdir():
            self._make_directory(member, name)
            os.chmod(path, 0o700)
            self._directories[name] = (member.mode & 0o7777, member.mtime)
            return
        if os.path.lexists(path):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                self._refuse(member, "takes the place of a directory")
            os.unlink(path)  # the later of two members of one name counts
        self._links.pop(name, None)
        if member.issym():
            self._add_link(member, name, member.linkname, member.mtime)
        elif member.islnk():
            other = os.path.normpath(member.linkname)
            if other in self._links:  # one more name of a symbolic link
                self._add_link(member, name, *self._links[other])
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
        else:
            self._refuse(member, "is a device")

    def _add_link(self, member, name, link, time):
        """Note a symbolic link; refuse a relative one that climbs out of the archive.

        An absolute one is seen inside a container, where it leads to the container's own.
        """
        reached = os.path.normpath(os.path.join(os.path.dirname(name), link))
        if reached.split("/")[0] == "..":
            self._refuse(member, "is a link that leads outside")
        self._links[name] = (link, time)

    def _write(self, archive, member, path):
        if member.size > self._left:
            raise _too_much(self._path, self._left)
        if any(offset + length > member.size for offset, length in member.sparse or ()):
            self._refuse(member, "has parts behind its end")
        self._left -= member.size
        archive.makefile(member, path)
        for key, value in member.pax_headers.items():
            if key.startswith("SCHILY.xattr.user."):
                try:
                    os.setxattr(path, key[13:], value.encode(errors="surrogateescape"))
                except OSError:
                    pass  # scratch has none
        os.chmod(path, member.mode & 0o7777)
        os.utime(path, (member.mtime, member.mtime))
