"""Which of the caller's own processes on this host have an image open, from proc(5)."""

import os

# What the engine starts to serve an image; they are nobody's work by themselves.
SERVERS = ("fuse2fs", "fuse-overlayfs", "squashfuse", "squashfuse_ll", "starter", "starter-suid")

_EXT_MOUNTS = (b" - fuse.ext", b" - fuse.fuse2fs")


class Process:
    """A process: its number, its parent's, its program, command line and start in seconds."""

    __slots__ = ("arguments", "name", "parent", "pid", "started")

    def __init__(self, pid, parent, name, arguments, started):
        self.pid = pid
        self.parent = parent
        self.name = name
        self.arguments = arguments
        self.started = started

    @property
    def command(self):
        """Its command line for a person: short, and ours without the interpreter before it."""
        words = self.arguments
        for place, word in enumerate(words[:4]):
            if word.endswith("-overlay"):
                words = [word.rpartition("/")[2], *words[place + 1 :]]
        line = " ".join(words) or self.name
        return line if len(line) <= 60 else line[:59] + "…"

    @property
    def is_server(self):
        """Whether it only serves an image, for the engine."""
        return self.name.startswith(SERVERS)


def look(pid):
    """Return the Process with a number, or None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _close, rest = file.read().rpartition(b")")
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")[:-1]
        started = int(os.stat(f"/proc/{pid}").st_mtime)
    except OSError:
        return None
    name = head.partition(b"(")[2].decode(errors="replace")
    arguments = [word.decode(errors="replace") for word in words]
    return Process(int(pid), int(rest.split()[1]), name, arguments, started)


def children(pid):
    """Return the Processes whose parent has a number."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        found = [look(word) for word in file.read().split()]
    return [process for process in found if process]


def holding(identity):
    """Return the Processes of the caller, this one left out, that have a file open.

    identity  (device, inode) of the file
    Other users' processes cannot be seen; the oldest comes first.
    """
    found = []
    for pid in os.listdir("/proc"):
        if not pid.isdecimal() or int(pid) == os.getpid():
            continue
        try:
            names = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for name in names:
            try:
                status = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if (status.st_dev, status.st_ino) == identity:
                process = look(pid)
                if process:
                    found.append(process)
                break
    return sorted(found, key=lambda process: (process.started, process.pid))


def users(identity):
    """Return the caller's Processes that use an image, and whether they are all left behind.

    Those inside a container show by the user namespace that they share with the engine's
    servers (user_namespaces(7)), although they have not the image itself open. Servers are
    left behind when nobody is inside and the engine that started them is gone.
    """
    found = holding(identity)
    servers = [process for process in found if process.is_server]
    spaces = {_user_namespace(process.pid) for process in servers}
    spaces -= {_user_namespace("self"), None}
    inside = _others_in(spaces, {process.pid for process in found}) if spaces else []
    left_behind = bool(servers) and len(servers) == len(found) and not inside
    for process in servers:
        parent = look(process.parent)
        # The engine's own process is named starter, after the program that it became.
        if parent is not None and parent.name.startswith("starter"):
            left_behind = False
    # Who has the image open comes first, not who has the lowest number: those begin anew.
    return sorted(found + inside, key=lambda process: process.is_server), left_behind


def of_session(token):
    """Return the caller's Processes that a session has left running.

    token  the value of OVERLAY_SESSION that only the session's processes have
    """
    mark = b"OVERLAY_SESSION=" + os.fsencode(token)
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                inside = mark in file.read().split(b"\0")
        except OSError:
            continue
        process = look(name) if inside else None
        if process and process.arguments:
            found.append(process)
    return found


def serves(server):
    """Return whether a server of an ext3 image has it mounted still, and so works on.

    The engine unmounts before it waits for the end of its servers: see mountinfo in proc(5).
    """
    try:
        with open(f"/proc/{server.pid}/mountinfo", "rb") as file:
            mounts = file.read()
    except OSError:
        return False
    return server.name == "fuse2fs" and any(kind in mounts for kind in _EXT_MOUNTS)


def companions(servers):
    """Return the other servers of the same container, which have the image itself not open."""
    spaces = {_user_namespace(server.pid) for server in servers} - {_user_namespace("self"), None}
    known = {server.pid for server in servers}
    return [
        process
        for name in os.listdir("/proc")
        if name.isdecimal() and int(name) not in known and _user_namespace(name) in spaces
        for process in [look(name)]
        if process and process.is_server
    ]


def alive(process):
    """Return whether a Process still runs: not ended, not a zombie, not another of its number."""
    now = look(process.pid)
    return now is not None and now.started == process.started and bool(now.arguments)


def _user_namespace(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return None


def _others_in(spaces, known):
    """Return the Processes in some user namespaces that serve no image."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) not in known and _user_namespace(name) in spaces:
            process = look(name)
            if process and process.arguments and not process.is_server:
                found.append(process)
    return found
