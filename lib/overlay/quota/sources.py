"""Who is asked for the quotas of a place: a module each, by the type of the file system.

A source is a module with what Source below has. A new one is its file, its rows in the table,
and a test of what its parser makes of real answers.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from overlay.quota.limits import Limits, Place

    class Source(Protocol):
        """Who knows about quotas of some file systems."""

        def limits(self, place: Place) -> Iterable[Limits]:
            """Return or yield the Limits of a place; what is yielded before it fails counts.

            It starts programs by place.ask() alone, which ends them in time. Raises Unknown
            when it has no answer, OSError as the file system does.
            """


# Type of file system, as mountinfo has it (proc(5)) -> module of overlay.quota; only the one that
# is asked is imported.
SOURCES = {
    "btrfs": "btrfs",
    "ceph": "ceph",
    "fuse.ceph": "ceph",
    "fuse.ceph-fuse": "ceph",
    "lustre": "lustre",
    "nfs": "nfs",
    "nfs4": "nfs",
}


def load(type_: str, is_local: bool) -> Source | None:
    """Return who knows about the quotas of a file system, None where nobody does.

    type_     its type
    is_local  whether it is on this machine alone, so that the kernel knows
    """
    name = SOURCES.get(type_) or ("kernel" if is_local else None)
    if name is None:
        return None
    found: Source = __import__(f"overlay.quota.{name}", fromlist=["limits"])
    return found


def limits(place: Place) -> Iterable[Limits]:
    """Return or yield the Limits that the site's command, else the file system's source, knows.

    Raises Unknown and OSError.
    """
    if place.command:
        from overlay.quota import command

        found = command.limits(place)
        if found:
            return found
    source = load(place.mount.type, place.mount.is_local)
    return source.limits(place) if source else []
