"""Files that commands obey: whose they are, and who else could write or exchange them."""

from __future__ import annotations

import os
import stat

from overlay.errors import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Distrusted(Exception):
    """A file is not to be obeyed; the text says why, in words for the user."""


def installation() -> int:
    """Return the uid of the owner of these programs, whose settings are as good as they are."""
    return os.stat(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))).st_uid


def read(path: str, owners: Collection[int] | None = None) -> bytes:
    """Return the bytes of a file, which is opened once: what is looked at is what is read.

    owners  the uids whose file is obeyed; None: whoever's, because it is only looked at
    Raises Distrusted, and OSError for what cannot be read or is not a file.
    """
    # Not blocking: a FIFO in the place of a file would wait for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        if owners is not None:
            check(path, status, owners)
        return file.read()


def check(path: str, status: os.stat_result, owners: Collection[int]) -> None:
    """Raise Distrusted when a file that was opened by its path is not to be obeyed.

    status  its os.stat_result, from its descriptor
    owners  the uids whose file is obeyed
    A link is followed when its owner, too, is one of these. A directory in the way where
    everybody may write, and exchange what is in it, spoils all below it.
    """
    if status.st_uid not in owners:
        raise Distrusted(f"it belongs to {_name(status.st_uid)}, and not to {_names(owners)}")
    link = os.lstat(path)
    if link.st_uid not in owners:
        raise Distrusted(
            f"it is a link that belongs to {_name(link.st_uid)}, and not to {_names(owners)}"
        )
    if status.st_mode & stat.S_IWOTH:
        raise Distrusted(f"everybody may write it; to mend that: chmod o-w {quote(path)}")
    ways = [os.path.abspath(path)]
    if stat.S_ISLNK(link.st_mode):
        ways.append(os.path.realpath(path))
    for directory in _parents(ways):
        mode = os.stat(directory).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise Distrusted(
                f"everybody may write in {quote(directory)}; to mend that:"
                f" chmod o-w {quote(directory)}"
            )


def _parents(paths: Iterable[str]) -> list[str]:
    """Return all directories above some absolute paths, each once."""
    found = set()
    for path in paths:
        while path != "/":
            path = os.path.dirname(path)
            found.add(path)
    return sorted(found)


def _name(uid: int) -> str:
    """Return the name of a user, or "user UID" for one that has none here."""
    from overlay.host.names import user_name  # asks a server on many sites, only for a message

    name = user_name(uid)
    return f"user {name}" if name.isdecimal() else name


def _names(uids: Iterable[int]) -> str:
    return " or ".join(sorted(map(_name, uids)))
