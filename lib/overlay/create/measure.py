"""How much room a tree takes in an ext3 image, counted before that is made."""

from __future__ import annotations

import errno
import os
import stat

from overlay.create.attributes import space, too_large
from overlay.errors import MISSING, OverlayError, quote, reason
from overlay.host import namespace, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

BLOCK = 4096
CROWDED = 20_000  # names in one directory, from which on mke2fs(8) takes its time
_IN_INODE = 88  # bytes of attributes
_YEAR_2038 = 1 << 31  # the same, and too much for mke2fs(8)


class Amount:
    """How much there is to write: files (directories and links too), and bytes of blocks.

    times   path of bytes -> (seconds, nanoseconds) of files whose times mke2fs(8) cuts off
    crowded path of bytes -> how many names, of directories with very many
    unfit   (path of bytes, names) of files with attributes that ext3 has no room for
    """

    __slots__ = ("bytes", "crowded", "files", "times", "unfit")

    def __init__(self, files: int = 0, bytes_: int = 0) -> None:
        self.files = files
        self.bytes = bytes_
        self.times: dict[bytes, tuple[int, int]] = {}
        self.crowded: dict[bytes, int] = {}
        self.unfit: list[tuple[bytes, list[str]]] = []


def measure(path: str, environ: Mapping[str, str]) -> Amount:
    """Return the Amount that a directory takes as blocks of 4 KiB of an ext3 image.

    Holes of sparse files are left out; files with several names count once. Directories
    that their owner may not read are looked into from a namespace, as mke2fs will.
    """
    amount = Amount()
    linked: set[tuple[int, int]] = set()
    pending = [os.fsencode(path)]
    while pending:
        directory = pending.pop()
        names, count = 24, 0
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    names += (11 + len(entry.name)) & ~3
                    count += 1
                    status = entry.stat(follow_symlinks=False)
                    if not -_YEAR_2038 <= status.st_mtime < _YEAR_2038:
                        amount.times[entry.path] = divmod(status.st_mtime_ns, 10**9)
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(entry.path)
                        amount.bytes += _attributes(entry.path, amount)
                        continue
                    if status.st_nlink > 1:
                        if (status.st_dev, status.st_ino) in linked:
                            continue
                        linked.add((status.st_dev, status.st_ino))
                    if status.st_uid != os.getuid() and stat.S_ISREG(status.st_mode):
                        _check_readable(entry.path)
                    amount.files += 1
                    amount.bytes += _attributes(entry.path, amount)
                    amount.bytes += _blocks(entry.path, status) * BLOCK
        except OSError as error:
            if error.errno != errno.EACCES or not _measure_closed(directory, amount, environ):
                raise OverlayError(
                    f"cannot read {quote(os.fsdecode(directory))}: {reason(error)}",
                    status=MISSING,
                ) from None
            continue
        if count > CROWDED:
            amount.crowded[directory] = count
        amount.files += 1
        amount.bytes += (names + names // 8 + BLOCK) // BLOCK * BLOCK
    return amount


def _check_readable(path: bytes) -> None:
    """Name a file of somebody else that may not be read; what is one's own always may."""
    if not os.access(path, os.R_OK):
        raise OverlayError(
            f"cannot read {quote(os.fsdecode(path))}: Permission denied",
            status=MISSING,
            hint="ask its owner for read permission, or leave it out",
        )


def _measure_closed(directory: bytes, amount: Amount, environ: Mapping[str, str]) -> bool:
    """Add a directory that only its owner's namespace can read; return whether it could."""
    if not namespace.available(environ):
        return False
    find = process.need("find", environ)
    words = [find, os.fsdecode(directory), "-printf", r"%y %s\n"]
    result = process.run(namespace.wrap(words, environ), environ)
    if result.status:
        return False
    for line in result.output.splitlines():
        kind, length = line.split()
        amount.files += 1
        # A block for each directory, and 64 bytes for each name, which is not looked at.
        amount.bytes += 64 + (BLOCK if kind == "d" else 0)
        if kind == "f":
            amount.bytes += -(-int(length) // BLOCK) * BLOCK
    return True


def _attributes(path: bytes, amount: Amount) -> int:
    """Return the bytes of the block for attributes that do not fit into the inode.

    Those that have no room there either are noted.
    """
    names: list[str] = []
    try:
        names = os.listxattr(path, follow_symlinks=False)
        sizes = {name: len(os.getxattr(path, name, follow_symlinks=False)) for name in names}
    except OSError:
        return BLOCK if names else 0
    used = space(sizes)
    if used > BLOCK - _IN_INODE:
        unfit = too_large(sizes)
        if unfit:
            amount.unfit.append((path, unfit))
    return BLOCK if used > _IN_INODE else 0


def _data(path: bytes, status: os.stat_result) -> int:
    """Return the bytes of a file that are not holes.

    st_blocks does not tell: ZFS counts compressed blocks, and few for what was just written.
    """
    if status.st_blocks * 512 >= status.st_size:
        return status.st_size
    try:
        # Not blocking: somebody may have put a pipe in its place meanwhile.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags)
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


def _blocks(path: bytes, status: os.stat_result) -> int:
    """Return the blocks of a file in ext3, the indirect ones included."""
    if stat.S_ISLNK(status.st_mode):
        return 0 if status.st_size < 60 else 1
    if not stat.S_ISREG(status.st_mode):
        return 0
    blocks = -(-_data(path, status) // BLOCK)
    if blocks and status.st_size > 12 * BLOCK:
        blocks += 3 + blocks // 1000
    return blocks
