"""Names that are nearly those of files that are there: imported only for an error's hint."""

from __future__ import annotations

import os

from overlay.errors import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MOST = 2000  # names of a directory that are compared


def alike(word: str, known: Iterable[str]) -> str | None:
    """Return the one of some words that another is most like, None when none is near."""
    from difflib import get_close_matches

    plain = {one.lower(): one for one in known}
    wanted = word.lower()
    near = [one for one in plain if len(wanted) > 1 and one.startswith(wanted)]
    if not near and len(wanted) > 2:
        near = get_close_matches(wanted, plain, 1, 0.78)
    return plain[near[0]] if near else None


def meant(path: str, fits: Callable[[str], bool] = os.path.isfile) -> str | None:
    """Return the question whether a file beside a path that is not there was meant; see beside()."""
    near = beside(path, fits)
    return f"did you mean {quote(near)}?" if near else None


def beside(path: str, fits: Callable[[str], bool] = os.path.isfile) -> str | None:
    """Return the path of a file with nearly the name of one that is not there, None without one.

    fits  whether it can have been that, by its path
    """
    directory, name = os.path.split(path)
    try:
        with os.scandir(directory or ".") as entries:
            names = [entry.name for _number, entry in zip(range(_MOST), entries)]
    except (OSError, ValueError):
        return None
    near = alike(name, (one for one in names if fits(os.path.join(directory, one))))
    return os.path.join(directory, near) if near else None


def parted(path: str) -> list[str]:
    """Return the overlays that a word with commas names, nothing where they are not all there."""
    names = path.split(",")
    found = [one for name in names for one in (name, name + ".ext3") if os.path.isfile(one)]
    return found if len(found) == len(names) > 1 else []
