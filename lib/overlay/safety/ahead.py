"""The bitmaps of a large image, read into memory by many at once, before a server reads them one by one.

fuse2fs reads the two bitmaps of every group before an image can be written, as many at once as
there are processors, and with older e2fsprogs one at a time. A read that comes from another
machine takes some milliseconds however short it is, and 1 TB has 8,000 groups; the engine gives
the server ten seconds. What is asked for by many threads is there after the time of a few such
reads. (To ask the kernel for it, posix_fadvise(2), does not do: it drops most of many requests.)
"""

from __future__ import annotations

import os
import threading
import time

from overlay.errors import quote
from overlay.image.ext3 import FormatError
from overlay.image.ext3_read import Reader
from overlay.size import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overlay.image.ext3_image import Ext3Image

    Extent = tuple[int, int]  # offset and length in bytes

_THREADS = 32  # reads that are under way at once
_STACK = 1 << 18  # bytes of each thread's stack; the user's limit may be narrow
_LONGEST = 60  # seconds
_MOST = 1 << 30  # bytes: the bitmaps of 16 TiB, the largest image of ours
_PATIENCE = 10  # seconds that an engine gives the server of an image
_TOLD_AFTER = 2  # seconds after which a line says what takes so long
_SAMPLES = 16  # extents that are read to see how long one takes
_IN_MEMORY = 0.001  # seconds in which one is read that is in memory, with much to spare
_WORTH = 0.25  # seconds that all of them would take, below which they are left to the server


def read_ahead(
    image: Ext3Image, notice: Callable[..., object] | None, *, tables: bool = False
) -> None:
    """Read the bitmaps of an image that is going to be written, where they are far away.

    notice  called with a line for the user, and its level
    tables  whether the inode tables will be read, too
    Nothing is done where all is in memory, or on a disk near by: some extents that lie scattered
    are read, and the time is taken. Whatever fails is left to those who need it.
    """
    try:
        reader = Reader(image.descriptor, image.superblock)
        extents = reader.bitmaps(_MOST, tables=tables)
        samples = extents[:: max(1, len(extents) // _SAMPLES)][:_SAMPLES]
        each = sum(_times(image.descriptor, samples)) / max(1, len(samples))
        if each * len(extents) < _WORTH:
            return
        again = min(_times(image.descriptor, samples))  # on a busy machine some take long
    except (FormatError, OSError):
        return
    told = _Told(image, each * len(extents), notice)
    if again > _IN_MEMORY:
        told.in_vain()
        return
    start = time.monotonic()
    try:
        done = _read(image.descriptor, extents, told.slow)
    except OSError:
        return  # it cannot be opened once more
    told.done(done / len(extents), time.monotonic() - start)


class _Told:
    """What a user is told of an image whose bitmaps are far away.

    whole  seconds that it takes to read them one after the other
    """

    def __init__(
        self, image: Ext3Image, whole: float, notice: Callable[..., object] | None
    ) -> None:
        self.size = format_size(image.superblock.size)
        self.path = quote(image.path)
        self.whole = whole
        self.notice = notice or (lambda *_words: None)

    def slow(self) -> None:
        """Say what takes so long."""
        self.notice(f"reading the bitmaps of {self.path}, {self.size}, ahead")

    def in_vain(self) -> None:
        """Say that they cannot be read ahead; without -v too where the session may well fail."""
        fails = self.whole > _PATIENCE * (os.cpu_count() or 1)
        self.notice(
            f"{self.path}, {self.size}: its bitmaps cannot be read ahead, because the file system"
            f" keeps nothing in memory; one after the other that takes some {self.whole:.0f} s",
            "notice" if fails else "detail",
        )

    def done(self, part: float, took: float) -> None:
        """Say what was done."""
        what = "its bitmaps" if part >= 1 else f"{part:.0%} of its bitmaps"
        self.notice(
            f"{self.path}, {self.size}: {what} were read ahead in {took:.1f} s;"
            f" one after the other that takes some {self.whole:.1f} s",
            "detail",
        )


def _opened(descriptor: int) -> int:
    """Open an image once more, for reading only, as a server will."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def _times(descriptor: int, extents: Sequence[Extent]) -> list[float]:
    """Return the seconds that each of some extents takes, read through a descriptor of its own.

    There are file systems that keep in memory what was read until the file is opened again.
    """
    own = _opened(descriptor)
    found = []
    try:
        for offset, length in extents:
            start = time.monotonic()
            os.pread(own, length, offset)
            found.append(time.monotonic() - start)
    finally:
        os.close(own)
    return found


def _read(descriptor: int, extents: Sequence[Extent], tell: Callable[[], object]) -> int:
    """Read some extents, many at once; return how many were read.

    tell  called when it takes long
    Ends when all is read, one read fails or time is up; threads that then still wait for theirs
    are left behind.
    """
    left = iter(extents)
    counts: list[int] = []
    own = _opened(descriptor)
    stop = threading.Event()

    def work() -> None:
        count = 0
        try:
            for offset, length in left:
                if stop.is_set():
                    break
                os.pread(own, length, offset)
                count += 1
        except OSError:
            stop.set()
        counts.append(count)

    try:
        threads = _started(work, min(_THREADS, len(extents)))
        done = _wait(threads, _TOLD_AFTER)
        if not done:
            tell()
            done = _wait(threads, _LONGEST - _TOLD_AFTER)
    finally:
        stop.set()
    if done:
        os.close(own)
    return sum(counts)


def _started(work: Callable[[], object], count: int) -> list[threading.Thread]:
    """Start some threads, as many as the user may have, and return them."""
    threads = []
    before = threading.stack_size(_STACK)
    try:
        for _number in range(count):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:
        pass  # they may have no more
    finally:
        threading.stack_size(before)
    return threads


def _wait(threads: Sequence[threading.Thread], seconds: float) -> bool:
    """Wait for the end of some threads; return whether all have ended."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
