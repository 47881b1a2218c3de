"""The process that holds a shared session: it starts it, lingers after the last has left, ends it.

It is nobody's child, and has nothing of who has started it but the overlays' locks. Inside its
engine runs a shell that waits for the end of a pipe: whatever happens to the keeper, the
session ends. Who is in the session has its lease, a shared flock(2) that is inherited; the
keeper lets go when it can have the lease alone, and sees nobody in the session's mount
namespace: programs close descriptors that they do not know.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time

from overlay.host import holders, keeper, process
from overlay.image import lock
from overlay.shared import place
from overlay.shared.join import Calls, Refused
from overlay.shared.record import Record, is_stopped, parse, started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from overlay.launch.stack import Stack
    from overlay.plan import Step
    from overlay.shared.scope import Scope
    from overlay.shared.writers import Writers
    from overlay.shared.writing import Writing

# What runs in the session itself: a job's signals may go to all processes there are.
HOLD = (
    "/bin/sh",
    "-c",
    "trap '' HUP INT QUIT TERM USR1 USR2; echo $$; read -r end",
    holders.SHARED,
)

LET_GO = signal.SIGRTMIN + holders.LET_GO

_ANSWER_LOOK = 1.0  # seconds between two looks whether a keeper is stopped
_START = 60.0  # seconds that an engine may take to start
_END = 30.0  # seconds that it may take to end
_LOOK = 1.0  # seconds between two looks whether anybody is left

# Of the engine's environment this is what a session begins with, not what it is.
_OF_ITS_SHELL = ("PWD", "OLDPWD", "SHLVL", "_")


class Start:
    """What a keeper needs to start a session.

    step       starts the engine, which runs HOLD
    environ    the environment for that
    images     descriptors of the overlays, locked
    lease      one of the file of its lease, new and empty
    stack      what our launcher is told, or None
    scratch    where the user's directory lies
    key, text  name and text of the session's key
    launchers  what comes first in PATH of the engine; or empty
    overlays   paths of the overlays, for a person
    image      path of the base image
    scope      what the session ends with
    linger     seconds that it outlives the last who was in it
    writing    what is done for the overlay that it writes; None: it only reads
    """

    def __init__(
        self,
        *,
        step: Step,
        environ: Mapping[str, str],
        images: Sequence[int],
        lease: int,
        stack: Stack | None,
        scratch: str,
        key: str,
        text: str,
        overlays: Sequence[str],
        image: str,
        scope: Scope,
        linger: float,
        writing: Writing | None = None,
    ) -> None:
        self.step = step
        self.environ = environ
        self.images = images
        self.lease = lease
        self.stack = stack
        self.scratch = scratch
        self.key = key
        self.text = text
        self.overlays = overlays
        self.image = image
        self.scope = scope
        self.linger = linger
        self.writing = writing


def start(what: Start) -> str | None:
    """Start a keeper and its session; return None when that can be joined, else why it cannot.

    Called with the gate of the session locked. We wait for no longer than the engine takes.
    """
    reading, writing = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            try:
                if os.fork() == 0:  # whose parent has ended: it is nobody's child
                    _keep(what, writing)
            finally:
                os._exit(0)
        os.close(writing)
        writing = -1
        os.waitpid(child, 0)
        return _answer(reading)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


def _answer(reading: int) -> str | None:
    """Wait for what a keeper says; return None when its session is ready, else why it is not.

    The first word is its number: who is stopped says nothing more.
    """
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    told, some = b"", b"-"
    while some:
        pid = told.partition(b"\n")[0]
        if not poll.poll(_ANSWER_LOOK * 1000):
            if pid.isdigit() and is_stopped(int(pid)):
                return f"its keeper is stopped (process {int(pid)})"
            continue
        some = os.read(reading, 4096)
        told += some
    said = told.partition(b"\n")[2]
    return None if said == b"ready" else os.fsdecode(said) or "its keeper was ended"


def _keep(what: Start, report: int) -> None:
    """Be the keeper, to the end of the session."""
    os.write(report, f"{os.getpid()}\n".encode())
    stack = what.stack
    if stack:
        stack.hand_over()
    from overlay.launch.stack import DESCRIPTOR

    kept = {report, what.lease, *what.images, *([DESCRIPTOR] if stack else [])}
    keeper.step_aside(kept, holders.SHARED)
    os.umask(0o077)
    _take_all_processors(what.scope)
    _be_ordinary()
    directory = place.open_directory(_directory(what.scratch))
    if directory is None:
        os.write(report, b"the user's directory is not there")
        return
    session = _Session(what, directory)
    try:
        why = session.begin()
    except OSError as error:
        why = f"its keeper failed: {error.strerror}"
    try:
        os.write(report, os.fsencode(why or "ready"))
    except OSError:
        pass  # who has started us was killed: others may come
    os.close(report)
    session.end(session.hold() if why is None else why)


def _directory(scratch: str) -> str:
    from overlay.host import private

    return private.name(scratch)


def _take_all_processors(scope: Scope) -> None:
    """Run wherever the step may: who starts the session may be bound to one processor."""
    try:
        daemon = scope.end[0] if scope.end else None
        wanted = os.sched_getaffinity(daemon) if daemon else set(range(os.cpu_count() or 1))
        os.sched_setaffinity(0, wanted)
    except OSError:
        pass  # then it stays as it is


def _be_ordinary() -> None:
    """Take no precedence of who starts the session: neither in processors nor on disks."""
    # Each where it may: the key has said what cannot be had.
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except OSError:
        pass
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    except OSError:
        pass
    try:
        Calls().forget_ioprio()
    except Refused:
        pass


def _raise_limits() -> None:
    """Set aside soft limits, which are for the commands."""
    import resource

    for name in ("CPU", "FSIZE", "DATA", "AS", "NOFILE", "STACK"):
        kind = getattr(resource, f"RLIMIT_{name}")
        _soft, hard = resource.getrlimit(kind)
        if name != "STACK" or hard != resource.RLIM_INFINITY:
            try:
                resource.setrlimit(kind, (hard, hard))
            except (OSError, ValueError):
                pass  # it stays


class _Session:
    """A session from its start to its end, in its keeper."""

    def __init__(self, what: Start, directory: int) -> None:
        self._what = what
        self._directory = directory
        self._name = place.lease_name(what.key)
        self._lease = what.lease
        self._engine = 0
        self._holding = -1  # the pipe with whose end the session ends
        self._record: Record | None = None
        self._let_go = False
        self._poll = select.poll()
        self._writers: Writers | None = None
        self._wake, waking = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(waking)
        signal.signal(LET_GO, self._asked)

    def _asked(self, _number: int, _frame: object) -> None:
        self._let_go = True

    def begin(self) -> str | None:
        """Start the engine and write the lease; return why that failed, or None."""
        writing = self._what.writing
        if writing is not None:
            writing.begin()
        pid = self._launch()
        if pid is None:
            return "the engine did not start"
        ticks = started(pid)
        environment = _environment(pid)
        if ticks is None or environment is None:
            return "the session has just ended"
        own = os.readlink("/proc/self/ns/mnt")
        try:
            if os.readlink(f"/proc/{pid}/ns/mnt") == own:
                return "the engine makes no namespace of its own"
        except OSError as error:
            return f"its namespaces cannot be joined: {error.strerror}"
        if writing is not None:
            writing.started()
            try:
                self._hear_writers()
            except OSError as error:
                return f"its commands cannot be heard: {error.strerror}"
        step = self._what.step
        self._record = Record(
            pid=pid,
            ticks=ticks,
            keeper=os.getpid(),
            engine=self._engine,
            environment=environment,
            path=step.environment(self._what.environ)["PATH"],
            launchers=step.path_first or "",
            overlays=self._what.overlays,
            image=self._what.image,
            key=self._what.text,
        )
        try:
            for image in self._what.images if writing is None else ():
                lock.announce_shared(image, self._what.linger)
        except OSError:
            pass  # others will not know how long it takes
        data = self._record.write()
        if os.pwrite(self._lease, data, 0) < len(data):
            return "there is no room for the file of its lease"
        return None

    def _hear_writers(self) -> None:
        """Listen for those who are in it. Raises OSError."""
        from overlay.shared.writers import Writers

        place.unlink(self._directory, place.socket_name(self._what.key))
        self._writers = Writers(self._directory, self._what.key, self._poll)

    def _launch(self) -> int | None:
        """Start the engine; return the number of the shell that runs in it, None when it fails."""
        holding, self._holding = os.pipe()
        telling, told = os.pipe()
        self._engine = os.fork()
        if self._engine == 0:
            try:
                os.dup2(holding, 0)
                os.dup2(told, 1)
                for descriptor in (self._holding, telling, self._lease, self._directory):
                    os.close(descriptor)
                _raise_limits()
                signal.set_wakeup_fd(-1)
                for number in (*range(1, 32), LET_GO):
                    if number not in (signal.SIGKILL, signal.SIGSTOP):
                        signal.signal(number, signal.SIG_DFL)
                process.become(self._what.step, self._what.environ, self._what.images)
            finally:
                os._exit(127)
        os.close(holding)
        os.close(told)
        try:
            return self._first_word(telling)
        finally:
            os.close(telling)

    def _first_word(self, telling: int) -> int | None:
        """Return the number that the shell inside says, None when it does not."""
        ended = os.pidfd_open(self._engine)
        poll = select.poll()
        poll.register(telling, select.POLLIN)
        poll.register(ended, select.POLLIN)
        deadline = time.monotonic() + _START
        word = b""
        try:
            while not word.endswith(b"\n"):
                left = deadline - time.monotonic()
                ready = dict(poll.poll(max(left, 0) * 1000))
                some = os.read(telling, 64) if telling in ready else b""
                if not some:
                    return None
                word += some
        finally:
            os.close(ended)
        return int(word) if word.strip().isdigit() else None

    def hold(self) -> str | None:
        """Wait until nobody is in the session any more, or something ends it.

        Return what has ended it too early, in words; None when nothing has.
        """
        assert self._record is not None
        if self._what.writing is not None:
            from overlay.safety import finish

            finish.prepare()
        watched = {self._record.pid: "its shell has ended", self._engine: "its engine has ended"}
        # Of the engine's own some only start the others; what a launcher of ours has left beside a
        # server ends soon.
        below = [one for one in holders.below(self._engine) if one.is_server and not one.is_engine]
        servers = {one.pid for one in below}
        for one in below:
            if one.parent not in servers:
                watched[one.pid] = f"{one.name} ({one.pid}) has ended"
        end = self._what.scope.end
        if end is not None:
            watched[end[0]] = "what it belongs to has ended"
        opened = {}
        for pid, words in watched.items():
            try:
                opened[os.pidfd_open(pid)] = words
            except OSError:
                return words
        if end is not None and started(end[0]) != end[1]:
            return watched[end[0]]
        for descriptor in (self._wake, *opened):
            self._poll.register(descriptor, select.POLLIN)
        linger = self._what.linger
        look = min(_LOOK, max(linger / 10, 0.05))
        empty_since = None
        while True:
            ready = dict(self._poll.poll((self._writers.pause if self._writers else look) * 1000))
            for descriptor in opened.keys() & ready.keys():
                return opened[descriptor]
            if self._wake in ready:
                try:
                    os.read(self._wake, 64)
                except BlockingIOError:
                    pass
            if self._writers:
                self._writers.serve(ready)
            if not self._is_empty():
                empty_since = None
                self._answer()
                continue
            # The lease is ours alone from here on, until it is let go: nobody joins meanwhile.
            now = time.monotonic()
            empty_since = now if empty_since is None else empty_since
            if self._writers and self._writers.are_gone:
                self._answer(but_one=True)
                return None
            is_over = self._let_go or now - empty_since >= linger or self._is_wanted()
            if (is_over and not self._writers) or not self._is_known():
                return None
            fcntl.flock(self._lease, fcntl.LOCK_UN)

    def _answer(self, *, but_one: bool = False) -> None:
        """Tell those who leave what becomes of the overlay; the last of them waits."""
        writing = self._what.writing
        if self._writers and writing is not None:
            self._writers.answer(writing.look, but_one=but_one)

    def _is_empty(self) -> bool:
        """Return whether nobody is in the session; then we have its lease alone."""
        try:
            fcntl.flock(self._lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        # What one of those who write has left behind is told to them, and keeps no session.
        if self._writers is None and members(self._record):
            fcntl.flock(self._lease, fcntl.LOCK_UN)
            return False
        return True

    def _is_known(self) -> bool:
        """Return whether anybody can still join: the lease's name may be another session's."""
        return place.leads_to(self._directory, self._name, self._lease)

    def _is_wanted(self) -> bool:
        """Return whether somebody waits for an overlay, perhaps on another host."""
        try:
            return any(map(lock.wanted, self._what.images))
        except OSError:
            return False  # its file system is in trouble, and they see that too

    def end(self, broken: str | None) -> None:
        """End the session, and remove what it was known by.

        broken  why it has ended too early; None when it has not
        """
        self._forget()
        writing = self._what.writing
        if writing is None:
            self._let_go_of_images()  # who wants an overlay need not wait for us
        else:
            writing.ends()
        if self._holding >= 0:
            os.close(self._holding)
        if self._engine:
            self._wait()
        if self._writers and writing is not None and self._writers.anybody_hears:
            self._writers.tell_all(writing.finish(broken))
        if writing is not None:
            self._let_go_of_images()
        try:
            sweep(self._directory)
            os.rmdir(_directory(self._what.scratch))
        except OSError:
            pass  # something else is in it

    def _let_go_of_images(self) -> None:
        for descriptor in self._what.images:
            os.close(descriptor)

    def _forget(self) -> None:
        """See that nobody joins any more: the name of the lease leads to the next session."""
        os.ftruncate(self._lease, 0)
        if self._is_known():
            place.unlink(self._directory, self._name)
            if self._writers:
                place.unlink(self._directory, place.socket_name(self._what.key))
        os.close(self._lease)

    def _wait(self) -> None:
        """Wait for the end of the engine, which ends its servers; KILL it if it does not end."""
        try:
            ended = os.pidfd_open(self._engine)
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            if not poll.poll(_END * 1000):
                os.kill(self._engine, signal.SIGKILL)
            os.waitpid(self._engine, 0)
        except OSError:
            pass  # it has ended


def _environment(pid: int) -> dict[str, str] | None:
    """Return what the engine, the image and the overlays set, from the shell that runs inside."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return None
    pairs = [os.fsdecode(word).split("=", 1) for word in words if b"=" in word]
    return {name: value for name, value in pairs if name not in _OF_ITS_SHELL}


