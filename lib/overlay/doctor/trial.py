"""What a file system can do, tried by two processes on a file made for it.

Locks are what keeps two writers from corrupting an overlay, and some shared file systems
lack them, or say yes to everybody. So nobody is asked: one process locks, the other looks.
Every step has a time limit, because a dead server of locks never answers.

Others may be allowed to write in the directory, and to exchange names there. So nobody can
guess the name of the file, which is made by that and then opened as what a process has open
(/proc/PID/fd, see proc(5)).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import stat
import time

from overlay.errors import reason
from overlay.host import mounts
from overlay.host.room import free_bytes
from overlay.image import lock, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from overlay.host.mounts import Mount

SIZE = 1 << 20  # bytes of the file
_REMOVE = "remove "  # the order; the identity of the file follows
_PATIENCE = 10  # seconds that one step may take
_KILLED = 5  # seconds after which the lock of a killed process must be free


class Failure(Exception):
    """A step did not go as it must; the words say what that means."""


class Findings:
    """What came of a trial of a directory.

    mount       the Mount that it lies on, None when nobody knows
    free, room  bytes that an ordinary user may still take, and bytes of the file system
    written     None when a file can be made, written and removed here, else why not
    locks       None when locks hold between two processes, else what is wrong with them
    flock       the same of flock(2), which overlays that are directories need
    allocation  None when blocks can be reserved, else why not
    attributes  None when extended attributes can be kept, else why not
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.mount: Mount | None = None
        self.free = self.room = 0
        self.written: str | None = None
        self.locks: str | None = None
        self.flock: str | None = None
        self.allocation: str | None = None
        self.attributes: str | None = None


def of(directory: str, fallocate: Callable[[str], str | None] | None = None) -> Findings:
    """Return the Findings of a directory. It leaves nothing behind.

    fallocate  called with a path of a file of SIZE bytes, all of it a hole; returns None
               when its blocks have been reserved, else why not
    """
    found = Findings(directory)
    name = f".overlay-doctor.{os.uname().nodename}.{os.getpid()}-{os.urandom(8).hex()}"
    path = os.path.join(directory, name)
    first = second = None
    identity = ""
    try:
        first = _Process(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        found.written = _said(first, "open")
        if found.written:
            return found
        identity = first.ask("identity")
        found.written = _said(first, "write")
        if found.written:
            return found
        found.mount, found.free, found.room = _where(directory)
        second = _Process(first.file())
        found.locks = _tried(_locks, first, second)
        found.flock = None if found.locks else _tried(_flock, first, second)
        if not first.alive:  # killed, to see what becomes of its lock
            first = _Process(second.file())
        found.attributes = _said(first, "attribute")
        found.allocation = fallocate(first.file()) if fallocate else None
    except TimeoutError:
        found.written = found.written or f"it gives no answer in {_PATIENCE} seconds"
    finally:
        _remove(path, identity)
        for process in (first, second):
            if process:
                process.end()
    return found


def _where(directory: str) -> tuple[Mount | None, int, int]:
    """Return (Mount, free bytes, all bytes) of a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        room = os.fstatvfs(descriptor)
        whole = room.f_blocks * room.f_frsize
        return mounts.find(descriptor), free_bytes(descriptor), whole
    finally:
        os.close(descriptor)


def _remove(path: str, identity: str) -> None:
    """Remove the file, by another process: this one must not hang on a dead server.

    identity  of the file, see _identity(); "" when it is not known
    """
    other = _Process(path)
    try:
        other.ask(_REMOVE + identity)
    except TimeoutError:
        pass
    finally:
        other.end()


def _said(process: _Process, *words: str) -> str | None:
    """Tell a process what to do; return what it could not, None when all went well."""
    for word in words:
        answer = process.ask(word)
        if answer != "done":
            return answer
    return None


def _tried(
    steps: Callable[[_Process, _Process], object], first: _Process, second: _Process
) -> str | None:
    """Return None when some steps went as they must, else the words of the Failure."""
    try:
        steps(first, second)
    except Failure as failure:
        return str(failure)
    except TimeoutError:
        return f"a request for a lock gets no answer in {_PATIENCE} seconds"
    return None


def _must(process: _Process, word: str, wanted: str, failure: str) -> None:
    """Tell a process what to do, and insist on its answer."""
    answer = process.ask(word)
    if answer != wanted:
        raise Failure(failure.format(answer=answer))


def _locks(first: _Process, second: _Process) -> None:
    """Go through what sessions do with locks: ours, the engine's, readers, an end, a kill."""
    none = "there are no locks: {answer}"
    answer = first.ask("ours for writing")
    if answer != "done":
        plain = first.ask("a plain lock")
        if plain != "done":
            raise Failure(none.format(answer=plain))
        raise Failure("there is no lock on the byte 2^62, the one that sessions take: " + answer)
    both = "two processes can hold the same lock for writing"
    _must(second, "ours for writing", "busy", both)
    _must(second, "who holds it", "writer", "a lock that another process holds is not seen")
    _must(first, "release", "done", "a lock cannot be released: {answer}")
    _must(first, "ours for reading", "done", "a released lock cannot be taken again: {answer}")
    _must(
        second, "ours for reading", "done", "two processes cannot both lock for reading: {answer}"
    )
    _must(second, "ours for writing", "busy", "a lock for reading does not keep a writer away")
    _must(first, "release", "done", "a lock cannot be released: {answer}")
    _must(second, "release", "done", "a lock cannot be released: {answer}")
    _must(first, "the engine's", "done", "the lock that the engine takes is not there: {answer}")
    _must(second, "the engine's", "busy", both)
    _must(first, "release", "done", "a lock cannot be released: {answer}")
    _must(second, "who holds it", "nobody", "a lock that was released stays")
    _must(first, "ours for writing", "done", "a released lock cannot be taken again: {answer}")
    first.end()
    deadline = time.monotonic() + _KILLED
    while second.ask("who holds it") != "nobody":
        if time.monotonic() > deadline:
            raise Failure("the lock of a killed process stays")
        time.sleep(0.05)


def _flock(_first: _Process, second: _Process) -> None:
    """See that flock(2) keeps a second process away."""
    _must(second, "flock", "done", "{answer}")
    third = _Process(second.file())
    try:
        _must(third, "flock", "busy", "two processes can hold the same lock for writing")
    finally:
        third.end()


class _Process:
    """A process that opens the file for itself and does with it what it is told.

    flags  more flags for its open(2)
    """

    def __init__(self, path: str, flags: int = 0) -> None:
        self.alive = True
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._orders)
            os.close(self._answers)
            _serve(path, flags, orders, answers)
        os.close(orders)
        os.close(answers)

    def file(self) -> str:
        """Return a path of what it has open, whatever the name of that leads to by now.

        Raises TimeoutError.
        """
        return f"/proc/{self._pid}/fd/{self.ask('number')}"

    def ask(self, order: str) -> str:
        """Have it do something; return its answer, "done" when that is all.

        Raises TimeoutError.
        """
        os.write(self._orders, order.encode() + b"\n")
        ready, _, _ = select.select([self._answers], [], [], _PATIENCE)
        answer = os.read(self._answers, 4096) if ready else b""
        if not answer:
            self.end()
            raise TimeoutError
        return answer.decode(errors="replace").rstrip("\n")

    def end(self) -> None:
        """Kill it. One that hangs in a system call is not waited for."""
        if not self.alive:
            return
        self.alive = False
        os.kill(self._pid, signal.SIGKILL)
        os.close(self._orders)
        os.close(self._answers)
        deadline = time.monotonic() + 0.5
        while not os.waitpid(self._pid, os.WNOHANG)[0] and time.monotonic() < deadline:
            time.sleep(0.005)


