"""A command in a shared session that writes, as its keeper knows it: by a socket.

It says its token, by which the processes are known that it starts; and when they have ended,
that it leaves. The keeper answers with an Outcome. A socket that is closed before is that of a
command which was killed, or of a session that has ended too early.
"""

from __future__ import annotations

import socket

from overlay.shared import place
from overlay.shared.outcome import Outcome

LEAVES = b"leaves\n"


class Member:
    """What a command has of its session."""

    def __init__(self, directory: int, key: str, token: str) -> None:
        """Say that a command is in it. Raises OSError when the keeper is not there.

        directory  the user's, open
        key        name of the session's key
        token      what its processes are known by
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(address(directory, key))
            self._socket.sendall(f"{token}\n".encode())
        except OSError:
            self._socket.close()
            raise

    def leave(self) -> Outcome | None:
        """Say that it leaves, and return what the keeper has found; None when that is gone."""
        told = b""
        with self._socket:
            try:
                self._socket.sendall(LEAVES)
            except OSError:
                pass  # it may have answered before
            try:
                while True:
                    some = self._socket.recv(1 << 16)
                    if not some:
                        break
                    told += some
            except OSError:
                pass  # it has gone without an answer
        return Outcome.read(told)


def address(directory: int, key: str) -> str:
    """Return the address of a session's socket, short enough wherever its directory lies."""
    return f"/proc/self/fd/{directory}/{place.socket_name(key)}"
