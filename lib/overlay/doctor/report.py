"""Overlays by owner, for the site's admin: how many there are, how large, in which state."""

from __future__ import annotations

import os

from overlay.errors import DAMAGED, MISSING, OverlayError
from overlay.host.names import user_name
from overlay.image import survey
from overlay.image.expiry import SOON

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from overlay.image.expiry import Expiry
    from overlay.image.kind import Image
    from overlay.image.search import Search

_DAY = 86400  # seconds

# What is counted for each owner, in the order of the columns.
FIGURES = (
    "overlays",
    "size",
    "allocated",
    "used",
    "files",
    "not_clean",
    "in_use",
    "old",
    "expiring",
    "nearly_full",
    "too_large",
    "damaged",
    "unreadable",
)


class Owner:
    """The figures of one owner, or of all together.

    overlays           how many of them there are, damaged and unreadable ones included
    size, allocated    bytes: of the files, and those of them that take disk blocks
    used               bytes of data inside
    files              files and directories inside
    not_clean          those that a session left unclean, and that nobody uses now
    in_use             those that a session has open
    old                those in which nothing was written for some days
    expiring           those that the site's purge removes within expiry.SOON days
    nearly_full        those that have too little room, or too few files, left
    too_large          those that are far larger than what is in them: see Survey.enough
    damaged, unreadable
    """

    __slots__ = ("name", *FIGURES)

    def __init__(self, name: str) -> None:
        self.name = name
        self.overlays = self.size = self.allocated = self.used = self.files = 0
        self.not_clean = self.in_use = self.old = self.expiring = 0
        self.nearly_full = self.too_large = self.damaged = self.unreadable = 0

    @property
    def kept_off(self) -> int:
        """How many files the file system need not hold, because they are inside."""
        return max(0, self.files - self.overlays)

    def add(self, other: Owner) -> None:
        """Add the figures of another."""
        for figure in FIGURES:
            setattr(self, figure, getattr(self, figure) + getattr(other, figure))

    def as_dictionary(self) -> dict[str, str | int]:
        """Return it for --json and --csv."""
        return {"owner": self.name, **{figure: getattr(self, figure) for figure in FIGURES}}

    def count(self, overlay: survey.Survey, now: float, days: int, left: int | None) -> None:
        """Count the Survey of one overlay.

        now   seconds since 1970
        days  after which one in which nothing is written is old
        left  days until the site's purge removes it, None when it does not
        """
        self.overlays += 1
        self.size += overlay.size or 0
        self.allocated += overlay.allocated or 0
        self.used += overlay.used or 0
        self.files += overlay.files_inside
        self.not_clean += overlay.clean is False and not overlay.use
        self.in_use += bool(overlay.use)
        self.old += bool(overlay.written and now - overlay.written > days * _DAY)
        self.expiring += left is not None and left <= SOON
        self.nearly_full += bool(overlay.nearly_full)
        self.too_large += overlay.enough is not None

    def count_broken(self, status: os.stat_result, damaged: bool) -> None:
        """Count an overlay of which only its os.stat_result is known."""
        self.overlays += 1
        self.damaged += damaged
        self.unreadable += not damaged
        self.size += status.st_size
        self.allocated += status.st_blocks * 512


def found(
    search: Search, tops: Iterable[str], failed: Callable[[OverlayError], object]
) -> Iterator[tuple[str, Image | OverlayError]]:
    """Yield what a Search finds under directories, as (path, Image or OverlayError).

    failed  called with the OverlayError of a directory that cannot be looked into
    Files that cannot be read come last; their names say that they are overlays.
    """
    for top in tops:
        try:
            yield from search.under(top)
        except OverlayError as error:
            failed(error)
    for path in search.unreadable:
        if not os.path.isdir(path):
            yield path, OverlayError("it cannot be read", status=MISSING)


def collect(
    overlays: Iterable[tuple[str, Image | OverlayError]],
    *,
    low: int,
    now: float,
    days: int,
    expiry: Expiry,
    broken: Callable[[str, str], object] = lambda path, words: None,
    seen: Callable[[str, survey.Survey], object] = lambda path, overlay: None,
) -> list[Owner]:
    """Return the Owners of some overlays, the one with most bytes first.

    overlays  (path, Image or OverlayError) as found() yields them
    expiry    what is known of the site's purge
    low       percent of room or files below which an overlay is nearly full
    broken    called with the path and the words of an overlay that cannot be counted whole
    seen      called with the path and the Survey of every other
    An overlay that vanishes meanwhile is not counted.
    """
    owners: dict[int, Owner] = {}

    def owner(number: int) -> Owner:
        if number not in owners:
            owners[number] = Owner(user_name(number))
        return owners[number]

    for path, image in overlays:
        try:
            if isinstance(image, OverlayError):
                raise image
            overlay = survey.Survey(image, low=low, who=False)
        except (OverlayError, OSError) as error:
            status = _status(path)
            if status is None:
                continue  # it went while we looked
            damaged = getattr(error, "status", MISSING) == DAMAGED
            owner(status.st_uid).count_broken(status, damaged)
            broken(path, getattr(error, "what", str(error)))
        else:
            seen(path, overlay)
            left = expiry.days(path, image.status, now)
            owner(overlay.owner).count(overlay, now, days, left)
        finally:
            if not isinstance(image, OverlayError):
                image.close()
    return sorted(owners.values(), key=lambda one: (-one.allocated, one.name))


def total(owners: Iterable[Owner]) -> Owner:
    """Return the Owner that stands for all."""
    one = Owner("total")
    for other in owners:
        one.add(other)
    return one


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None
