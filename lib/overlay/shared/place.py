"""Where what shared sessions are known by lies: files of the user's own, and the locks on them.

    shared-KEY.lease   what the session says of itself (record); whoever is in it shares its lock
    shared-KEY.gate    the lock of who starts it
    shared-NAME.quick  how programs that are exposed enter it (quick)
    shared-KEY.short   which session a command line leads to (short)
    shared-unasked     there, when one of these was typed without --share
    shared-KEY.socket  where those who write in it are heard (member)

They lie in the user's directory on a disk of the node (host/private), which is found without
any settings. Every command that only joins imports this: no more than what Python itself has
imported, and fcntl.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIX = "shared-"
LEASE = ".lease"
GATE = ".gate"
SHORT = ".short"
QUICK = ".quick"
UNASKED = PREFIX + "unasked"
SOCKET = ".socket"

# Where an inherited lease is: far above what shells and scripts use by habit.
DESCRIPTOR = 198

PATIENCE = 1.5  # seconds for a lock that nobody keeps for longer than a moment

_HELD = (errno.EAGAIN, errno.EACCES)  # how a lock that somebody else has is refused


def scratch(environ: Mapping[str, str]) -> str:
    """Return the directory in which the user's directory lies: OVERLAY_SCRATCH_LOCAL, or /tmp.

    It is not asked of the settings, which would take longer than to join.
    """
    path = environ.get("OVERLAY_SCRATCH_LOCAL", "").partition(" ")[0]
    plain = path.startswith("/") and not set(path).intersection("${}'\"\\")
    return path if plain else "/tmp"


def usual(environ: Mapping[str, str]) -> str:
    """Return the path of the user's directory, as it is unless somebody else has taken its name."""
    return f"{scratch(environ)}/overlay-{os.getuid()}"


def is_unasked(environ: Mapping[str, str]) -> bool:
    """Return whether a command line without --share may lead to a session, by the settings."""
    try:
        os.lstat(f"{usual(environ)}/{UNASKED}")
        return True
    except OSError:
        return False


def open_directory(path: str) -> int | None:
    """Open a directory of the caller's own; None when it is not there, or not theirs alone."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(descriptor)
        return None
    return descriptor


def open_file(directory: int, name: str, *, make: bool = False) -> int | None:
    """Open a file in it; None when it is not there, or not a plain file of the caller's.

    make  whether it is made where it is not there
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(name, flags | (os.O_CREAT if make else 0), 0o600, dir_fd=directory)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
        os.close(descriptor)
        return None
    return descriptor


def in_the_way(directory: int, name: str) -> bool:
    """Return whether something that is not a plain file of the caller's has a file's name."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid()


def leads_to(directory: int, name: str, descriptor: int) -> bool:
    """Return whether a name still is that of an open file."""
    try:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    here = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def locked(
    directory: int,
    name: str,
    kind: int,
    *,
    make: bool = False,
    seconds: float = PATIENCE,
) -> int | None:
    """Return a descriptor of a file in it with a flock(2), None when that cannot be had in time.

    kind  fcntl.LOCK_SH or fcntl.LOCK_EX
    The name leads to the file when the lock is had: who ends a session removes its files.
    Raises OSError where the file system has no such locks.
    """
    deadline = None
    while True:
        descriptor = open_file(directory, name, make=make)
        if descriptor is None:
            return None
        pause = 0.0005
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in _HELD:
                    os.close(descriptor)
                    if make:
                        unlink(directory, name)  # nobody has it
                    raise
                now = time.monotonic()
                deadline = deadline or now + seconds
                if now >= deadline:
                    os.close(descriptor)
                    return None
            time.sleep(pause)
            pause = min(pause * 2, 0.02)
        if leads_to(directory, name, descriptor):
            return descriptor
        os.close(descriptor)


def read(descriptor: int) -> bytes:
    """Return all of a file from its beginning."""
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0) if size else b""


def put(directory: int, name: str, data: bytes) -> None:
    """Give a file new content, whole or not at all; nothing where there is no room."""
    new = f"{name}.{os.getpid()}"
    unlink(directory, new)
    descriptor = open_file(directory, new, make=True)
    if descriptor is None:
        return
    try:
        if os.write(descriptor, data) == len(data):
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        else:
            unlink(directory, new)
    except OSError:
        unlink(directory, new)
    finally:
        os.close(descriptor)


def keys(directory: int, ending: str) -> Iterator[str]:
    """Yield the keys of all files with an ending in a directory."""
    for name in sorted(os.listdir(directory)):
        if name.startswith(PREFIX) and name.endswith(ending):
            yield name[len(PREFIX) : -len(ending)]


def lease_name(key: str) -> str:
    """Return the name of the file with the lease of a session."""
    return f"{PREFIX}{key}{LEASE}"


def gate_name(key: str) -> str:
    """Return the name of the file whose lock they take who start a session."""
    return f"{PREFIX}{key}{GATE}"


def short_name(key: str) -> str:
    """Return the name of the file that says which session a command line leads to."""
    return f"{PREFIX}{key}{SHORT}"


def quick_name(name: str) -> str:
    """Return the name of the file that leads a shell to a session: see quick."""
    return f"{PREFIX}{name}{QUICK}"


def socket_name(key: str) -> str:
    """Return the name of the socket on which a keeper hears those who write in its session."""
    return f"{PREFIX}{key}{SOCKET}"


def unlink(directory: int, name: str) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        pass
