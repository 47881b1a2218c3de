"""After a writable session: is what was written really there?

The engine unmounts in a hurry: a second after the end it asks the server of the image to
end, two seconds later it kills it, and reports success either way.
"""

from __future__ import annotations

import os
import time

from overlay.errors import DATA_LOST, OverlayError, quote
from overlay.host import holders, limits
from overlay.image import ext3, lock, record
from overlay.safety.tidy import tidy
from overlay.size import format_files, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from overlay.image.ext3_image import Ext3Image
    from overlay.image.kind import Image
    from overlay.output import Listener

# What the end of some sessions needs, and what that does.
NEEDED = (
    "overlay.host.mounts",
    "overlay.host.task",
    "overlay.host.tools",
    "overlay.image.ext3_contents",
    "overlay.image.ext3_write",
    "overlay.image.paths",
    "overlay.image.squashfs",
    "overlay.safety.ahead",
    "overlay.safety.guard",
    "overlay.safety.links",
    "overlay.safety.repair",
    "overlay.safety.use",
    "overlay.host.names",
)

_END_WAIT = 1  # seconds after which a server that has not begun to end is asked to
_NO_ROOM = 1 << 18  # bytes; some are left where fuse2fs makes no more files
_NO_FILES = 8
_FLUSH_WAIT = 60  # seconds for a server that is still writing when the engine has ended


def prepare() -> None:
    """Import what the end may need: until then another version may take the place of this one."""
    for name in NEEDED:
        __import__(name)


def finish(
    image: Ext3Image,
    status: int,
    *,
    base: str,
    below: Sequence[Image],
    full_is_told: bool,
    token: str | None,
    failed: int,
    environ: Mapping[str, str],
    output: Listener,
    program: str,
) -> int:
    """Look at the image after its session and return the exit status for the user.

    image   that was written; we still hold its lock
    status  how the engine ended, negative for a signal
    base    path of the base image
    below   Images of the overlays that were below
    full_is_told  whether a write inside fails where the overlay is full
    token   what tells the processes of the session; None: there is nobody to look for
    failed  what the engine itself ends with when it fails in order
    output  to print warnings
    A status of 0 becomes DATA_LOST for run-overlay when what was written may be lost.
    """
    descriptor, path, before = image.descriptor, quote(image.path), image.superblock
    lost = False
    limits.set_soft_aside()
    if token is not None:
        tell_of_the_left_behind(path, token, output)
    try:
        if _end_abandoned(image, output) and status >= 0:
            status = failed
    except OverlayError as error:
        output.error(error)
    if not _wait_for_servers(descriptor, path, output):
        output.notice(f"{path} is still being written after the session has ended", "warning")
        return DATA_LOST if status == 0 and program == "run-overlay" else status
    try:
        image.superblock = superblock = ext3.read_superblock(descriptor)
        taken = taken_away(image, superblock)
        if taken:
            lost = True
            output.notice(f"{path} {taken}", "warning")
        elif not superblock.is_clean:
            lost = True
            output.notice(
                f"{path} was not closed properly: the last writes of this session may be lost",
                "warning",
            )
            for line in _repair(image, environ, output).split("\n"):
                output.notice(f"{path}: {line.strip()}", "warning")
        elif not full_is_told and is_used_up(superblock):
            lost = True
            output.notice(used_up(path, superblock), "warning")
        if not lost:
            lost = _join(image, below, environ, output)
            removed = tidy(image, base, below, environ)
            if not ext3.read_superblock(descriptor).is_clean:
                _repair(image, environ, output)  # removing them was cut short
            if removed:
                output.notice(f"{path}: {removed} needless deletion markers removed", "detail")
            _tell_of_full(path, before, ext3.read_superblock(descriptor), output)
    except (ext3.FormatError, OSError) as error:
        lost = True
        output.notice(f"{path} is damaged: {error}", "warning")
    except OverlayError as error:
        lost = True
        output.error(error)
    record.end(descriptor)
    return DATA_LOST if lost and status == 0 and program == "run-overlay" else status


def is_used_up(superblock: ext3.Superblock) -> bool:
    """Return whether an overlay is so full that the engine may have lost what it was told."""
    return superblock.available_bytes < superblock.block_size * 16


def used_up(path: str, superblock: ext3.Superblock) -> str:
    """Return what is to be said then; path is quoted."""
    return (
        f"{path} is full ({format_size(superblock.available_bytes)} left): what was"
        f" written last may be lost; for more room: resize-overlay {path} -s +SIZE"
    )


