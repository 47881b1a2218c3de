"""Who is in a shared session that writes, as its keeper sees them: see member.

A process of ours stays beside each command, with the session's lease; it waits for the answer
when the command has ended. When it was killed, what it has started is ended: nothing of a
command outlives it, as in a session of its own.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time

from overlay.host import holders
from overlay.shared.member import LEAVES, address

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    from collections.abc import Callable, Collection

    from overlay.shared.outcome import Outcome

_PATIENCE = 3.0  # seconds that the commands have to heed TERM, as those of a session alone
_LOOK = 0.1  # seconds between two looks whether they have ended
_ARRIVAL = 10.0  # seconds that who has started the session has to enter it
_MOST = 4096  # bytes that a member says


class _Writer:
    """One of them: the connection, what it has said so far, and whether it leaves."""

    __slots__ = ("connection", "leaves", "said")

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.said = b""
        self.leaves = False

    @property
    def token(self) -> str:
        """What its processes are known by; empty when it has not said it."""
        return self.said.partition(b"\n")[0].decode(errors="replace")


class Writers:
    """All who are in a session."""

    def __init__(self, directory: int, key: str, poll: select.poll) -> None:
        """Listen for them. Raises OSError.

        directory  the user's, open
        key        name of the session's key
        poll       what is told of the descriptors that are to be watched
        """
        self._poll = poll
        self._writers: dict[int, _Writer] = {}
        self._doomed: dict[str, float] = {}  # tokens, and when KILL follows TERM
        self._awaited = time.monotonic() + _ARRIVAL
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(address(directory, key))
        self._listening.listen(1024)
        self._listening.setblocking(False)
        poll.register(self._listening, 1)  # POLLIN

    @property
    def pause(self) -> float:
        """Seconds that the keeper may wait until it looks again."""
        return _LOOK if self._doomed or self._awaited else 1.0

    def serve(self, ready: Collection[int]) -> None:
        """Hear those that have something to say, descriptors of which are ready."""
        if self._listening.fileno() in ready:
            self._accept()
        for descriptor in set(ready).intersection(self._writers):
            self._hear(descriptor)
        self._end_doomed()

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._listening.accept()
            except OSError:
                return  # there are no more
            connection.setblocking(False)
            if _user(connection) != os.getuid():
                connection.close()
                continue
            self._awaited = 0.0
            self._writers[connection.fileno()] = _Writer(connection)
            self._poll.register(connection, 1)  # POLLIN

    def _hear(self, descriptor: int) -> None:
        writer = self._writers[descriptor]
        try:
            some = writer.connection.recv(_MOST)
        except BlockingIOError:
            return
        except OSError:
            some = b""
        writer.said += some
        if not some or len(writer.said) > _MOST:
            self._drop(writer)
            if not writer.leaves and writer.token:
                self._doom(writer.token)
        elif writer.said.endswith(b"\n" + LEAVES):
            writer.leaves = True

    def _drop(self, writer: _Writer) -> None:
        descriptor = writer.connection.fileno()
        self._poll.unregister(descriptor)
        del self._writers[descriptor]
        writer.connection.close()

    def _doom(self, token: str) -> None:
        """Ask what a command that was killed has started to end."""
        self._doomed[token] = time.monotonic() + _PATIENCE
        for one in holders.of_session(token):
            _send(one.pid, signal.SIGTERM)
            _send(one.pid, signal.SIGCONT)

    def _end_doomed(self) -> None:
        for token, deadline in list(self._doomed.items()):
            left = holders.of_session(token)
            if not left:
                del self._doomed[token]
            elif time.monotonic() >= deadline:
                for one in left:
                    _send(one.pid, signal.SIGKILL)

    def answer(self, look: Callable[[], Outcome], *, but_one: bool = False) -> None:
        """Answer those that leave, while others go on.

        look     says what is to be said
        but_one  whether one of them is not answered, to hear of the session's end
        """
        leaving = [one for one in self._writers.values() if one.leaves]
        if but_one:
            del leaving[-1:]
        if leaving:
            found = look().write()
            for writer in leaving:
                self._tell(writer, found)

    def tell_all(self, outcome: Outcome) -> None:
        """Tell all who are in it, or wait, of the end of the session."""
        self._accept()
        found = outcome.write()
        for writer in list(self._writers.values()):
            self._tell(writer, found)
        self._listening.close()

    def _tell(self, writer: _Writer, found: bytes) -> None:
        try:
            writer.connection.setblocking(True)
            writer.connection.settimeout(_PATIENCE)
            writer.connection.sendall(found)
        except OSError:
            pass  # it was killed while it waited
        self._drop(writer)

    @property
    def are_gone(self) -> bool:
        """Whether all have left, or wait to be told of the end."""
        if time.monotonic() < self._awaited:
            return False
        return not self._doomed and all(one.leaves for one in self._writers.values())

    @property
    def anybody_hears(self) -> bool:
        """Whether there is somebody to be told of the end."""
        return bool(self._writers)


def _user(connection: socket.socket) -> int:
    """Return the number of the user at the other end: SO_PEERCRED in unix(7)."""
    form = "3i"  # struct ucred: pid, uid, gid
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(form))
    uid: int = struct.unpack(form, data)[1]
    return uid


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass  # it has just ended
