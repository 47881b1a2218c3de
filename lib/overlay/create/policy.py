"""What the site, its quotas and the disk say to a new overlay."""

from __future__ import annotations

import os

from overlay.errors import NOT_ALLOWED, OverlayError, quote
from overlay.image import ext3
from overlay.quota.check import Room
from overlay.size import MIB, format_files, format_size, mebibytes, thousands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from overlay.settings.config import Config


def check_policy(config: Config, *, size: int | None = None, files: int | None = None) -> None:
    """Refuse what the site does not want. Raises OverlayError (NOT_ALLOWED).

    size   bytes of the overlay; None: nothing is asked about them
    files  how many files it can hold; None: nothing is asked about them
    """
    if size is not None:
        _hold(size, config, "-s", "create.min_size", "create.max_size")
    if files is not None:
        _hold(files, config, "-n", "create.min_files", "create.max_files")


def _hold(amount: int, config: Config, option: str, least: str, most: str) -> None:
    """Refuse an amount below one setting, or above another."""
    low, high = config[least], config[most]
    if low and amount < low:
        limit, side, origin = low, "least", config.origin(least)
    elif high and amount > high:
        limit, side, origin = high, "most", config.origin(most)
    else:
        return
    is_size = option == "-s"
    words = format_size if is_size else format_files
    raise OverlayError(
        f"{words(amount)} are not allowed here: {words(limit)} are the {side} ({origin})",
        status=NOT_ALLOWED,
        hint=f"{option} {mebibytes(limit) if is_size else thousands(limit)}",
    )


def check_place(path: str, config: Config, notice: Callable[[str, str], object]) -> None:
    """Warn of, or refuse, a place where the site does not want overlays.

    Raises OverlayError (NOT_ALLOWED).
    """
    places = [os.path.realpath(place) for place in config["scratch.locations"]]
    rule = config["scratch.outside"]
    if rule == "allow" or any(os.path.commonpath((path, place)) == place for place in places):
        return
    known = ", ".join(map(quote, config["scratch.locations"])) or "nowhere"
    what = f"{quote(path)} is not where overlays belong here: {known}"
    if rule == "refuse":
        raise OverlayError(
            what,
            status=NOT_ALLOWED,
            hint=f"cd {quote(config['scratch.locations'][0])}" if places else None,
        )
    notice(what, "warning")


def room_for(path: str, config: Config) -> Room | None:
    """Return the Room of the directory of a new overlay; None where nothing is to be asked.

    It is asked for here, once; check_room() and what is said in the end go by the answer.
    """
    if config["quota.check"] == "off":
        return None
    return Room(os.path.dirname(path), config)


def check_room(
    room: Room | None,
    notice: Callable[[str, str], object] | None,
    *,
    size: int,
    sparse: bool,
    data: int = 0,
) -> None:
    """Refuse, or warn of, an overlay for which quotas or the disk have no room.

    notice  called with what is to be warned of; None to refuse only
    size    bytes of the overlay, or that come to it
    sparse  whether its blocks are taken only as they are written
    data    bytes that it is filled with
    As [quota] says; raises OverlayError (CANNOT_CREATE).
    """
    if room is None:
        return
    # Of a sparse one at once: the journal, what describes every 128 MiB, and the data.
    now = ext3.JOURNAL + size // 8192 + MIB + data if sparse else size
    for words in room.check(now_bytes=now, full_bytes=max(now, size), files=1):
        if notice is not None:
            notice(words, "warning")
