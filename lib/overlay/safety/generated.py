"""Files that a command writes anew each time: it replaces its own, and nobody else's."""

from __future__ import annotations

import os
import stat

from overlay.errors import CANNOT_CREATE, OverlayError, cannot, quote, reason
from overlay.safety import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HEAD = 4096  # bytes of a file, among which its mark stands


def write(
    texts: Mapping[str, str], mark: str, argument: str, *, programs: Iterable[str] = ()
) -> None:
    """Write files, each whole or not at all; nothing is written when one may not be replaced.

    texts     what is written, by its path
    mark      stands near the beginning of each; only files that have it are replaced
    argument  what has named them on the command line, for the hint
    programs  the paths of those that can be executed
    Raises OverlayError (CANNOT_CREATE).
    """
    for path in texts:
        old = _old(path)
        if old is not None:
            with open(old, "rb") as file:
                _check(path, file.read(_HEAD), mark, argument)
    executable = set(programs)
    for path, text in texts.items():
        _write(path, text, mark, argument, path in executable)


def is_ours(path: str, mark: str) -> bool:
    """Return whether a file is there that has a mark. Raises OverlayError (CANNOT_CREATE)."""
    old = _old(path)
    if old is None:
        return False
    with open(old, "rb") as file:
        return mark.encode() in file.read(_HEAD)


def _old(path: str) -> int | None:
    """Return a descriptor of the file at a path, None for nothing."""
    try:
        old = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot(path, reason(error)) from None
    if stat.S_ISREG(os.fstat(old).st_mode):
        return old
    os.close(old)
    raise cannot(path, "it is a directory" if os.path.isdir(path) else "it is not a file")


def _check(path: str, head: bytes, mark: str, argument: str) -> None:
    if mark.encode() not in head:
        raise OverlayError(
            f"{quote(path)} exists already, and was not written by this command",
            status=CANNOT_CREATE,
            hint=f"{argument}: name another, or remove it",
        )


def _write(path: str, text: str, mark: str, argument: str, executable: bool) -> None:
    try:
        with replace.unfinished(replace.place(path)) as new:
            with open(new.descriptor, "w", encoding="utf-8", closefd=False) as file:
                file.write(text)
            mode = new.mode()
            mode |= (mode & 0o444) >> 2 if executable else 0
            old = _old(new.path)
            if old is None:
                new.into_place(mode=mode)
                return
            with open(old, "rb") as was:
                _check(path, was.read(_HEAD), mark, argument)
                new.over(old, mode=mode if executable else None)
    except OSError as error:
        raise cannot(path, reason(error)) from None
