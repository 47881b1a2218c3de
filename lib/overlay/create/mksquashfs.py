"""mksquashfs(1): which one is here, what it knows, and how it is told to compress."""

from __future__ import annotations

from overlay.errors import UNAVAILABLE, OverlayError, quote
from overlay.host import process
from overlay.host.tools import TOOLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# zstd at level 3 packs nearly as tight as at 15, and several times faster.
_LEVELS = {"zstd": 3}

OLDEST = (4, 4)  # version of squashfs-tools: see find()


def find(environ: Mapping[str, str]) -> str:
    """Return the path of mksquashfs. Raises OverlayError (UNAVAILABLE) for one that is too old.

    Before OLDEST names in definitions of files had no quotes: what stood behind a space in the
    name of a deleted file could be a definition of its own, with a command that is run.
    """
    import re

    tool = process.need("mksquashfs", environ)
    said = process.run([tool, "-version"], environ)
    found = re.search(r"mksquashfs version (\d+)\.(\d+)", said.output + said.errors)
    if not found or tuple(map(int, found.groups())) < OLDEST:
        words = (
            "does not say which version it is" if not found else f"is {'.'.join(found.groups())}"
        )
        raise OverlayError(
            f"{quote(tool)} {words}, and before {'.'.join(map(str, OLDEST))} it can take a name in"
            " an overlay for a command",
            status=UNAVAILABLE,
            hint="pack on another machine, or ask the site's admin for a newer"
            f" {TOOLS['mksquashfs'].package}",
        )
    return tool


def known(tool: str, environ: Mapping[str, str]) -> set[str]:
    """Return the words of what mksquashfs says of its options, which not every version has."""
    said = process.run([tool, "-help"], environ)
    return set((said.output + said.errors).split())


def settings(compression: str, *, level: int | None = None, block: int | None = None) -> list[str]:
    """Return the options that say how it compresses.

    compression  one of settings.table.COMPRESSIONS
    level        as squashfs_image.Settings has it; None for ours
    block        bytes that are compressed at a time, None for what mksquashfs takes
    """
    words = ["-comp", compression]
    level = _LEVELS.get(compression) if level is None else level
    if level is not None:
        words += ["-Xhc"] if compression == "lz4" else ["-Xcompression-level", str(level)]
    return words if block is None else [*words, "-b", str(block)]
