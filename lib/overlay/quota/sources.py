"""Who is asked for the quotas of a place: a module each, by the type of the file system.

A source is a module with two names, as Source below has them. A new one is its file, its name
in the table, and a test of what its parser makes of real answers.
"""

from __future__ import annotations

from overlay.quota import btrfs, ceph, command, kernel, lustre, nfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Protocol

    from overlay.quota.limits import Limits, Place

    class Source(Protocol):
        """Who knows about quotas of some file systems."""

        @property
        def TYPES(self) -> tuple[str, ...]:
            """The types of file system that it is for, as mountinfo has them (proc(5))."""

        def limits(self, place: Place) -> Iterable[Limits]:
            """Return or yield the Limits of a place; what is yielded before it fails counts.

            It starts programs by place.ask() alone, which ends them in time. Raises Unknown
            when it has no answer, OSError as the file system does.
            """


def _by_type(*sources: Source) -> dict[str, Source]:
    return {type: source for source in sources for type in source.TYPES}


SOURCES = _by_type(btrfs, ceph, lustre, nfs)


def limits(place: Place) -> Iterable[Limits]:
    """Return or yield the Limits that the site's command, else the file system's source, knows.

    Raises Unknown and OSError.
    """
    source = SOURCES.get(place.mount.type) or (kernel if place.mount.is_local else None)
    return command.limits(place) or (source.limits(place) if source else [])
