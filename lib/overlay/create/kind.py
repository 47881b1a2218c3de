"""What every kind of source answers. A kind is a class, in a module of its own beside this."""

from __future__ import annotations

import errno
import os
import stat

from overlay.create.allowance import NO_ROOM
from overlay.errors import DAMAGED, OverlayError, quote, reason

HEAD = (1 << 20) + 512  # bytes that a file is told by; an archive of nothing may be a megabyte

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from overlay.create.allowance import Allowance
    from overlay.create.attributes import LeftOut
    from overlay.settings.config import Config


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; a FIFO would wait for a writer for ever. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    file = open(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is neither a directory nor a regular file")
    return file


class Means:
    """What a source is brought with.

    allowance  the Allowance: how much of an archive the new overlay can hold
    scratch    the directory on a disk of the node where all is brought together
    through    how the names of directories may begin that are made for the time being
    config     the Config, with the environment for the tools
    left_out   takes note of attributes that cannot be carried
    notice     called with a line for the user
    tick       called with how many files there are by now, now and then
    """

    __slots__ = ("allowance", "config", "left_out", "notice", "scratch", "through", "tick")

    def __init__(
        self,
        allowance: Allowance,
        *,
        scratch: str,
        through: str,
        config: Config,
        left_out: LeftOut,
        notice: Callable[[str], None],
        tick: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.allowance = allowance
        self.scratch = scratch
        self.through = through
        self.config = config
        self.left_out = left_out
        self.notice = notice
        self.tick = tick


class Source:
    """Something to fill an overlay with.

    path  where it is
    dest  where its content appears inside, an absolute path

    What holds for all of a kind stands in the class:

    task        what is done with it, a verb
    is_tree     whether it is a tree of files, which can be read where it is
    is_overlay  whether it is an overlay: who may not read it may not read what is made of it
    """

    __slots__ = ("dest", "path")

    task = "unpack"
    is_tree = False
    is_overlay = False

    def __init__(self, path: str, dest: str) -> None:
        self.path = path
        self.dest = dest

    @classmethod
    def begins(cls, head: bytes) -> bool:
        """Return whether a file is of this kind by what it begins with, HEAD bytes at most."""
        raise NotImplementedError

    @classmethod
    def usual_dest(cls, path: str) -> str:
        """Return where its content goes when nobody says where."""
        return f"/{os.path.basename(os.path.realpath(path))}" if cls.is_tree else "/"

    def words(self, target: str) -> list[str]:
        """Return the line that brings it into a directory, for --dry-run.

        None at all where no line of a shell does it: why() says then what is done.
        """
        raise NotImplementedError

    def why(self, target: str) -> str | None:
        """Return what is done, in words, where that is not seen from the line."""
        del target
        return None

    def notice(self) -> str | None:
        """Return what to say while it is done; None when nothing need be said."""
        return f"unpacking {quote(self.path)}"

    def bring(self, target: str, means: Means) -> None:
        """Bring its content into a directory, in which that of others may be.

        Raises OverlayError: DAMAGED for what would reach outside, CANNOT_CREATE when it is more
        than is allowed, UNAVAILABLE without the tool; OSError (ENOSPC, EDQUOT) when the room on
        scratch is used up meanwhile.
        """
        os.makedirs(target, exist_ok=True)
        try:
            self._bring(target, means)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            raise OverlayError(
                f"cannot {self.task} {quote(self.path)}: {reason(error)}", status=DAMAGED
            ) from None

    def _bring(self, target: str, means: Means) -> None:
        """Do that; an OSError is told as damage."""
        raise NotImplementedError