def members(record: Record | None) -> list[int]:
    """Return the numbers of the processes in a session, but of its own."""
    if record is None:
        return []
    try:
        space = os.readlink(f"/proc/{record.pid}/ns/mnt")
    except OSError:
        return []
    own = {record.pid, record.engine, *(one.pid for one in holders.below(record.engine))}
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) not in own:
            try:
                if os.readlink(f"/proc/{name}/ns/mnt") == space:
                    found.append(int(name))
            except OSError:
                pass  # it has ended, or is not ours
    return found


def sweep(directory: int) -> None:
    """Remove the files of sessions that are no more."""
    for key in list(place.keys(directory, place.LEASE)):
        _remove_dead(directory, key)
    for key in list(place.keys(directory, place.GATE)):
        name = place.gate_name(key)
        if not _exists(directory, place.lease_name(key)):
            gate = place.locked(directory, name, fcntl.LOCK_EX, seconds=0)
            if gate is not None:
                if not _exists(directory, place.lease_name(key)):
                    place.unlink(directory, name)
                os.close(gate)
    for key in list(place.keys(directory, place.SHORT)):
        name = place.short_name(key)
        short = place.open_file(directory, name)
        if short is not None:
            fields = parse(place.read(short)) or {}
            session = fields.get("s", [""])[0]
            if not _exists(directory, place.lease_name(session)):
                place.unlink(directory, name)
            os.close(short)
    if not any(place.keys(directory, place.SHORT)):
        place.unlink(directory, place.UNASKED)
    for key in list(place.keys(directory, place.SOCKET)):
        if not _exists(directory, place.lease_name(key)):
            place.unlink(directory, place.socket_name(key))
    _forget_quick(directory)


def _forget_quick(directory: int) -> None:
    """Remove what is noted for shells of sessions that are no more."""
    for key in list(place.keys(directory, place.QUICK)):
        name = place.quick_name(key)
        quick = place.open_file(directory, name)
        if quick is not None:
            first = os.fsdecode(place.read(quick).partition(b"\n")[0])
            if not _exists(directory, place.lease_name(first.lstrip("# "))):
                place.unlink(directory, name)
            os.close(quick)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        return True
    except OSError:
        return False


def _remove_dead(directory: int, key: str) -> None:
    """Remove the lease of a session that has ended without its keeper."""
    name = place.lease_name(key)
    gate = place.locked(directory, place.gate_name(key), fcntl.LOCK_EX, make=True, seconds=0)
    if gate is None:
        return  # somebody starts it
    try:
        lease = place.open_file(directory, name)
        if lease is not None:
            record = Record.read(place.read(lease))
            if record is None or not record.is_alive:
                place.unlink(directory, name)
            os.close(lease)
    finally:
        os.close(gate)
