"""Entering a session: the process that joins becomes the command, so all it does is its own.

Only the namespaces of a process of the session are taken (setns(2)); its terminal, signals,
limits, control group and open files are the caller's.
"""

from __future__ import annotations

import os

from overlay.errors import UNAVAILABLE, OverlayError, quote, reason
from overlay.shared.place import DESCRIPTOR
from overlay.shared.record import started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from overlay.shared.record import Record

# prctl(2), capabilities(7): linux/prctl.h
_SET_NO_NEW_PRIVS = 38
_CAPBSET_READ = 23
_CAPBSET_DROP = 24

# ioprio_set(2), for which there is no function: its number, and its first argument for a process.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_IOPRIO_WHO_PROCESS = 1

# How the process ends that tries whether all is the same inside.
_CANNOT = 1
_OTHER_DIRECTORY = 2
_OTHER_FILE = 3
_NO_PROGRAM = 4
_WHY = {
    _CANNOT: "it cannot be entered",
    _OTHER_DIRECTORY: "the current directory is another one inside it",
    _OTHER_FILE: "a file that is named is another one inside it",
    _NO_PROGRAM: "the program is not inside it",
}


class Refused(Exception):
    """A session cannot be joined by this command; the text says why."""


class Calls:
    """The system calls that Python has not in all its versions, or not at all."""

    def __init__(self) -> None:
        """Find them. Raises Refused."""
        try:
            # ctypes would be ten times as long to import.
            import _ctypes

            self._call = _ctypes.call_function
            library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # the program itself
            self._setns = _ctypes.dlsym(library, "setns")
            self._prctl = _ctypes.dlsym(library, "prctl")
            self._syscall = _ctypes.dlsym(library, "syscall")
        except (ImportError, AttributeError, OSError):
            raise Refused("this Python has no ctypes") from None

    def setns(self, descriptor: int) -> bool:
        """Take the namespace that a descriptor is of; return whether that went well."""
        result: int = self._call(self._setns, (descriptor, 0))
        return result == 0

    def prctl(self, option: int, value: int) -> int:
        """Return what prctl(2) returns."""
        result: int = self._call(self._prctl, (option, value, 0, 0, 0))
        return result

    def forget_ioprio(self) -> None:
        """Take no precedence on disks but what the nice value gives; nothing where that fails."""
        number = _IOPRIO_SET.get(os.uname().machine)
        if number is not None:
            self._call(self._syscall, (number, _IOPRIO_WHO_PROCESS, 0, 0))


class Door:
    """The namespaces of a session, open; see open_door()."""

    __slots__ = ("calls", "mount", "user")

    def __init__(self, calls: Calls, user: int, mount: int) -> None:
        self.calls = calls
        self.user = user
        self.mount = mount

    def go(self) -> bool:
        """Enter; return whether that went well."""
        return self.calls.setns(self.user) and self.calls.setns(self.mount)


def open_door(record: Record) -> Door:
    """Return the Door of a session. Raises Refused when it has ended, or is not ours to enter."""
    calls = Calls()
    opened: list[int] = []
    try:
        for kind in ("user", "mnt"):
            opened.append(os.open(f"/proc/{record.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        for descriptor in opened:
            os.close(descriptor)
        raise Refused(f"{_WHY[_CANNOT]}: {error.strerror}") from None
    # Seen after they were opened: else the number might have become another's.
    if started(record.pid) != record.ticks:
        for descriptor in opened:
            os.close(descriptor)
        raise Refused("it has just ended")
    return Door(calls, *opened)


def try_it(
    door: Door, cwd: str, files: Mapping[str, os.stat_result], program: str, path: str
) -> None:
    """See that a command would find inside what it is to find. Raises Refused.

    cwd      the current directory's name
    files    name -> what is there on the host, of files that must be the same inside
    program  what is started, looked for along a PATH where it is a name
    It takes a process: who has entered cannot come back.
    """
    here = os.stat(".")
    child = os.fork()
    if child == 0:
        try:
            os._exit(_tried(door, cwd, here, files, program, path))
        finally:
            os._exit(_CANNOT)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise Refused(_WHY.get(status, _WHY[_CANNOT]))


def _tried(
    door: Door,
    cwd: str,
    here: os.stat_result,
    files: Mapping[str, os.stat_result],
    program: str,
    path: str,
) -> int:
    """Enter, look, and return how that process is to end."""
    if not door.go():
        return _CANNOT
    try:
        os.chdir(cwd)
        if not _same(os.stat("."), here):
            return _OTHER_DIRECTORY
    except OSError:
        return _OTHER_DIRECTORY
    for name, status in files.items():
        try:
            if not _same(os.stat(name), status):
                return _OTHER_FILE
        except OSError:
            return _OTHER_FILE
    return 0 if find(program, path) else _NO_PROGRAM


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def find(program: str, path: str) -> str | None:
    """Return the path of a program, looked for along PATH where it is a name; None: not there."""
    if "/" in program:
        return program if os.access(program, os.X_OK) else None
    for directory in path.split(":"):
        found = os.path.join(directory or ".", program)
        if os.path.isfile(found) and os.access(found, os.X_OK):
            return found
    return None


def hand_on(lease: int) -> None:
    """Let what this process becomes, and all that it starts, have a lease. Raises OSError."""
    import fcntl
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = DESCRIPTOR if most < 0 or most > DESCRIPTOR else most // 2
    os.set_inheritable(fcntl.fcntl(lease, fcntl.F_DUPFD, wanted), True)


def become(
    door: Door,
    cwd: str,
    words: Sequence[str],
    environ: Mapping[str, str],
    direct: Sequence[str] | None = None,
) -> NoReturn:
    """Enter, and become the command, as the engine would start it; it was tried before.

    words    its command line
    environ  its environment
    direct   the command itself where words are a shell's, which says why it cannot be started:
             then that is left out where it can
    Raises OverlayError (UNAVAILABLE): there is no way back.
    """
    try:
        _become(door, cwd, words, environ, direct)
    except OSError as error:
        why = reason(error)
    raise OverlayError(f"cannot start {quote(words[0])} inside: {why}", status=UNAVAILABLE)


def _become(
    door: Door,
    cwd: str,
    words: Sequence[str],
    environ: Mapping[str, str],
    direct: Sequence[str] | None,
) -> NoReturn:
    """Do what become() does. Raises OSError."""
    signals = __import__("_signal")  # signal itself would bring enum
    here = os.stat(".")
    if not door.go():
        raise PermissionError(1, "its namespaces are closed")
    os.chdir(cwd)
    if not _same(os.stat("."), here):
        raise FileNotFoundError(2, f"{cwd} is another directory there; see --no-share")
    calls = door.calls
    capability = 0
    while calls.prctl(_CAPBSET_READ, capability) >= 0:
        calls.prctl(_CAPBSET_DROP, capability)
        capability += 1
    calls.prctl(_SET_NO_NEW_PRIVS, 1)
    # What Python has changed at its start.
    signals.signal(signals.SIGPIPE, signals.SIG_DFL)
    signals.signal(signals.SIGXFSZ, signals.SIG_DFL)
    path = environ.get("PATH", "")
    # Some shells hand on no variables with other names, some do.
    same = direct is not None and all(name.isidentifier() for name in environ)
    own = find(direct[0], path) if direct and same else None
    if direct and own is not None:
        try:
            os.execve(own, list(direct), environ)
        except OSError:
            pass  # a script without a first line, or whose interpreter is not there
    program = find(words[0], path)
    if program is None:
        raise FileNotFoundError(2, "it is gone")
    os.execve(program, list(words), environ)
