"""Staging: copies of read-only overlays on a disk of the node, shared by its sessions.

A copy is called staged-… after the boot of the node and after device, inode, size and
times of its original, to the nanosecond: a changed original is another name, so nothing
that is stale is ever taken, and what a crash of the node left neither. One process of a
node copies at a time; the others wait for the lock that it holds, which is the kernel's
and free again when it is killed. Who uses a copy holds a shared lock on it, up to the end
of their session; copies that nobody uses go after a day, or when their room is needed.
"""

from __future__ import annotations

import os
import time

from overlay import size
from overlay.errors import OverlayError, quote, reason
from overlay.host import private
from overlay.host.room import free_bytes
from overlay.image import image as images
from overlay.image import lock
from overlay.safety import blocks, guard
from overlay.safety.unused import remove_unused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from overlay.image.kind import Image
    from overlay.settings.config import Config

    Value = TypeVar("Value")
    Notice = Callable[[str, str], object]  # called with a line for the user and its level

_SPARE = 64 << 20  # bytes that stay free on scratch


def not_staged(path: str, why: str) -> str:
    """Return the line for the user that an original is used in the place of a copy."""
    return f"{quote(path)} is not staged: {why}"


def copy_name(image: Image, directory: str) -> str:
    """Return the path of the copy of an Image in a directory on scratch."""
    status = os.fstat(image.descriptor) if image.descriptor >= 0 else image.status
    return os.path.join(directory, f"staged-{private.identity(status)}{image.suffixes[0]}")


def _prefix(status: os.stat_result) -> str:
    """Return how the names of all copies of one file begin: with boot, device and inode."""
    return "staged-" + "-".join(private.identity(status).split("-")[:3]) + "-"


def stage(path: str, config: Config, *, scratch: str, wait: float | None, notice: Notice) -> str:
    """Return the path of a copy of an overlay on scratch, made now if there is none.

    scratch  a node-local directory
    wait     seconds to wait for an overlay in use, None not at all
    notice   called with a line for the user and its level
    The copy stays locked for this process and those that it becomes or starts. Where it
    cannot be made (no room, a directory) a line says so, and path itself is returned.
    Raises OverlayError as guard.acquire() does.
    """
    overlays = [images.look(path)]
    try:
        image = overlays[0]
        if not image.is_file:
            notice(not_staged(path, "it is a directory"), "notice")
            return path
        _prepared(private.make, scratch)
        copy = copy_name(image, private.name(scratch))
        return _use(copy) or _share(overlays, scratch, config, wait, notice)
    except OSError as error:
        notice(not_staged(path, reason(error)), "notice")
        return path
    except _NotStaged as error:
        notice(not_staged(path, str(error)), "notice")
        return path
    finally:
        overlays[0].close()


class _NotStaged(Exception):
    """Why the original is used, in words."""


def _prepared(function: Callable[[str], Value], scratch: str) -> Value:
    """Call what needs the user's directory in scratch; without that nothing is staged."""
    try:
        return function(scratch)
    except OverlayError as error:
        raise _NotStaged(error.what) from None


def _use(path: str) -> str | None:
    """Return the path of a copy, locked for reading; None when it is not there.

    Its time of access becomes that of its last use.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        lock.take(descriptor, write=False)
        status = os.fstat(descriptor)
        if not status.st_nlink:
            raise FileNotFoundError
        os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
    except (lock.Busy, FileNotFoundError):
        os.close(descriptor)  # it is just being removed
        return None
    _hold(descriptor)
    return path


def _hold(descriptor: int) -> None:
    """Leave a descriptor, and so its lock, to what this process starts or becomes."""
    os.set_inheritable(descriptor, True)


def _share(
    overlays: list[Image], scratch: str, config: Config, wait: float | None, notice: Notice
) -> str:
    """Wait for the copy that somebody makes, or make it; return its path.

    overlays  a list of the one Image: see guard.acquire()
    """
    image = overlays[0]
    own, directory = _prepared(private.Locked, scratch), private.name(scratch)
    try:
        if not own.take(wait=False):
            notice(f"waiting until another task has staged {quote(image.path)}", "detail")
            own.take()
        found = _use(copy_name(image, directory))
        if found:
            return found
        guard.acquire(
            overlays,
            False,
            config=config,
            wait=wait,
            notice=lambda text: notice(text, "notice"),
        )
        image = overlays[0]  # another file may be there by now, or a repaired one
        path = copy_name(image, directory)
        return _use(path) or _make(image, path, directory, config, notice)
    finally:
        own.close()


def _make(image: Image, path: str, directory: str, config: Config, notice: Notice) -> str:
    """Copy a locked Image to a path; return that. The lock on the directory is held."""
    partial = os.path.join(directory, "partial")
    if os.path.lexists(partial):
        os.unlink(partial)  # of a killed process: we hold the lock
    before = os.fstat(image.descriptor)
    # What its older states left goes first, if nobody uses it.
    remove_unused(directory, prefix=_prefix(before), older=0)
    remove_unused(directory)
    # Some file systems report no blocks, and preallocated ones may not be more than the size.
    needed = min(before.st_blocks * 512, before.st_size) or before.st_size
    if _room(directory) < needed:
        remove_unused(
            directory, prefix="staged-", older=0, enough=lambda: _room(directory) >= needed
        )
    if _room(directory) < needed:
        raise _NotStaged(
            f"it needs {size.format_size(needed)} in {quote(directory)}, and"
            f" {size.format_size(max(0, _room(directory)))} are free"
        )
    start = time.monotonic()
    descriptor = os.open(
        partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        written = blocks.copy_sparse(image.descriptor, descriptor)
        after = os.fstat(image.descriptor)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise _NotStaged("it was changed while it was copied")
        if not image.is_clean:
            # It was seen to be whole; only a copy may be marked so by somebody else.
            from overlay.safety import repair  # not needed where all is clean

            repair.make_sound(partial, descriptor, config.environ)
        lock.take(descriptor, write=False)
        os.rename(partial, path)
    except BaseException:
        os.close(descriptor)
        os.unlink(partial)
        raise
    _hold(descriptor)
    notice(
        f"staged {quote(image.path)} in {quote(directory)}"
        f" ({size.format_size(written)}, {time.monotonic() - start:.1f} s)",
        "notice",
    )
    return path


def _room(directory: str) -> int:
    """Return the bytes that may still be taken on scratch."""
    return free_bytes(directory) - _SPARE
