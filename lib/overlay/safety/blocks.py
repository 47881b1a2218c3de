"""The blocks of images: copied with their holes, and reserved."""

from __future__ import annotations

import errno
import os

from overlay import size
from overlay.errors import CANNOT_CREATE, OverlayError, cannot, quote
from overlay.host import mounts, process
from overlay.host.room import free_bytes
from overlay.image import ext3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_WAYS_OUT = (
    "choose a smaller size, make room, or add --sparse to take blocks only as they are written"
)
_BLOCK = 1 << 20  # bytes that are copied at a time

_AT_ONCE = 4  # of them

# What the kernel copies by itself on one file system: bytes at a time; why it cannot; and where
# it never lets two files share blocks.
_AT_A_TIME = 1 << 26
_CANNOT_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
_SHARES_NO_BLOCKS = ("ext2", "ext3", "ext4", "tmpfs")

# Options of cp(1) for an image.
COPYING = ("--reflink=auto", "--sparse=always", "--")

RESERVING = "the blocks become its own without being written"


def copy(
    path: str, source: int, target: int, environ: Mapping[str, str], *, sound: bool = False
) -> None:
    """Copy an image into an empty file, holes left out.

    path            of the image, for messages
    source, target  open descriptors of the image and of the file
    sound           whether e2fsck has just found it sound: then only the blocks in use are read
    Raises OverlayError (CANNOT_CREATE), also when there is no room for it.
    """
    needed = os.fstat(source).st_blocks * 512
    if sound:
        needed = min(needed, ext3.read_superblock(source).used_bytes)
    free = free_bytes(target)
    if needed > free:
        raise OverlayError(
            f"a copy of {quote(path)} is needed: {size.format_size(needed)}, and"
            f" {size.format_size(free)} are free",
            status=CANNOT_CREATE,
            hint="make room there, or do it to a copy where there is room",
        )
    if sound:
        words = [process.need("e2image", environ), "-ra"]
    else:
        words = [process.need("cp", environ), *COPYING]
    result = process.run([*words, source, target], environ)
    if result.status:
        ended = f"it ended with {result.status}"
        if result.status < 0:
            import signal

            ended = signal.strsignal(-result.status) or ended
        why = process.last_line(result.errors, otherwise=ended).rpartition(": ")[2]
        raise OverlayError(f"cannot copy {quote(path)}: {why}", status=CANNOT_CREATE)


def copy_used(source: int, target: int, *, shared: bool = False) -> None:
    """Copy the blocks of an ext3 image that its bitmaps say are in use to an empty file.

    shared  whether the two files may have blocks in common, where their file system can do so:
            what is written to one of them then takes a block that was not reserved for it
    Whether the bitmaps are right is for e2fsck(8) to say. Raises FormatError, OSError.
    """
    from overlay.image.ext3_read import Reader  # of updates only

    os.truncate(target, os.fstat(source).st_size)
    runs = list(Reader(source, ext3.read_superblock(source)).used())
    if not (_on_one_device(source, target, shared) and _copy_within(source, target, runs)):
        copy_runs(source, target, runs)


def _on_one_device(source: int, target: int, shared: bool) -> bool:
    """Return whether the kernel may copy between two open files; shared as of copy_used()."""
    if os.fstat(source).st_dev != os.fstat(target).st_dev:
        return False
    mount = mounts.find(target)
    return mount is not None and (shared or mount.type in _SHARES_NO_BLOCKS)


def _copy_within(source: int, target: int, runs: Iterable[tuple[int, int]]) -> bool:
    """Copy parts of an open file to another one on its file system, holes left out.

    Return whether the kernel could: copy_file_range(2). Raises OSError.
    """
    for offset, length in runs:
        for place, count in _data(source, offset, offset + length):
            end = place + count
            while place < end:
                # The next ones are read from the disk meanwhile.
                os.posix_fadvise(source, place, 2 * _AT_A_TIME, os.POSIX_FADV_WILLNEED)
                try:
                    done = os.copy_file_range(
                        source, target, min(_AT_A_TIME, end - place), place, place
                    )
                except OSError as error:
                    if error.errno in _CANNOT_COPY:
                        return False
                    raise
                if done == 0:  # it is cut off, or the kernel cannot after all: read(2) will say
                    return False
                place += done
    return True


def copy_data(source: int, target: int) -> None:
    """Copy an open file to an empty one, its holes as holes. Raises OSError."""
    os.truncate(target, os.fstat(source).st_size)
    copy_runs(source, target, _data(source))


