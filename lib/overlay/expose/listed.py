"""What was written into a directory of exposed programs, and how it is removed again.

The directory may be somebody else's, and so may the list that lies in it. So a list of another
user's is not obeyed, no link is followed below the directory, and nothing is removed but files
that say of themselves that they were written by us.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from overlay.errors import CANNOT_CREATE, MISSING, OverlayError, quote, reason
from overlay.expose.texts import MARK
from overlay.host.path import EXPOSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HEAD = 4096  # bytes of a file, among which the mark stands
_MOST = 4 << 20  # bytes of a list


def text(names: Iterable[str]) -> str:
    """Return a list of names, relative to the directory, as it is written."""
    return "".join(f"{line}\n" for line in (f"# {MARK}", *names))


def read(directory: str) -> list[str]:
    """Return the names, below a directory, of what was written into it; none without a list."""
    try:
        with _opened(directory, EXPOSED) as (_place, _name, file):
            if os.fstat(file).st_uid not in (os.geteuid(), 0):
                return []
            data = os.read(file, _MOST)
    except OSError:
        return []
    first, *lines = os.fsdecode(data).split("\n")
    if MARK not in first:
        return []
    return [line for line in lines if line and not {"", ".", ".."} & set(line.split("/"))]


def remove(directory: str) -> int:
    """Remove from a directory what was written into it, and return how many files that were.

    Raises OverlayError: MISSING when nothing was, CANNOT_CREATE.
    """
    names = read(directory)
    if not names:
        raise OverlayError(
            f"nothing was exposed in {quote(directory)} by you",
            status=MISSING,
            hint="expose-overlay --remove DIR: the directory that was named when it was exposed",
        )
    count = sum(remove_one(directory, name) for name in names)
    remove_one(directory, EXPOSED)
    return count


def remove_one(directory: str, name: str) -> bool:
    """Remove a file of ours, and directories that are then empty; return whether it was there.

    Raises OverlayError (CANNOT_CREATE).
    """
    try:
        with _opened(directory, name) as (place, base, file):
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return False
            if MARK.encode() not in os.read(file, _HEAD):
                return False
            os.unlink(base, dir_fd=place)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        path = quote(os.path.join(directory, name))
        raise OverlayError(f"cannot remove {path}: {reason(error)}", status=CANNOT_CREATE) from None
    with contextlib.suppress(OSError):  # it is not empty
        while name:
            name = os.path.dirname(name)
            os.rmdir(os.path.join(directory, name))
    return True


@contextlib.contextmanager
def _opened(directory: str, name: str) -> Iterator[tuple[int, str, int]]:
    """Open a file below a directory, no link followed; yield (its directory, last name, file).

    Raises OSError.
    """
    *parts, base = name.split("/")
    flags = os.O_DIRECTORY | os.O_CLOEXEC
    place = os.open(directory, os.O_RDONLY | flags)
    try:
        for part in parts:
            below = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=place)
            os.close(place)
            place = below
        reading = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        file = os.open(base, reading, dir_fd=place)
        try:
            yield place, base, file
        finally:
            os.close(file)
    finally:
        os.close(place)