def _serve(path: str, flags: int, orders: int, answers: int) -> NoReturn:
    """Be the other process: read orders, write answers. Does not return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    descriptor = -1
    try:
        with open(orders, encoding="ascii") as lines:
            for line in lines:
                order = line.rstrip("\n")
                try:
                    answer = "done"
                    if order.startswith(_REMOVE):
                        answer = _remove_file(path, order[len(_REMOVE) :])
                    elif descriptor < 0:
                        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
                    if order in _DO:
                        answer = _DO[order](descriptor)
                except lock.Busy:
                    answer = "busy"
                except (OSError, ValueError) as error:  # ValueError: a NUL in the name
                    answer = reason(error) if isinstance(error, OSError) else str(error)
                os.write(answers, answer.encode() + b"\n")
    finally:
        os._exit(0)


def _write(descriptor: int) -> str:
    os.pwrite(descriptor, b"x" * 4096, 0)
    os.fsync(descriptor)
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, SIZE)
    return "done"


def _has(taken: bool) -> str:
    return "done" if taken else "the file system does not know such a lock"


def _plain(descriptor: int) -> str:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    fcntl.lockf(descriptor, fcntl.LOCK_UN, 1)
    return "done"


def _take_flock(descriptor: int) -> str:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise lock.Busy(True) from None
        raise
    return "done"


def _release(descriptor: int) -> str:
    lock.release(descriptor)
    return "done"


def _attribute(descriptor: int) -> str:
    if record.write(descriptor, {"user": "doctor"}) and record.read(descriptor):
        return "done"
    try:
        os.setxattr(descriptor, "user.overlay.doctor", b"doctor")
    except OSError as error:
        return reason(error)
    return "what was written is not kept"


def _identity(status: os.stat_result) -> str:
    """Return what tells a file from others, as a word."""
    return f"{status.st_dev}:{status.st_ino}"


def _remove_file(path: str, identity: str) -> str:
    status = os.lstat(path)
    ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    if not ours or identity not in ("", _identity(status)):
        return "another file has its name"
    os.unlink(path)
    return "done"


_DO: dict[str, Callable[[int], str]] = {
    "write": _write,
    "ours for writing": lambda descriptor: _has(lock.take(descriptor, write=True)),
    "ours for reading": lambda descriptor: _has(lock.take(descriptor, write=False)),
    "the engine's": lambda descriptor: _has(lock.take_engine(descriptor)),
    "who holds it": lambda descriptor: lock.holder(descriptor, write=True) or "nobody",
    "a plain lock": _plain,
    "release": _release,
    "flock": _take_flock,
    "attribute": _attribute,
    "number": lambda descriptor: str(descriptor),
    "identity": lambda descriptor: _identity(os.fstat(descriptor)),
}
