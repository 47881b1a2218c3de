"""Where there is scratch on this node."""

from __future__ import annotations

import os

from overlay.host import private

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.settings.config import Config


def scratch_directory(config: Config) -> str:
    """Return the first usable directory of [scratch] local; /tmp when none is.

    One where somebody else has made what would be ours comes last.
    """
    usable: list[str] = [*filter(_is_usable, config["scratch.local"]), "/tmp"]
    return next((path for path in usable if not private.is_taken(path)), usable[0])


def _is_usable(path: str) -> bool:
    # The engine and mount(8) would read a name with one of these as several.
    plain = not set(path).intersection(":,\\")
    return plain and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)
