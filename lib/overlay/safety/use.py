"""Who uses an overlay, said in words; and the end of what a killed session has left."""

from __future__ import annotations

import os
import signal
import time

from overlay.errors import IN_USE, OverlayError, quote
from overlay.host import holders
from overlay.image import lock, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from overlay.host.holders import Process
    from overlay.image.kind import Image
    from overlay.image.lock import Busy

END_WAIT = 30  # seconds for a server that writes out what it still holds

_STOPPED_WAIT = 2.0  # seconds for a shared session of which something is stopped
_ELSEWHERE_WAIT = 3.0  # seconds for a shared session of another host or user to let go
_LOOKS = 6  # at who is in a shared session, before it is taken to be in use
_PAUSE = 0.05  # seconds between two of them


def in_use(
    image: Image, busy: Busy, environ: Mapping[str, str] | None = None, *, waits: bool = False
) -> OverlayError:
    """Return the error for an image that somebody uses, naming who that is.

    environ  the environment of a session that wants it, None for other commands
    waits    whether another command can wait for it
    """
    found, left_behind = holders.users(image.identity)
    path = quote(image.path)
    what = f"{path} is in use"
    if left_behind:
        pids = ", ".join(str(process.pid) for process in found)
        return OverlayError(
            f"{what}: a killed session left processes behind that hold it ({pids})",
            status=IN_USE,
            hint=f"check-overlay --recover {path}",
        )
    left = holders.left_by_killed(found)
    if left:
        pids = " ".join(str(process.pid) for process in left)
        names = ", ".join(f"{quote(process.command)} ({process.pid})" for process in left[:5])
        return OverlayError(
            f"{what}: a killed session left commands behind that still run: {names}",
            status=IN_USE,
            hint=f"to end them: kill -KILL {pids}; then: check-overlay --recover {path}",
        )
    if not busy.writer and lock.updating(image.descriptor):
        return updated(image.path, waits or environ is not None)
    what += ": a session is writing to it" if busy.writer else ": sessions are reading it"
    who = next((process for process in found if not process.is_server), None) or (
        found[0] if found else None
    )
    lingers = lock.shared(image.descriptor)
    if who:
        since = record.clock(who.started)
        what += f" (process {who.pid} on this host, since {since}: {quote(who.command)}"
        what += f"{_in_it(found) if who.is_shared else ''})"
    elif lingers is not None:
        what += (
            " (one that several commands share, on another host or of another user; it ends with the"
            f" last of them when somebody waits for it, else {lingers} seconds later)"
        )
    elif busy.writer:
        writer = record.describe(record.read(image.descriptor))
        what += f" ({writer})" if writer else ""
    from overlay.host import task  # not needed where nothing is in the way

    together = busy.writer and busy.writes and who is not None and _could_be_shared(who)
    hint = "end that session, or wait for its end: --wait"
    if environ is None and not waits and not who and lingers is not None:
        hint = "again when its commands have ended"
    elif who and who.is_shared and not _in_it(found):
        hint = f"nobody is in it, and it does not end: kill -KILL {who.pid}"
    elif environ is None and not waits:
        hint = "end that session first" if busy.writer else "end those sessions first"
    elif environ is not None and task.is_parallel(environ):
        # Elements of an array are jobs, and each has a session of its own.
        together = together and "SLURM_ARRAY_TASK_ID" not in environ
        hint = task.ways_out(image.path, environ, together=together)
    elif environ is not None and busy.writer and "MAKELEVEL" in environ:
        more = "those that write, with --share; " if together else ""
        hint = f"recipes of make that only read run at once: -o {path}:ro; {more}else: --wait"
    elif environ is not None and together:
        hint += (
            "; to write into it together: all with --share, the same overlays, base image and binds"
        )
    elif environ is not None and not busy.writer:
        hint = (
            f"to read it as well: -o {path}:ro; to write beside its readers, into an overlay of your"
            f" own above it: -o NEW -o {path}; to wait until it is free: --wait"
        )
    return OverlayError(what, status=IN_USE, hint=hint)


def _could_be_shared(who: Process) -> bool:
    """Return whether a process is of a session of ours, on this node, that is or could be shared."""
    return who.is_shared or any(
        word.endswith(("run-overlay", "mount-overlay")) for word in who.arguments[:4]
    )


