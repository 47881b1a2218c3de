"""Where there is scratch on this node."""

from __future__ import annotations

import os

from overlay.host import private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.settings.config import Config


def scratch_directory(config: Config, programs: bool = False) -> str:
    """Return the first usable directory of [scratch] local; /tmp when none is.

    programs  whether programs will lie there that are started
    One where that cannot be, or others rule, or have made what would be ours, comes last.
    """
    usable: list[str] = [*filter(_is_usable, config["scratch.local"]), "/tmp"]
    chosen = list(filter(can_execute, usable)) if programs else usable
    safe = (path for path in chosen if not private.is_taken(path) and not private.others_rule(path))
    return next(safe, (chosen or usable)[0])


def can_execute(path: str) -> bool:
    """Return whether programs in a directory may be started: it is not mounted noexec."""
    try:
        return not os.statvfs(path).f_flag & os.ST_NOEXEC
    except OSError:
        return True  # such as a dead server: told when it is used


def _is_usable(path: str) -> bool:
    # The engine and mount(8) would read a name with one of these as several.
    plain = not set(path).intersection(":,\\")
    return plain and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)
