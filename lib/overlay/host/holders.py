"""Which of the caller's own processes on this host have an image open, from proc(5)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

# What the engine starts to serve an image; they are nobody's work by themselves.
SERVERS = ("fuse2fs", "fuse-overlayfs", "squashfuse", "squashfuse_ll", "starter", "starter-suid")

# How the process names itself that ends a session when ours was killed: see keeper.
KEEPER = "overlay-keeper"

# The same of one that holds a session which several commands share: see shared.keeper.
SHARED = "overlay-shared"

# Added to SIGRTMIN(7): the signal that asks it to let go when nobody is in its session. All that
# have a name may come from a batch system.
LET_GO = 9

_EXT_MOUNTS = (b" - fuse.ext", b" - fuse.fuse2fs")


class Process:
    """A process: its number, its parent's, its program, command line and start.

    started  since 1970, in seconds
    ticks    the same since the machine's start, as the kernel counts: it tells two processes
             of one number apart
    ended    whether only its parent has still to hear of its end
    """

    __slots__ = ("arguments", "ended", "name", "parent", "pid", "started", "ticks")

    def __init__(
        self,
        pid: int,
        parent: int,
        name: str,
        arguments: Sequence[str],
        started: int,
        ticks: int = 0,
        ended: bool = False,
    ) -> None:
        self.pid = pid
        self.parent = parent
        self.name = name
        self.arguments = arguments
        self.started = started
        self.ticks = ticks
        self.ended = ended

    @property
    def command(self) -> str:
        """Its command line for a person: short, and ours without the interpreter before it."""
        if self.is_shared:
            return "a shared session"
        words = self.arguments
        for place, word in enumerate(words[:4]):
            if word.endswith("-overlay"):
                words = [word.rpartition("/")[2], *words[place + 1 :]]
        line = " ".join(words) or self.name
        return line if len(line) <= 60 else line[:59] + "…"

    @property
    def is_server(self) -> bool:
        """Whether it only serves an image, for the engine."""
        return self.name.startswith(SERVERS)

    @property
    def is_shared(self) -> bool:
        """Whether it holds a session that several commands share, or is what that begins with."""
        return self.name == SHARED or self.arguments[-1:] == [SHARED]

    @property
    def is_engine(self) -> bool:
        """Whether it is an engine's own, or one that this has left: named after its program."""
        return self.name.startswith("starter")


def look(pid: int | str) -> Process | None:
    """Return the Process with a number, or None when it is gone."""
    try:
        name, fields = _stat(pid)
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")[:-1]
        started = int(os.stat(f"/proc/{pid}").st_mtime)
        # While a program of several threads is replaced (execve(2)), its first one looks ended.
        ended = fields[0] in b"ZX" and len(os.listdir(f"/proc/{pid}/task")) < 2
        ended = ended and _stat(pid)[1][0] in b"ZX"
    except OSError:
        return None
    arguments = [word.decode(errors="replace") for word in words]
    return Process(int(pid), int(fields[1]), name, arguments, started, int(fields[19]), ended)


def _stat(pid: int | str) -> tuple[str, list[bytes]]:
    """Return a process's name, and the fields of its /proc/PID/stat from its state on."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        head, _close, rest = file.read().rpartition(b")")
    return head.partition(b"(")[2].decode(errors="replace"), rest.split()


def children(pid: int) -> list[Process]:
    """Return the Processes whose parent has a number; each is listed for the thread it is of."""
    words = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                words += file.read().split()
        except OSError:
            pass  # this thread has just ended
    return [process for word in words for process in [look(word)] if process]


def below(pid: int) -> list[Process]:
    """Return the Processes below one, their own after them."""
    try:
        found = children(pid)
    except OSError:
        return []  # it has just ended
    return found + [one for process in found for one in below(process.pid)]


def is_stopped(pid: int) -> bool:
    """Return whether a process, or one below it, is stopped, as by Ctrl-Z: it does nothing more."""
    for one in (pid, *(process.pid for process in below(pid))):
        try:
            if _stat(one)[1][0] in b"Tt":
                return True
        except OSError:
            pass  # it has just ended
    return False


def commands_of(engine: int) -> list[Process]:
    """Return the Processes that run inside the session of an engine, given its number.

    They are below it, or share its user namespace (user_namespaces(7)): a process that was
    put into the background by two forks is not below it any more.
    """
    space = user_namespace(engine)
    found = {process.pid: process for process in below(engine)}
    if space != user_namespace("self"):
        found.update((process.pid, process) for process in within({space} if space else ()))
    return [one for one in found.values() if one.pid != engine and not one.is_server]


def within(spaces: Collection[str]) -> list[Process]:
    """Return the Processes, servers too, in some user namespaces."""
    return [
        process
        for name in os.listdir("/proc")
        if spaces and name.isdecimal() and user_namespace(name) in spaces
        for process in [look(name)]
        if process and not process.ended
    ]


def holding(identity: tuple[int, int]) -> list[Process]:
    """Return the Processes of the caller, this one left out, that have a file open.

    identity  (device, inode) of the file
    Other users' processes cannot be seen; the oldest comes first.
    """
    return [process for process, _has_lock in _holding(identity)]


def _holding(identity: tuple[int, int]) -> list[tuple[Process, bool]]:
    """Return pairs for holding(): the Process, and whether it has a lock on the file."""
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdecimal() or int(pid) == os.getpid():
            continue
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        opened = [name for name in names if _leads_to(pid, name, identity)]
        process = look(pid) if opened else None
        if process:
            found.append((process, any(_has_lock(pid, name) for name in opened)))
    return sorted(found, key=lambda pair: (pair[0].started, pair[0].pid))


def _leads_to(pid: str, name: str, identity: tuple[int, int]) -> bool:
    """Return whether a process's descriptor is the file (device, inode)."""
    try:
        status = os.stat(f"/proc/{pid}/fd/{name}")
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == identity