def taken_away(image: Ext3Image, superblock: ext3.Superblock) -> str | None:
    """Return what others have done to an image during its session, in words, None when nothing.

    superblock  what it says of itself now
    Who may write in its directory can remove it there, or give it another name; who may write
    the image can cut it off.
    """
    status = os.fstat(image.descriptor)
    if not status.st_nlink:
        return "was removed during the session: what was written is lost"
    if superblock.size > status.st_size:
        return "was cut off during the session: what was behind its end is lost"
    try:
        if os.path.samestat(os.stat(image.path), status):
            return None
    except OSError:
        pass
    return "has another name since the session began: what was written is there, and not here"


def _tell_of_full(
    path: str, before: ext3.Superblock, after: ext3.Superblock, output: Listener
) -> None:
    """Say that a session has filled its overlay: commands that failed may not have said why."""
    no_room, no_files = _is_full(after)
    if (no_room or no_files) and not any(_is_full(before)):
        output.notice(
            f"{path} is full: {format_size(after.available_bytes)} and"
            f" {format_files(after.free_inodes_count)} left; for more: resize-overlay {path}"
            f" {'-s +SIZE' if no_room else '-n +FILES'}",
            "warning",
        )


def _is_full(superblock: ext3.Superblock) -> tuple[bool, bool]:
    """Return whether the room, and the number of files, are as good as used up."""
    return superblock.available_bytes < _NO_ROOM, superblock.free_inodes_count < _NO_FILES


def _join(
    image: Ext3Image, below: Sequence[Image], environ: Mapping[str, str], output: Listener
) -> bool:
    """Give what was written the other names of lower files; return whether some are lost."""
    if not below:
        return False
    from overlay.safety.links import join  # not needed for one overlay

    joined = join(image, below, environ)
    path = quote(image.path)
    if joined.count:
        words = "other names of files that were written lead to what was written"
        output.notice(f"{path}: {joined.count} {words}", "detail")
    if joined.failed:
        listed = ", ".join(quote("/" + os.fsdecode(name)) for name in joined.failed[:5])
        more = len(joined.failed) - 5
        output.notice(
            f"{path}: files of a lower overlay with several names were written, and under these"
            f" they show what they were before: {listed}"
            + (f" and {more} more" if more > 0 else ""),
            "warning",
        )
    return bool(joined.failed)


def tell_of_the_left_behind(path: str, token: str, output: Listener) -> None:
    """Warn of processes in the background that outlived the commands.

    The engine takes the overlay away from them a second after the commands end. To hold
    it open for them is not ours to do, and a process namespace, which would end them at
    once, breaks what MPI ranks on a node share.
    """
    processes = holders.of_session(token)
    if processes:
        names = ", ".join(f"{quote(process.command)} ({process.pid})" for process in processes[:5])
        output.notice(
            f"still running when the commands ended: {names}; what they write to {path} is lost."
            " End the commands with `wait`",
            "warning",
        )


def _end_abandoned(image: Image, output: Listener) -> bool:
    """End the servers of an engine that failed before it could; return whether there were any.

    Apptainer can fail so when it is told to end while it starts. Its own end is another: it
    unmounts, and a server that still writes then is waited for.
    """
    patience = time.monotonic() + _END_WAIT
    while time.monotonic() < patience:
        if not lock.engine_holds(image.descriptor):
            return False
        time.sleep(0.02)
    processes, left_behind = holders.users(image.identity)
    if not left_behind or not any(map(holders.serves, processes)):
        return False
    from overlay.safety.use import end_servers

    servers = end_servers(image, processes)
    output.notice(
        f"{quote(image.path)}: the engine failed, and what it left behind was ended"
        f" ({', '.join(f'{server.name} {server.pid}' for server in servers)})",
        "warning",
    )
    return True


def _wait_for_servers(descriptor: int, path: str, output: Listener) -> bool:
    """Wait until the engine's lock is free; return whether it is."""
    start = time.monotonic()
    said = False
    while lock.engine_holds(descriptor):
        waited = time.monotonic() - start
        if waited >= _FLUSH_WAIT:
            return False
        if waited > 2 and not said:
            output.notice(f"waiting until {path} is written")
            said = True
        time.sleep(0.02)
    return True


def _repair(image: Ext3Image, environ: Mapping[str, str], output: Listener) -> str:
    """Repair an image that the engine left unclean; return what was done, in words."""
    try:
        lock.take_engine(image.descriptor)
    except lock.Busy:
        return "another session has begun to use it"
    from overlay.safety import guard, repair  # not needed where all is well

    guard.read_ahead(image, output.notice, tables=True)
    return repair.make_sound(image.path, image.descriptor, environ)
