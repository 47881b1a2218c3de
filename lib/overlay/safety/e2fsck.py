"""e2fsck(8), which on some images does not come to an end, or never ends to say what is wrong."""

from __future__ import annotations

import signal

from overlay.host import process
from overlay.host.process import Result
from overlay.image import ext3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ENDLESS = -signal.SIGXCPU  # the status of a run that has taken the time of a hundred others
_SECONDS = 20  # of the processor, for a small image
_INODES = 5000  # that are in use add a second; e2fsck does some 400,000 in that time
_BYTES = 1 << 30  # of an image add another


def run(program: str, options: str, descriptor: int, environ: Mapping[str, str]) -> Result:
    """Run e2fsck to its end, or until it is clear that it has none; return its Result.

    program     its path
    options     -fn, -fy or -pf
    descriptor  the open image
    The status is ENDLESS then.
    """
    return process.run([program, options, descriptor], environ, seconds=_seconds(descriptor))


def beside(program: str, descriptor: int, environ: Mapping[str, str]) -> process.Beside:
    """Return the context of a run that changes nothing, while something else is done."""
    seconds = _seconds(descriptor)
    return process.Beside([program, "-fn", descriptor], environ, seconds=seconds)


def _seconds(descriptor: int) -> int:
    """Return how many seconds of the processor a run on an open image may take."""
    try:
        superblock = ext3.read_superblock(descriptor)
    except ext3.FormatError:
        return _SECONDS
    return _SECONDS + superblock.used_inodes_count // _INODES + superblock.size // _BYTES