def _has_lock(pid: str, name: str) -> bool:
    """Return whether a process's descriptor holds a lock: see /proc/PID/fdinfo in proc(5)."""
    try:
        with open(f"/proc/{pid}/fdinfo/{name}", "rb") as file:
            return b"\nlock:" in file.read()
    except OSError:
        return False


def users(identity: tuple[int, int]) -> tuple[list[Process], bool]:
    """Return the caller's Processes that use an image, and whether they are all left behind.

    Those inside a container show by the user namespace that they share with the engine's
    servers (user_namespaces(7)), although they have not the image itself open. Servers are
    left behind when nobody is inside and the engine that started them is gone. Who has the
    image open but holds no lock on it, such as cp(1), is in nobody's way.
    """
    found = [
        process
        for process, has_lock in _holding(identity)
        if process.name != KEEPER and (has_lock or process.is_server)
    ]
    servers = [process for process in found if process.is_server]
    spaces = spaces_of(servers)
    known = {process.pid for process in found}
    inside = [one for one in _others_in(spaces, known) if not one.is_shared] if spaces else []
    left_behind = bool(servers) and len(servers) == len(found) and not inside
    if any(has_engine(one) or _begins(one) for one in servers):
        left_behind = False
    # Who has the image open comes first, not who has the lowest number: those begin anew.
    return sorted(found + inside, key=lambda process: process.is_server), left_behind


def being_ended(identity: tuple[int, int]) -> bool:
    """Return whether a session that has an image open was killed, and its keeper ends it."""
    found = holding(identity)
    known = {process.pid for process in found}
    return any(
        one.name == KEEPER and one.parent not in known and _is_mine(one.pid) for one in found
    )


def shared_by(identity: tuple[int, int]) -> list[Process]:
    """Return the keepers of the caller's shared sessions that have an image open."""
    return [one for one in holding(identity) if one.name == SHARED and _is_mine(one.pid)]


def _is_mine(pid: int) -> bool:
    """Return whether a process is the caller's: root sees others', and anybody takes any name."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            users = next(line for line in file if line.startswith(b"Uid:")).split()
    except (OSError, StopIteration):
        return False
    return int(users[1]) == os.getuid()


def left_by_killed(found: Iterable[Process]) -> list[Process]:
    """Return those of some Processes that run inside a session of ours which was killed."""
    left = []
    for process in found:
        pid = "" if process.is_server else _session(process.pid).partition(".")[0]
        if pid and not os.path.exists(f"/proc/{pid}"):
            left.append(process)
    return left


def _session(pid: int) -> str:
    """Return the token of the session that a process runs in: our number, a dot and more.

    It is "" in a session that is not ours, or when it cannot be seen.
    """
    mark = b"OVERLAY_SESSION="
    for word in _environment(pid):
        if word.startswith(mark):
            return os.fsdecode(word[len(mark) :])
    return ""


def _environment(pid: int | str) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _begins(process: Process) -> bool:
    """Return whether a process is an engine that has not yet made its namespace."""
    return process.is_engine and user_namespace(process.pid) == user_namespace("self")


def has_engine(server: Process) -> bool:
    """Return whether the engine that started a server still runs."""
    parent = look(server.parent)
    return parent is not None and parent.is_engine


def of_session(token: str) -> list[Process]:
    """Return the caller's Processes that a session has left running.

    token  the value of OVERLAY_SESSION that only the session's processes have
    """
    mark = b"OVERLAY_SESSION=" + os.fsencode(token)
    return [
        process
        for name in os.listdir("/proc")
        if name.isdecimal() and mark in _environment(name)
        for process in [look(name)]
        if process and not process.ended
    ]


def serves(server: Process) -> bool:
    """Return whether a server of an ext3 image has it mounted still, and so works on.

    The engine unmounts before it waits for the end of its servers: see mountinfo in proc(5).
    """
    try:
        with open(f"/proc/{server.pid}/mountinfo", "rb") as file:
            mounts = file.read()
    except OSError:
        return False
    return server.name == "fuse2fs" and any(kind in mounts for kind in _EXT_MOUNTS)


def companions(servers: Collection[Process]) -> list[Process]:
    """Return the other servers of the same container, which have the image itself not open."""
    spaces = spaces_of(servers)
    known = {server.pid for server in servers}
    return [
        process
        for name in os.listdir("/proc")
        if name.isdecimal() and int(name) not in known and user_namespace(name) in spaces
        for process in [look(name)]
        if process and process.is_server
    ]


def alive(process: Process) -> bool:
    """Return whether a Process still runs: not ended, not a zombie, not another of its number."""
    now = look(process.pid)
    return now is not None and now.ticks == process.ticks and not now.ended


def user_namespace(pid: int | str) -> str | None:
    """Return the name of a process's user namespace, None when it is not ours to see."""
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return None


def spaces_of(processes: Iterable[Process]) -> set[str]:
    """Return the user namespaces of some Processes that are ours to see, but for our own."""
    found = (user_namespace(process.pid) for process in processes)
    return {space for space in found if space} - {user_namespace("self")}


def _others_in(spaces: Collection[str], known: Collection[int]) -> list[Process]:
    """Return the Processes in some user namespaces that serve no image."""
    return [one for one in within(spaces) if one.pid not in known and not one.is_server]
