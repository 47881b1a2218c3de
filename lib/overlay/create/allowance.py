"""How much archives may unpack to, and which limit is short when they are larger."""

from __future__ import annotations

import errno
import math
import os

from overlay.create.request import LARGER
from overlay.errors import CANNOT_CREATE, OverlayError, quote, reason
from overlay.host import private
from overlay.host.room import free_bytes
from overlay.size import MIB, format_size

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Allowance:
    """What may be unpacked: what the overlay holds, and what there is room for on scratch.

    bytes  that the files may have in all
    files  how many they may be, directories included; math.inf for any number
    """

    def __init__(self, scratch: str, *, size: int | None = None, files: int | None = None) -> None:
        """Look what room there is.

        scratch  the directory in which archives are unpacked
        size     bytes of the overlay, None where its size follows from the content
        files    how many files it is to hold, None where that follows from the content
        Raises OSError.
        """
        self._scratch = scratch
        free, free_files = free_bytes(scratch), os.statvfs(scratch).f_favail or math.inf
        self._of_scratch = size is None or free < size
        self._of_scratch_files = files is None or free_files < files
        self.bytes = free if size is None else min(free, size)
        self.files: float = free_files if files is None else min(free_files, files)

    @property
    def is_used_up(self) -> bool:
        """Whether next to nothing may be unpacked: less than a MiB, or no file."""
        return self.bytes < MIB or self.files < 1

    def too_much(self, path: str) -> OverlayError:
        """Return the error for an archive whose files are larger in all."""
        if self._of_scratch:
            free = f"its files have more than the {format_size(self.bytes)} that are free"
            return no_room(f"unpack {quote(path)}", self._scratch, free)
        return OverlayError(
            f"{quote(path)} does not fit: its files have more than the {format_size(self.bytes)}"
            " of the overlay",
            status=CANNOT_CREATE,
            hint=LARGER,
        )

    def too_many(self, path: str) -> OverlayError:
        """Return the error for an archive of more files."""
        if self._of_scratch_files:
            free = f"it has more than the {self.files:,} files that can be made there"
            return no_room(f"unpack {quote(path)}", self._scratch, free)
        return OverlayError(
            f"{quote(path)} does not fit: it has more than {self.files:,} files",
            status=CANNOT_CREATE,
            hint="choose a larger number with -n",
        )


def check_room(words: str) -> None:
    """Raise what a program says when it writes and there is no room: OSError (ENOSPC, EDQUOT)."""
    for number in NO_ROOM:
        if os.strerror(number).lower() in words.lower():
            raise OSError(number, os.strerror(number))


def no_room(task: str, scratch: str, why: OSError | str) -> OverlayError:
    """Return the error for a task, as "unpack a.tar", that scratch has no room for."""
    words = why if isinstance(why, str) else reason(why)
    return OverlayError(
        f"there is no room to {task} in {quote(scratch)}: {words}",
        status=CANNOT_CREATE,
        hint=private.HINT,
    )