def updated(path: str, waits: bool) -> OverlayError:
    """Return the error for an overlay that is being updated.

    waits  whether the command can wait for the end of that
    """
    return OverlayError(
        f"{quote(path)} is in use: an update of it is running",
        status=IN_USE,
        hint="wait for its end: --wait" if waits else "try again when it has ended",
    )


def _in_it(found: Iterable[Process]) -> str:
    """Return who is in a shared session, in words, of all that use an overlay."""
    inside = [one for one in found if not (one.is_server or one.is_shared)]
    words = ", ".join(f"{quote(one.command)} ({one.pid})" for one in inside[:3])
    more = f" and {len(inside) - 3} more" if len(inside) > 3 else ""
    return f", in it {words}{more}" if inside else ""


def ask_to_let_go(image: Image) -> bool:
    """Ask shared sessions that have an image to let go; return whether they have.

    They do when nobody is in them; a keeper that was stopped is woken for that.
    """
    keepers = holders.shared_by(image.identity)
    for one in keepers:
        for number in (signal.SIGRTMIN + holders.LET_GO, signal.SIGCONT):
            try:
                os.kill(one.pid, number)
            except OSError:
                pass  # it has just ended
    begun, looks = time.monotonic(), 0
    while any(map(holders.alive, keepers)):
        # A shell of theirs that is just ending has no command line any more, by which it is known.
        found, _left_behind = holders.users(image.identity)
        # What they have started looks at an overlay that was written.
        own = {one.pid for keeper in keepers for one in holders.below(keeper.pid)}
        looks += not all(one.is_server or one.is_shared or one.pid in own for one in found)
        waited = time.monotonic() - begun
        if looks >= _LOOKS or waited >= END_WAIT:
            return False
        if waited >= _STOPPED_WAIT and any(holders.is_stopped(one.pid) for one in keepers):
            return False
        time.sleep(_PAUSE)
    return bool(keepers)


def _lets_go_elsewhere(image: Image) -> bool:
    """Wait until shared sessions that cannot be seen from here let go; return whether they have.

    Their keepers look for who wants the image every second, when nobody is in them.
    """
    if lock.shared(image.descriptor) is None or holders.shared_by(image.identity):
        return False
    lock.want(image.descriptor)
    deadline = time.monotonic() + _ELSEWHERE_WAIT
    while time.monotonic() < deadline:
        if lock.shared(image.descriptor) is None:
            return True
        time.sleep(_PAUSE)
    lock.want_no_more(image.descriptor)
    return False


def is_freed(image: Image, busy: Busy) -> bool:
    """Return whether an image that somebody uses is soon free, without anybody's doing.

    What a keeper ends is, and a shared session that nobody is in, wherever; and the servers of a killed
    session that only read are ended here: they serve nobody, and have nothing to write.
    """
    if holders.being_ended(image.identity) or ask_to_let_go(image):
        return True
    if _lets_go_elsewhere(image):
        return True
    if image.can_be_unclean and lock.holder(image.descriptor, write=not busy.writer) is None:
        return True  # it has just been ended
    found, left_behind = holders.users(image.identity)
    if busy.writer or not left_behind or any(one.is_engine for one in found):
        return False
    end_servers(image, found)
    return True


def waiting_for(path: str) -> str:
    """Return the line for the user that an overlay in use is waited for."""
    return f"waiting for {quote(path)}: it is in use"


def end_servers(image: Image, servers: Iterable[Process]) -> list[Process]:
    """End servers that were left behind, and their companions; return all of them.

    servers  those that have the image open: see holders.users()
    The server of the image goes first: on TERM it writes everything and marks the image
    clean. Raises OverlayError (IN_USE) when they do not end.
    """
    servers = sorted(servers, key=lambda process: process.name != "fuse2fs")
    servers += holders.companions(servers)
    deadline = time.monotonic() + END_WAIT
    for server in servers:
        try:
            os.kill(server.pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
        while holders.alive(server):
            if time.monotonic() >= deadline:
                raise OverlayError(
                    f"process {server.pid} ({server.name}) is still writing {quote(image.path)}",
                    status=IN_USE,
                    hint=f"wait a little, then again: check-overlay --recover {quote(image.path)}",
                )
            time.sleep(0.02)
    return servers
