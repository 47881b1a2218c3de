"""What ends a session when our process was killed: nothing of it outlives us.

SIGKILL cannot be handed on. So a copy of our process waits beside the engine, in a session
of its own (setsid(2)), where neither a terminal nor a signal to our process group finds it.
It costs the start a fork(2), and has the locks on the overlays as well: they are free when
all is written. The kernel's way, PR_SET_PDEATHSIG in prctl(2), would not do: the engine
keeps TERM for itself in the foreground of a terminal, and shells ignore it.
"""

from __future__ import annotations

import os
import signal
import time

from overlay.host import holders

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

_STARTED = 2  # seconds after which an engine has made its namespaces
_PATIENCE = 3  # seconds that the commands have to heed TERM
_END_WAIT = 30  # seconds for servers that write out what they still hold
_NUMBER = 8  # bytes of a process number in the pipe

_IGNORED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGXCPU,
)


class Keeper:
    """The process that waits for our end. Made before the engine is started."""

    def __init__(self, keep: Sequence[int] = (), in_foreground: bool = False) -> None:
        """Start it.

        keep           descriptors of the overlays, the one that is written first
        in_foreground  whether the engine is started in the foreground of a terminal
        """
        self._pid = None
        reading, self._writing = os.pipe()
        try:
            self._pid = os.fork()
            if self._pid == 0:
                try:
                    _wait(reading, keep, in_foreground)
                finally:
                    os._exit(0)
        except OSError:
            pass  # no process is left to the user: the engine will say so
        finally:
            if self._pid != 0:
                os.close(reading)

    def watch(self, engine: int) -> None:
        """Tell it the number of the engine's process; called there, before it is the engine."""
        if self._pid is not None:
            try:
                os.write(self._writing, engine.to_bytes(_NUMBER, "big"))
            except BrokenPipeError:
                pass  # somebody has killed it: no reason not to run

    def dismiss(self) -> None:
        """End it: from now on there is nothing left for it to do."""
        os.close(self._writing)
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def stand_by(engine: int, reading: int) -> None:
    """Wait for the end of an engine, our parent; end its servers if they are still there then.

    reading  of a pipe of which the engine and all that it has started have the other end
    An engine that ends by itself has ended its servers, and what its commands have left in the
    background is theirs. What serves only to read loses nothing, but holds the overlay
    against those who write it.
    """
    step_aside({reading}, holders.KEEPER)
    _wait_for(engine)
    os.set_blocking(reading, False)
    try:
        if not os.read(reading, 1):
            return  # nobody has the other end: all have ended
    except BlockingIOError:
        pass
    pipe = os.fstat(reading)
    os.close(reading)
    left = holders.holding((pipe.st_dev, pipe.st_ino))
    servers = [one for one in left if one.is_server]
    if servers:
        _end_left(left, holders.spaces_of(servers))


def _wait_for(parent: int) -> None:
    """Wait for the end of our parent."""
    try:
        process = os.pidfd_open(parent)  # Linux 5.3
    except OSError:
        while os.getppid() == parent:
            time.sleep(_PATIENCE)
        return
    import select

    poll = select.poll()
    poll.register(process, select.POLLIN)
    if os.getppid() == parent:  # else it had ended, and the number may be another's
        poll.poll()


def step_aside(keep: Collection[int], name: str) -> None:
    """Leave what our parent has: its signals, its session, its name, its descriptors but some."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    comm = os.open("/proc/self/comm", os.O_WRONLY)
    os.write(comm, name.encode())
    _let_go(keep)


def _wait(reading: int, keep: Sequence[int], in_foreground: bool) -> None:
    """Wait for the end of the process that made us, and then end its session."""
    step_aside({reading, *keep}, holders.KEEPER)
    told = os.read(reading, _NUMBER)
    if not told:
        return
    engine = int.from_bytes(told, "big")
    space = _space_of(engine, reading)
    if not os.read(reading, 1):
        end(engine, in_foreground, overlay=keep[0] if keep else None, space=space)


def _space_of(engine: int, reading: int) -> str | None:
    """Return the user namespace of an engine that has made one, unless our parent ends first.

    It is known then although the engine is killed with our parent.
    """
    import select

    poll = select.poll()
    poll.register(reading, select.POLLIN)
    if poll.poll(_STARTED * 1000):
        return None
    held = _hold_space(engine)  # for as long as we run
    return None if held is None else os.readlink(f"/proc/self/fd/{held}")


def _hold_space(pid: int) -> int | None:
    """Open the user namespace of a process, None when it has ended.

    While it is open its name cannot become another's.
    """
    try:
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _let_go(keep: Collection[int]) -> None:
    """Close all descriptors but some: nobody is to wait for the end of a pipe because of us."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                pass  # it was the one that listed them
    os.chdir("/")  # and no file system is busy because of us


