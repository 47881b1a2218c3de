"""Files that a command writes anew each time: it replaces its own, and nobody else's."""

from __future__ import annotations

import os

from overlay.errors import CANNOT_CREATE, OverlayError, cannot, quote, reason
from overlay.safety import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def write(texts: Mapping[str, str], option: str) -> None:
    """Write files, each whole or not at all; nothing is written when one may not be replaced.

    texts   what is written by its path; its first line, which marks it as ours, must be that
            of a file that is replaced
    option  the option that named them, for the hint
    Raises OverlayError (CANNOT_CREATE).
    """
    for path, text in texts.items():
        old = _old(path)
        if old is not None:
            with open(old, "rb") as file:
                _check(path, file.read(4096), text, option)
    for path, text in texts.items():
        _write(path, text, option)


def _old(path: str) -> int | None:
    """Return a descriptor of what is at a path, None for nothing."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot(path, reason(error)) from None


def _check(path: str, head: bytes, text: str, option: str) -> None:
    first = text.partition("\n")[0]
    if head.partition(b"\n")[0] != first.encode():
        raise OverlayError(
            f"{quote(path)} exists already, and was not written by this command",
            status=CANNOT_CREATE,
            hint=f"{option}: name another, or remove it",
        )


def _write(path: str, text: str, option: str) -> None:
    try:
        with replace.unfinished(replace.place(path)) as new:
            with open(new.descriptor, "w", encoding="utf-8", closefd=False) as file:
                file.write(text)
            old = _old(new.path)
            if old is None:
                new.into_place()
                return
            with open(old, "rb") as was:
                _check(path, was.read(4096), text, option)
                new.over(old)
    except OSError as error:
        raise cannot(path, reason(error)) from None
