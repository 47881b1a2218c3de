"""Whether there is room for a new overlay: quotas and free space, asked before writing.

A Room is asked what an overlay will take; it only reads. Where a quota is
asked for follows from the type of the file system, or from the site's own [quota] command.
"""

from __future__ import annotations

from overlay import size
from overlay.errors import CANNOT_CREATE, OverlayError, quote, reason
from overlay.quota import sources, space
from overlay.quota.limits import Place, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlay.quota.limits import Limits
    from overlay.settings.config import Config

# For the tables of the file system beside the file itself, when a size is proposed.
_SPARE = size.MIB

# MiB that make a sparse overlay worth while: its journal and some tables are written at once.
_SPARSE = 32


class Room:
    """What a directory has room for: asked once, when this is made.

    directory  where an overlay is to be
    limits     the Limits there
    failures   lines about what could not be found out
    """

    def __init__(self, directory: str, config: Config) -> None:
        self.directory = directory
        self._config = config
        self._place = _place(directory, config)
        self.limits, self.failures = _limits(self._place)

    def check(self, *, now_bytes: int, full_bytes: int, files: int) -> list[str]:
        """See whether a new overlay has room; return notices for the user.

        now_bytes   what is written or reserved at once
        full_bytes  what it takes when it is full
        files       how many files are made
        Asked again only where the answer says no, and btrfs had not counted what was removed.
        Raises OverlayError (CANNOT_CREATE) when there is no room, or when that cannot be
        found out, as the site has it.
        """
        config = self._config
        findings = _findings(self.limits, now_bytes, full_bytes, files)
        if findings and findings[0].short and _is_settled(self._place):
            again, failed = _limits(self._place)
            if not failed:  # else the time is over, and what was said before still holds
                self.limits, self.failures = again, failed
                findings = _findings(again, now_bytes, full_bytes, files)
        refuses = config["quota.check"] == "refuse"
        if refuses and findings and findings[0].short:
            raise OverlayError(
                f"there is no room for the overlay in {quote(self.directory)}: {findings[0].words}",
                status=CANNOT_CREATE,
                hint=_hint(findings[0], self.limits, now_bytes < full_bytes, config),
            )
        if refuses and self.failures and config["quota.on_failure"] == "refuse":
            raise OverlayError(
                f"whether there is room for the overlay in {quote(self.directory)} is not known:"
                f" {self.failures[0]}",
                status=CANNOT_CREATE,
                hint="try again later, or choose another directory with -o",
            )
        return [finding.words for finding in findings] + [
            f"the quota could not be checked: {words}" for words in self.failures
        ]

    def after(self, bytes_: int, files: int) -> list[Limits]:
        """Return the Limits as they are when so many more bytes and files are there."""
        return [one.after(bytes_, files) for one in self.limits]


def _is_settled(place: Place) -> bool:
    """Return whether what has been removed may count as free only now."""
    if place.mount.type != "btrfs":
        return False
    from overlay.quota import btrfs

    return btrfs.settle(place)


class _Finding:
    """What one quota means for the new overlay.

    short  how much of it is missing, so that nothing can be made; 0 for a warning
    words  the sentence with the numbers
    files  whether it is about files
    """

    def __init__(self, short: int, words: str, files: bool) -> None:
        self.short = short
        self.words = words
        self.files = files


def _findings(
    found: Iterable[Limits], now_bytes: int, full_bytes: int, files: int
) -> list[_Finding]:
    """Return what is short, the most so first, and what will be when the overlay is full."""
    findings = []
    for limits in found:
        blocks = (limits.used_bytes, limits.soft_bytes, limits.hard_bytes, now_bytes, full_bytes)
        counts = (limits.used_files, limits.soft_files, limits.hard_files, files, files)
        for finding in (_finding(limits, *blocks, False), _finding(limits, *counts, True)):
            if finding:
                findings.append(finding)
    return sorted(findings, key=lambda finding: (finding.short, not finding.files), reverse=True)


def _finding(
    limits: Limits,
    used: int | None,
    soft: int | None,
    hard: int | None,
    now: int,
    full: int,
    files: bool,
) -> _Finding | None:
    """Return the _Finding for one side of Limits, or None when there is room."""
    if used is None or not (soft or hard):
        return None
    lowest = min(limit for limit in (soft, hard) if limit)
    form = size.format_files if files else size.format_size
    if hard and used + now > hard:
        short, limit, needed = used + now - hard, hard, now
        words = f"{limits.name} is short by {form(short)}"
    elif soft and used + now > soft:
        short, limit, needed = 0, soft, now
        words = f"with the overlay, {limits.name} is over its soft limit"
    elif used + full > lowest:
        short, limit, needed = 0, lowest, full
        words = f"when the overlay fills, {limits.name} has not enough room for all of it"
    else:
        return None
    form = size.format_count if files else size.format_size
    if limits.kind == "space":
        numbers = f"free {form(limit - used)}"
    else:
        numbers = f"used {form(used)}, limit {form(limit)}"
    return _Finding(short, f"{words} ({numbers}, needed {form(needed)})", files)


def _hint(finding: _Finding, limits: Iterable[Limits], sparse: bool, config: Config) -> str:
    """Return what the user can do about a quota that is short."""
    ways = []
    if not finding.files:
        fits = min(
            each.hard_bytes - each.used_bytes
            for each in limits
            if each.hard_bytes and each.used_bytes is not None
        )
        fits = (fits - _SPARE) // size.MIB
        if sparse:
            ways.append("choose a smaller size with -s: its journal and tables take the room")
        elif fits > 0:
            way = f"choose a smaller size (-s {fits} fits)"
            if fits > _SPARSE:
                way += (
                    ", or add --sparse: then room is taken only as the overlay fills, and a"
                    " session can run into the limit"
                )
            ways.append(way)
    ways.append(
        config["quota.hint"] or "remove what you do not need, or choose another directory with -o"
    )
    return "; ".join(ways)


def find_limits(directory: str, config: Config) -> tuple[list[Limits], list[str]]:
    """Return (list of Limits, list of words about what could not be found out).

    The free space of the file system is among the Limits. Programs take [quota] timeout
    seconds at most, all together.
    """
    return _limits(_place(directory, config))


def _place(directory: str, config: Config) -> Place:
    """Return the Place that is asked about; the time for all questions begins."""
    return Place(directory, config.environ, config["quota.timeout"], config["quota.command"])


def _limits(place: Place) -> tuple[list[Limits], list[str]]:
    """Return what find_limits() does, in the time that is left."""
    found: list[Limits] = []
    failures = []
    try:
        for limits in sources.limits(place):  # one by one: what is known before a failure stays
            found.append(limits)
    except Unknown as unknown:
        failures.append(str(unknown))
    except OSError as error:
        failures.append(f"{place.mount.type}: {reason(error)}")
    # What the directory's own size tells is the same quota, and less exact.
    known = any(limits.kind in ("project", "tree") for limits in found)
    found += [one for one in space.limits(place) if not known or one.kind == "space"]
    return [limits for limits in found if not limits.is_empty], failures