def end(
    engine: int, in_foreground: bool, *, overlay: int | None = None, space: str | None = None
) -> None:
    """End a session: first by TERM, then by KILL what does not heed it; wait for its servers.

    engine   the number of the engine's process
    overlay  the open file of the overlay that is written, which only this session may have
    space    the user namespace of the session, where it is known
    The engine itself is left to unmount, so that the overlay is clean.
    """
    process = holders.look(engine)
    left, held = [], None
    if process and holders.alive(process):
        held = _hold_space(engine)
        space = None if held is None else os.readlink(f"/proc/self/fd/{held}")
        # It starts nothing more behind our back: told to end while it starts, it leaves
        # what it has started so far.
        _send(signal.SIGSTOP, [process])
        left = holders.below(engine)
        relay(engine, signal.SIGTERM, in_foreground)
        _send(signal.SIGCONT, [process, *left])  # all may have been stopped by Ctrl-Z
        if not _ended(process, _PATIENCE):
            _end_engine(process)
    spaces = {space} if space else set()
    if overlay is not None:
        status = os.fstat(overlay)
        servers = filter(_is_server, holders.holding((status.st_dev, status.st_ino)))
        spaces |= holders.spaces_of(one for one in servers if not holders.has_engine(one))
    _end_left(left, spaces - {holders.user_namespace("self")})
    if held is not None:
        os.close(held)


def _is_server(process: holders.Process) -> bool:
    return process.is_server


def _end_engine(engine: holders.Process) -> None:
    """KILL what runs inside, so that the engine can unmount; and it, if it does not end then."""
    deadline = time.monotonic() + _END_WAIT
    while holders.alive(engine):
        if time.monotonic() >= deadline:
            _send(signal.SIGKILL, [engine])
            return
        _send(signal.SIGKILL, holders.commands_of(engine.pid))
        time.sleep(0.02)


def _end_left(left: list[holders.Process], spaces: Collection[str]) -> None:
    """End what an engine that has ended left: Processes, and those in its user namespace.

    The server of the image comes first: on TERM it writes everything. Processes of the
    engine have nothing to lose any more.
    """
    deadline = time.monotonic() + _END_WAIT
    told: set[int] = set()
    while time.monotonic() < deadline:
        left += [one for process in left for one in holders.below(process.pid)]
        found = {one.pid: one for one in [*left, *holders.within(spaces)] if holders.alive(one)}
        left = list(found.values())
        if not left:
            return
        servers = [one for one in left if one.is_server and not one.is_engine]
        writing = [one for one in servers if one.name == "fuse2fs"]
        _send(signal.SIGKILL, [one for one in left if one not in servers])
        _send(signal.SIGTERM, [one for one in writing or servers if one.pid not in told])
        told.update(one.pid for one in writing or servers)
        time.sleep(0.02)


def _ended(process: holders.Process, seconds: float) -> bool:
    """Wait until a process has ended, but not longer than some seconds; return whether it has."""
    deadline = time.monotonic() + seconds
    while holders.alive(process):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _send(number: int, processes: Iterable[holders.Process]) -> None:
    for process in processes:
        try:
            os.kill(process.pid, number)
        except OSError:
            pass  # it has just ended


def tell_all(engine: int, number: int) -> bool:
    """Send a signal to all that runs inside, as a terminal does; return whether there is any."""
    inside = holders.commands_of(engine)
    _send(number, inside)
    return bool(inside)


def relay(engine: int, number: int, in_foreground: bool) -> None:
    """Hand a signal on to the engine, and where that keeps it for itself, to what runs inside.

    Started in the foreground of a terminal, Apptainer leaves signals to the terminal and
    passes none on; the commands would never hear of a `kill`.
    """
    try:
        os.kill(engine, number)
        if in_foreground:
            _send(number, [one for one in holders.children(engine) if not one.is_server])
    except OSError:
        pass  # it has just ended
