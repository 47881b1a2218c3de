"""What files are called while they are written."""

from __future__ import annotations

import os

PARTIAL = ".overlay-partial."


def partial_name(path: str, host: str, pid: int | str) -> str:
    """Return the name of an unfinished file that is going to be path, without its last part."""
    return os.path.join(os.path.dirname(path), f"{PARTIAL}{host}.{pid}")


def is_partial(name: str) -> bool:
    """Return whether a file is called as unfinished ones are."""
    return name.startswith(PARTIAL)
