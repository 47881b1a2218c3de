"""The caller's own directory on a disk of the node, in a scratch that all can write.

What we put on scratch lies in there: names that others could guess, and make before us, do
no harm in a directory that is ours alone. The host is in the names, because scratch may be
one that nodes share.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time

from overlay.errors import CANNOT_CREATE, OverlayError, quote, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

# The variable of [scratch] local: TMPDIR would not do where SLURM_TMPDIR comes before it.
HINT = "set OVERLAY_SCRATCH_LOCAL to a directory of yours with room"

_instead: dict[str, str] = {}  # scratch -> name of the directory where the usual one is another's
LOCK = ".lock"
_DAY = 86400  # seconds
_shown = ""  # what stands in names in the place of our number, where a plan is only shown


def name(scratch: str) -> str:
    """Return the name of the directory in scratch: overlay-UID.

    Where somebody else has made that, it is one of ours that begins so, or a new name with
    an end that nobody can guess.
    """
    path = _usual(scratch)
    if not is_taken(scratch):
        return path
    if scratch not in _instead:
        _instead[scratch] = _own_name(path) or f"{path}-{os.urandom(8).hex()}"
    return _instead[scratch]


def _usual(scratch: str) -> str:
    return os.path.join(scratch, f"overlay-{os.getuid()}")


def is_taken(scratch: str) -> bool:
    """Return whether somebody else has made what the directory in scratch would be called."""
    return _is_others(_usual(scratch))


def others_rule(scratch: str) -> str | None:
    """Return why others may exchange what we put in scratch, in words; None when they may not.

    With the sticky bit only who has made a file, or the directory that it is in, may rename
    it, as in /tmp. Its own directory's name is looked at as far as everybody may change it.
    """
    path = os.path.realpath(scratch)
    try:
        status = os.stat(path)
        # In a user namespace root is often nobody; who has / could exchange anything.
        if status.st_uid not in (0, os.getuid(), os.stat("/").st_uid):
            return "it belongs to somebody else"
        if status.st_mode & stat.S_ISVTX:
            pass
        elif status.st_mode & stat.S_IWOTH:
            return "everybody may exchange what is in it: it has no sticky bit"
        elif status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid):
            return "its group may exchange what is in it: it has no sticky bit"
        while path != "/":
            path = os.path.dirname(path)
            mode = os.stat(path).st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                return f"everybody may exchange what is in {quote(path)}, which has no sticky bit"
    except OSError:
        pass  # it is not there, or cannot be looked at: told when it is used
    return None


def _is_private_group(gid: int) -> bool:
    """Return whether a group is that of the caller alone, as many systems give one to each."""
    import grp  # these ask a server on many sites
    import pwd

    try:
        group = grp.getgrgid(gid)
        return group.gr_name == pwd.getpwuid(os.getuid()).pw_name and not group.gr_mem
    except KeyError:
        return False


def _is_others(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False  # it is not there, or cannot be looked at: told when it is made
    return not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid()


def _own_name(path: str) -> str | None:
    """Return the path of a directory of ours beside another's, for what is to be shared."""
    scratch, base = os.path.split(path)
    try:
        names = sorted(os.listdir(scratch))
    except OSError:
        return None
    paths = [os.path.join(scratch, entry) for entry in names if entry.startswith(base + "-")]
    return next((path for path in paths if not _is_others(path)), None)


def identity(status: os.stat_result) -> str:
    """Return what tells a file's content from every other's, for a name on scratch.

    status  of the file, as os.stat() returns it
    Size and time alone are not enough: whoever may write a file can give it those of another.
    The kernel sets the time of the last change of the inode, and nobody can choose it. The
    boot of the node comes first, because a file system may have another number after the
    next, and a node that crashes may leave what was not written to its end.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
            boot = file.read(8)
    except OSError:
        boot = "0"
    return (
        f"{boot}-{status.st_dev:x}-{status.st_ino:x}"
        f"-{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"
    )


def make(scratch: str) -> str:
    """Make the directory in scratch, and return its name.

    Raises OverlayError (CANNOT_CREATE) when it cannot be, or is somebody else's, or others
    could exchange it for one of theirs.
    """
    path = name(scratch)
    why = others_rule(scratch)
    if why:
        raise OverlayError(
            f"temporary files would go to {quote(scratch)}, and {why}",
            status=CANNOT_CREATE,
            hint=f"{HINT}; or its owner types: chmod +t {quote(scratch)}",
        )
    try:
        status = None
        while status is None:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
                _own(path)
            # Another process of the user may have just removed it, empty as it was.
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise OverlayError(f"{quote(path)} is not yours", status=CANNOT_CREATE, hint=HINT)
        if status.st_mode & 0o077:
            os.chmod(path, 0o700)
    except OSError as error:
        raise OverlayError(
            f"cannot make {quote(path)}: {reason(error)}", status=CANNOT_CREATE, hint=HINT
        ) from None
    return path


def worker() -> str:
    """Return what stands in the names of what this process makes: its number.

    In a plan that is only shown it is not a number: who pastes the lines has not this process any more,
    and what killed ones have left is removed by the next.
    """
    from overlay import plan  # where names for work are made, only

    global _shown
    if not plan.is_only_shown():
        return str(os.getpid())
    _shown = _shown or f"plan-{os.urandom(4).hex()}"
    return _shown


def work_name(scratch: str, host: str, pid: int | str) -> str:
    """Return the name of the directory for the work of one process, or worker()."""
    return os.path.join(name(scratch), f"{_prefix(host)}{pid}")


def _prefix(host: str) -> str:
    return f"work.{host}."


def make_work(scratch: str, host: str, pid: int | str, part: str = "") -> str:
    """Make the directory for the work of one process, empty; return its name.

    part  the end of its name, such as ".copy", of one beside that which has none
    Raises OverlayError (CANNOT_CREATE).
    """
    path = work_name(scratch, host, pid) + part
    remove(path)  # of a killed process of our number

    def new() -> None:
        os.mkdir(path, 0o700)
        _own(path)

    _within(scratch, path, new)
    return path


def _own(path: str) -> None:
    """Give a new directory the caller's group, where the one above hands on another."""
    with contextlib.suppress(OSError):  # such as of a file system without groups
        os.chown(path, -1, os.getegid())
        os.chmod(path, 0o700)  # chown leaves the bit that hands it on


