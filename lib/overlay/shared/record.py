"""What a shared session says of itself in the file of its lease.

Words that end with a NUL byte, each with a letter before it that says what it is; the last is
END. What was not written whole, or is not of this version, is not read. Their order is kept.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_FORMAT = b"overlay-shared 1"
_END = b"end"


def dump(fields: Mapping[str, Iterable[str]]) -> bytes:
    """Return the bytes of fields, a letter -> texts without NUL each."""
    words = [_FORMAT]
    words += [os.fsencode(letter + text) for letter, texts in fields.items() for text in texts]
    return b"\0".join([*words, _END, b""])


def parse(data: bytes) -> dict[str, list[str]] | None:
    """Return the fields that dump() wrote, None when it is not such, or not whole."""
    first, *words = data.split(b"\0")
    if first != _FORMAT or words[-2:] != [_END, b""]:
        return None
    fields: dict[str, list[str]] = {}
    for word in words[:-2]:
        text = os.fsdecode(word)
        fields.setdefault(text[:1], []).append(text[1:])
    return fields


class Record:
    """A shared session as those see it who join it.

    pid, ticks    number and start of the process whose namespaces are joined (see alive())
    keeper        number of its keeper
    engine        number of the engine's process
    environment   what the engine, the image and the overlays set in it, name -> value
    path          PATH as the engine got it
    launchers     what comes first in that of everybody's engine; or empty
    overlays      paths of its overlays, top first, for a person
    image         path of its base image
    key           the text of its key
    """

    __slots__ = (
        "engine",
        "environment",
        "image",
        "keeper",
        "key",
        "launchers",
        "overlays",
        "path",
        "pid",
        "ticks",
    )

    def __init__(
        self,
        *,
        pid: int,
        ticks: int,
        keeper: int,
        engine: int,
        environment: Mapping[str, str],
        path: str,
        launchers: str,
        overlays: Iterable[str],
        image: str,
        key: str,
    ) -> None:
        self.pid = pid
        self.ticks = ticks
        self.keeper = keeper
        self.engine = engine
        self.environment = dict(environment)
        self.path = path
        self.launchers = launchers
        self.overlays = list(overlays)
        self.image = image
        self.key = key

    def write(self) -> bytes:
        """Return it as it stands in the file."""
        return dump(
            {
                "p": [f"{self.pid} {self.ticks} {self.keeper} {self.engine}"],
                "e": [f"{name}={value}" for name, value in self.environment.items()],
                "u": [self.path],
                "l": [self.launchers],
                "o": self.overlays,
                "i": [self.image],
                "k": [self.key],
            }
        )

    @classmethod
    def read(cls, data: bytes) -> Record | None:
        """Return what a file says, None when there is nothing whole in it."""
        fields = parse(data) if data else None
        if fields is None:
            return None
        try:
            pid, ticks, keeper, engine = map(int, fields["p"][0].split())
            return cls(
                pid=pid,
                ticks=ticks,
                keeper=keeper,
                engine=engine,
                environment=dict(text.split("=", 1) for text in fields.get("e", ())),
                path=fields["u"][0],
                launchers=fields["l"][0],
                overlays=fields.get("o", ()),
                image=fields["i"][0],
                key=fields["k"][0],
            )
        except (KeyError, ValueError, IndexError):
            return None

    @property
    def is_alive(self) -> bool:
        """Whether the process is there whose namespaces are joined."""
        return started(self.pid) == self.ticks


def started(pid: int) -> int | None:
    """Return the start of a process, in ticks since the machine's; None when it has ended.

    With its number it tells a process from every other: proc(5).
    """
    fields = _stat(pid)
    return None if fields is None or fields[0] in b"ZX" else int(fields[19])


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped, as by Ctrl-Z."""
    fields = _stat(pid)
    return fields is not None and fields[0] in b"Tt"


def _stat(pid: int) -> list[bytes] | None:
    """Return the fields of a process from its state on, None when it has ended: proc(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None
