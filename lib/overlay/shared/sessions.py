"""The caller's shared sessions on this node, for a person."""

from __future__ import annotations

import os
import signal

from overlay.host import holders, private
from overlay.shared import place
from overlay.shared.keeper import members
from overlay.shared.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from overlay.host.holders import Process


class Shared:
    """A shared session.

    record  what it says of itself
    keeper  the Process that holds it
    inside  the Processes of the commands in it
    scope   what it ends with, in words
    """

    __slots__ = ("inside", "keeper", "record", "scope")

    def __init__(self, record: Record, keeper: Process, inside: list[Process], scope: str) -> None:
        self.record = record
        self.keeper = keeper
        self.inside = inside
        self.scope = scope


def find(environ: Mapping[str, str]) -> list[Shared]:
    """Return the caller's shared sessions here, the oldest first."""
    directory = place.open_directory(private.name(place.scratch(environ)))
    if directory is None:
        return []
    try:
        records = [_record(directory, key) for key in place.keys(directory, place.LEASE)]
    finally:
        os.close(directory)
    found = []
    for record in records:
        keeper = holders.look(record.keeper) if record and record.is_alive else None
        if record and keeper and keeper.is_shared:
            inside = [one for one in map(holders.look, members(record)) if one and not one.ended]
            found.append(Shared(record, keeper, inside, _scope(record)))
    return sorted(found, key=lambda one: (one.keeper.started, one.keeper.pid))


def _record(directory: int, key: str) -> Record | None:
    lease = place.open_file(directory, place.lease_name(key))
    if lease is None:
        return None
    try:
        return Record.read(place.read(lease))
    finally:
        os.close(lease)


def _scope(record: Record) -> str:
    """Return what a session ends with, as its key has it."""
    lines = record.key.split("\n")
    return next((line[len("scope ") :] for line in lines if line.startswith("scope ")), "user")


def let_go(found: Iterable[Shared]) -> None:
    """Ask sessions to end as soon as nobody is in them; keepers that were stopped are woken."""
    for one in found:
        for number in (signal.SIGRTMIN + holders.LET_GO, signal.SIGCONT):
            try:
                os.kill(one.keeper.pid, number)
            except OSError:
                pass  # it has just ended
