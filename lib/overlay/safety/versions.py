"""The versions of an overlay before its updates: NAME.~1~ and so on, as cp --backup=numbered names them.

Which of such files are ours an extended attribute says: the user's own cp(1) makes such names too.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat

from overlay.safety import replace

_VERSION = "user.overlay.version"
_NAMED = re.compile(r"(.+)\.~\d{1,9}~", re.DOTALL | re.ASCII)


def named(path: str) -> list[str]:
    """Return the names of the versions that are kept of an overlay, the oldest first.

    Some may be the user's own: cp(1) and mv(1) make such names as well. What belongs to somebody
    else than the overlay is none. Raises OSError.
    """
    directory, base = os.path.split(path)
    owner = os.stat(path).st_uid
    pattern = re.compile(re.escape(base) + r"\.~(\d{1,9})~")
    found = []
    for name in os.listdir(directory):
        match = pattern.fullmatch(name)
        if not match or not match[1].isascii():
            continue
        status = os.stat(os.path.join(directory, name), follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and status.st_uid == owner:
            found.append((int(match[1]), os.path.join(directory, name)))
    return [name for _number, name in sorted(found)]


def of(path: str, descriptor: int) -> str | None:
    """Return the path of the overlay of which an open file is a version that we have kept, or None.

    path  of that file
    """
    match = _NAMED.fullmatch(path)
    try:
        os.getxattr(descriptor, _VERSION)
    except OSError:
        return None
    return match and match[1]


def keep(path: str, descriptor: int) -> str:
    """Give the version before another name, and return that. Raises OSError."""
    found = named(path)
    # What is there already, also somebody else's, is passed over.
    number = int(found[-1].rpartition(".~")[2][:-1]) if found else 0
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            number += 1
            name = f"{os.path.basename(path)}.~{number}~"
            try:
                replace.link(descriptor, name, directory)
                mark(descriptor, True)
                return os.path.join(os.path.dirname(path), name)
            except FileExistsError:
                continue
    finally:
        os.close(directory)


def tidy(path: str) -> None:
    """Take the names away that a killed update gave to an overlay that it did not replace."""
    status = os.stat(path)
    for name in named(path):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(name, follow_symlinks=False), status):
                os.unlink(name)


def mark(descriptor: int, kept: bool) -> None:
    """Note on an open file whether it is a version that we keep, where it can have such a note."""
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    with contextlib.suppress(OSError):
        if not mode & stat.S_IWUSR:
            os.fchmod(descriptor, mode | stat.S_IWUSR)  # else nobody may note anything
        try:
            if kept:
                os.setxattr(descriptor, _VERSION, b"")
            else:
                os.removexattr(descriptor, _VERSION)
        finally:
            os.fchmod(descriptor, mode)


def kept(path: str) -> list[str]:
    """Return those versions that we have kept, as far as files here can tell."""
    found = []
    for name in named(path):
        with contextlib.suppress(OSError):
            os.getxattr(name, _VERSION, follow_symlinks=False)
            found.append(name)
    return found


def prune(path: str, versions: int) -> None:
    """Remove all but the last versions that we have kept; files of the user's own stay."""
    found = kept(path)
    for name in found[: max(0, len(found) - versions)]:
        with contextlib.suppress(OSError):
            os.unlink(name)


def let_go(name: str, descriptor: int) -> None:
    """Take away the name that keep() has given, when the update did not come to its end."""
    mark(descriptor, False)
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(name, follow_symlinks=False), os.fstat(descriptor)):
            os.unlink(name)