def put(scratch: str, path: str, data: bytes) -> None:
    """Write a file in the directory in scratch. Raises OverlayError (CANNOT_CREATE)."""

    def write() -> None:
        with open(path, "wb") as file:
            file.write(data)

    _within(scratch, path, write)


def open_file(scratch: str, entry: str) -> int:
    """Open a file in the directory, made if it is not there; return the descriptor.

    Raises OverlayError (CANNOT_CREATE).
    """
    path = os.path.join(name(scratch), entry)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    return _within(scratch, path, lambda: os.open(path, flags, 0o600))


def _within(scratch: str, path: str, function: Callable[[], T], tries: int = 3) -> T:
    """Call what makes a path in the directory, which others may remove while it is empty."""
    make(scratch)
    try:
        return function()
    except OSError as error:
        if tries > 1 and isinstance(error, FileNotFoundError):
            return _within(scratch, path, function, tries - 1)
        raise OverlayError(
            f"cannot make {quote(path)}: {reason(error)}", status=CANNOT_CREATE, hint=HINT
        ) from None


def leave(scratch: str, path: str) -> None:
    """Remove what has been made in the directory, and that too if nothing else is in it."""
    if os.path.isdir(path):
        remove(path)
    else:
        _try(os.unlink, path)
    _try(os.rmdir, name(scratch))


def keep(scratch: str, path: str) -> str:
    """Move what has been made in the directory out of the way of all that tidies there.

    Return its path now. Raises OSError.
    """
    base = f"kept.{os.uname().nodename}.{os.getpid()}-{os.urandom(4).hex()}"
    kept = os.path.join(name(scratch), base)
    os.rename(path, kept)
    return kept


def remove_stale(scratch: str, host: str) -> None:
    """Remove what killed processes of this host, and pasted plans, have left of their work."""
    directory, prefix = name(scratch), _prefix(host)
    try:
        names = os.listdir(directory)
        if os.lstat(directory).st_uid != os.getuid():
            return
    except OSError:
        return
    for entry in names:
        pid, path = entry[len(prefix) :].partition(".")[0], os.path.join(directory, entry)
        if entry.startswith(prefix) and not _may_be_at_work(pid, path):
            leave(scratch, path)


def _may_be_at_work(pid: str, path: str) -> bool:
    """Return whether what has made something may still need it; pid as worker() gives it."""
    if pid.isdecimal():
        return os.path.exists(f"/proc/{pid}")
    try:
        return time.time() - os.lstat(path).st_mtime < _DAY
    except OSError:
        return True  # it has just been removed


def remove(tree: str) -> None:
    """Remove a directory and all that is in it, closed directories too, as far as possible."""
    if os.path.islink(tree):
        return
    _try(os.chmod, tree, 0o700)
    for directory, names, _files in os.walk(tree):
        for entry in names:
            path = os.path.join(directory, entry)
            if not os.path.islink(path):
                _try(os.chmod, path, 0o700)  # before the walk comes there
    for directory, names, files in os.walk(tree, topdown=False):
        for entry in files:
            _try(os.unlink, os.path.join(directory, entry))
        for entry in names:
            path = os.path.join(directory, entry)
            _try(os.unlink if os.path.islink(path) else os.rmdir, path)
    _try(os.rmdir, tree)


def _try(function: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(OSError):
        function(*arguments)


class Locked:
    """The lock on the user's directory in scratch, for one process of the node at a time.

    It is the kernel's, and free again however its holder ends.
    """

    def __init__(self, scratch: str) -> None:
        self._descriptor = open_file(scratch, LOCK)

    def take(self, wait: bool = True) -> bool:
        """Take the lock. Returns False when another has it and we do not wait."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let it go."""
        os.close(self._descriptor)
