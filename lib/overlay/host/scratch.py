"""Where there is scratch on this node."""

import os

from overlay.host import private


def scratch_directory(config):
    """Return the first usable directory of [scratch] local; /tmp when none is.

    One where somebody else has made what would be ours comes last.
    """
    usable = [path for path in config["scratch.local"] if _is_usable(path)] + ["/tmp"]
    return next((path for path in usable if not private.is_taken(path)), usable[0])


def _is_usable(path):
    # The engine and mount(8) would read a name with one of these as several.
    plain = not set(path).intersection(":,\\")
    return plain and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)
