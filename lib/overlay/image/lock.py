"""Who uses an image: the engine's own lock, probed, and a lock of ours beside it.

Apptainer from 1.3 locks an image over its length with an open file description lock
(fcntl(2), F_OFD_SETLK), older ones and Singularity with F_SETLK; both show to F_OFD_GETLK
here. Ours lies on one byte far beyond every image, so that it meets only itself: it is
taken before the engine is started and, its descriptor inherited, held until the session
ends. That leaves no gap between asking and launching.
"""

from __future__ import annotations

import errno
import fcntl
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.image.kind import Image

OURS = 1 << 62  # the byte that sessions of ours lock
_REPAIR = OURS + 1  # the byte that a repair locks beside it
_UPDATE = OURS + 2  # and this one an update, beside which others may read
_WANTED = OURS + 3  # this one who wants what a shared session has, which lets go when it can
_SHARED = OURS + 4  # and from here on that session, a byte more than the seconds that it lingers
_LONGEST = 1 << 30  # seconds that are told of
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid

# How a file system says that it has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

POLL = 0.1  # seconds between two tries for a lock


class Busy(Exception):
    """The lock that was asked for is held.

    writer  whether a writer holds it
    image   the Image concerned, where the raiser knows
    writes  whether it was asked for to write, where the raiser knows
    """

    def __init__(self, writer: bool) -> None:
        super().__init__("writer" if writer else "readers")
        self.writer = writer
        self.image: Image | None = None
        self.writes = False


class _Held(Exception):
    """A lock that somebody else has is in the way."""


def _flock(kind: int, start: int, length: int) -> bytes:
    return struct.pack(_FLOCK, kind, 0, start, length, 0)


def _probe(descriptor: int, kind: int, start: int, length: int) -> int | None:
    """Return the type of a lock that would be in the way, None when none is.

    Returns None too where the file system has no locks: there is nobody to ask.
    """
    found = _in_the_way(descriptor, kind, start, length)
    return found and found[0]


def _in_the_way(descriptor: int, kind: int, start: int, length: int) -> tuple[int, int, int] | None:
    """Return (type, start, bytes) of a lock that would be in the way, likewise."""
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(kind, start, length))
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    found, _whence, start, length, _pid = struct.unpack(_FLOCK, answer)
    return None if found == fcntl.F_UNLCK else (found, start, length)


def _set(descriptor: int, kind: int, start: int, length: int) -> bool:
    """Take or drop an open file description lock.

    Returns False where the file system has no locks, else True. Raises OSError, _Held.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(kind, start, length))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise _Held from None
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def holder(descriptor: int, *, write: bool) -> str | None:
    """Return how an image is in use: "writer", "reader", or None when it is free for us.

    descriptor  the open image
    write       whether it is to be written; readers are in the way of that only
    """
    kind = fcntl.F_WRLCK if write else fcntl.F_RDLCK
    found = _probe(descriptor, kind, 0, OURS + 1)
    return found if found is None else "writer" if found == fcntl.F_WRLCK else "reader"


def engine_holds(descriptor: int) -> bool:
    """Return whether the engine, or a server that it left, holds its lock on an image."""
    return _probe(descriptor, fcntl.F_WRLCK, 0, OURS) is not None


def take_engine(descriptor: int, *, write: bool = True) -> bool:
    """Take the engine's lock too: over all the image, to its end.

    Raises Busy when a session, also of the plain engine, holds it. Returns False where the
    file system has no locks, else True.
    """
    try:
        return _set(descriptor, fcntl.F_WRLCK if write else fcntl.F_RDLCK, 0, OURS)
    except _Held:
        raise Busy(holder(descriptor, write=False) == "writer") from None


def take_repair(descriptor: int) -> bool:
    """Announce a repair. Returns False when another process repairs already."""
    try:
        _set(descriptor, fcntl.F_WRLCK, _REPAIR, 1)
    except _Held:
        return False
    return True


def take_update(descriptor: int) -> bool:
    """Announce an update. Returns False when another process updates already."""
    try:
        _set(descriptor, fcntl.F_WRLCK, _UPDATE, 1)
    except _Held:
        return False
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        # A packed file that its owner may not write either: another kind of lock will do.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # there is none here: who comes last is refused in the end
    return True


def updating(descriptor: int) -> bool:
    """Return whether somebody updates the image."""
    return _probe(descriptor, fcntl.F_RDLCK, _UPDATE, 1) is not None


def repairing(descriptor: int) -> bool:
    """Return whether somebody repairs the image."""
    return _probe(descriptor, fcntl.F_RDLCK, _REPAIR, 1) is not None


def announce_shared(descriptor: int, linger: float) -> None:
    """Say, to other hosts and users too, that a session is shared. Raises OSError.

    linger  seconds that it goes on after the last command in it has ended
    """
    _tell(descriptor, _SHARED, 1 + int(min(linger, _LONGEST)))


def shared(descriptor: int) -> int | None:
    """Return the seconds that a shared session lingers which has the image; None: none has."""
    found = _in_the_way(descriptor, fcntl.F_WRLCK, _SHARED, 1)
    is_told = found is not None and found[:2] == (fcntl.F_RDLCK, _SHARED)
    return found[2] - 1 if found and is_told else None


def want(descriptor: int) -> None:
    """Ask shared sessions that have the image to let go as soon as nobody is in them.

    For as long as this lasts: see release(), want_no_more(). Raises OSError.
    """
    _tell(descriptor, _WANTED, 1)


def _tell(descriptor: int, start: int, length: int) -> None:
    """Take a lock that others are to see, and that nobody has to. Raises OSError."""
    try:
        _set(descriptor, fcntl.F_RDLCK, start, length)
    except _Held:
        pass  # a program of somebody else's has locked all there is


def want_no_more(descriptor: int) -> None:
    """Take want() back. Raises OSError."""
    _set(descriptor, fcntl.F_UNLCK, _WANTED, 1)


def wanted(descriptor: int) -> bool:
    """Return whether somebody wants the image that a shared session of ours has."""
    return _probe(descriptor, fcntl.F_WRLCK, _WANTED, 1) is not None


def take(descriptor: int, *, write: bool) -> bool:
    """Take our lock on an image. Raises Busy when another session of ours holds it.

    Returns False where the file system has no locks, else True.
    """
    kind = fcntl.F_WRLCK if write else fcntl.F_RDLCK
    try:
        return _set(descriptor, kind, OURS, 1)
    except _Held:
        raise Busy(_probe(descriptor, fcntl.F_RDLCK, OURS, 1) == fcntl.F_WRLCK) from None


def release(descriptor: int) -> None:
    """Drop all locks that this open file description holds."""
    _set(descriptor, fcntl.F_UNLCK, 0, 0)
