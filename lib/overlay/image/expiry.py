"""When the site's purge removes an overlay that nobody uses."""

from __future__ import annotations

import math
import os

from overlay.host.places import is_below
from overlay.settings.values import expand, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.settings.config import Config

_DAY = 86400  # seconds
SOON = 14  # days before it, in which an overlay is pointed out


class Expiry:
    """What is known of the site's purge, which removes what nobody has used for some days."""

    def __init__(self, config: Config) -> None:
        """Take [scratch] purge, in days, and the locations that it is for: everybody's."""
        self.purge: int | None = config["scratch.purge"]
        self._places: list[str] = []
        for word in words(config.text("scratch.locations")) if self.purge else ():
            # In the place of the user's name those of all users lie.
            place = expand(word.partition("{user}")[0], config.environ, unset="none")
            if place:
                self._places.append(os.path.realpath(place))

    def days(self, path: str, status: os.stat_result, now: float) -> int | None:
        """Return within how many days a file is removed unless somebody uses it; 0: it is overdue.

        path, status  of the overlay; now in seconds since 1970
        None where nothing is purged. Used is what was read or written, as far as the file
        system notes when a file was read.
        """
        if self.purge is None or not is_below(os.path.realpath(path), self._places):
            return None
        used = max(status.st_atime, status.st_mtime)
        return max(0, math.ceil(self.purge - (now - used) / _DAY))