def _data(descriptor: int, place: int = 0, whole: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of what is not a hole in an open file. Raises OSError.

    place, whole  where to begin and where to end
    """
    whole = os.fstat(descriptor).st_size if whole is None else whole
    while place < whole:
        try:
            place = os.lseek(descriptor, place, os.SEEK_DATA)
            end = min(os.lseek(descriptor, place, os.SEEK_HOLE), whole)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            end = whole
        if place < end:
            yield place, end - place
        place = end


def copy_runs(source: int, target: int, runs: Iterable[tuple[int, int]]) -> None:
    """Copy parts, (offset, length), of an open file to another one; zeros become holes there.

    Several at a time: on a file system far away most of the time of each is waiting.
    Raises OSError, also when the source ends before its size.
    """
    import threading
    from concurrent.futures import ThreadPoolExecutor

    pieces = (
        (place, min(_BLOCK, offset + length - place))
        for offset, length in runs
        for place in range(offset, offset + length, _BLOCK)
    )
    lock, ended = threading.Lock(), threading.Event()

    def work() -> None:
        buffer, zeros = memoryview(bytearray(_BLOCK)), bytes(_BLOCK)
        try:
            while not ended.is_set():
                with lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                _copy_piece(source, target, *piece, buffer, zeros)
        except BaseException:
            ended.set()
            raise

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            for worker in [pool.submit(work) for _number in range(_AT_ONCE)]:
                worker.result()
        finally:
            ended.set()


def _copy_piece(
    source: int, target: int, place: int, length: int, buffer: memoryview, zeros: bytes
) -> None:
    end = place + length
    while place < end:
        count = os.preadv(source, [buffer[: end - place]], place)
        if count == 0:
            raise OSError(errno.EIO, "it became shorter while it was copied")
        data, done = buffer[:count], 0
        while data != zeros[:count] and done < count:
            done += os.pwrite(target, data[done:], place + done)
        place += count


def reserve(
    path: str,
    descriptor: int,
    bytes_: int,
    environ: Mapping[str, str],
    notice: Callable[[str], object] | None,
    task: str = "create",
) -> None:
    """Allocate all blocks of an image, or say that they stay holes.

    path     its name for messages
    bytes_   how long it is
    notice   called with a line when the file system cannot; None to say nothing
    task     what cannot be done then, a verb
    Raises OverlayError (CANNOT_CREATE) when there is no room for them; asked first, because
    fallocate would take all that there is before it fails, and other jobs write here too.
    """
    free = free_bytes(descriptor)
    needed = bytes_ - os.fstat(descriptor).st_blocks * 512
    words = "there is no room" if needed > free else None
    if words is None:
        program = process.need("fallocate", environ)
        result = process.run([program, "-l", str(bytes_), descriptor], environ)
        if not result.status:
            return
        words = result.errors.strip().rpartition(": ")[2]
    if "not supported" in words:
        if notice:
            notice(
                "this file system cannot reserve blocks: the overlay is sparse, and can run into"
                " a full disk or quota while it is written"
            )
        return
    raise cannot(
        path,
        f"{words} ({size.format_size(needed)} are needed, {size.format_size(free)} are free)",
        _WAYS_OUT if task == "create" else "make room there first",
        task,
    )


def copy_sparse(source: int, target: int) -> int:
    """Copy an open file to an empty one, holes and zeros as holes; return the bytes written.

    Raises OSError, also when the source ends before its size.
    """
    whole = os.fstat(source).st_size
    os.truncate(target, whole)
    block, zeros, written, place = memoryview(bytearray(_BLOCK)), bytes(_BLOCK), 0, 0
    end = 0  # of the data at place
    while place < whole:
        if place >= end:
            try:
                place = os.lseek(source, place, os.SEEK_DATA)
                end = os.lseek(source, place, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break  # a hole up to the end
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                end = whole
        count = os.preadv(source, [block[: min(_BLOCK, end - place)]], place)
        if count == 0:
            raise OSError(errno.EIO, "it became shorter while it was copied")
        data, done = block[:count], 0
        if data != zeros[:count]:
            while done < count:
                done += os.pwrite(target, data[done:], place + done)
            written += count
        place += count
    if os.fstat(target).st_size != whole:
        raise OSError(errno.EIO, "the copy has not the size of the original")
    return written
