"""Packed files looked at: can all that is in a squashfs file be read?

The format has no checksums: damage shows where a list cannot be read, or a compressed block
cannot be decompressed.
"""

from __future__ import annotations

import os

from overlay.errors import DAMAGED, OverlayError, quote
from overlay.host import namespace, private, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from overlay.image.kind import Image

_READ = '"$1" -o ro "$2" "$3" || exit 125; cd "$3" && find . -type f -exec cat {} + >/dev/null'


def check_packed(found: Image, scratch: str, environ: Mapping[str, str], *, deep: bool) -> str:
    """Look at a squashfs file and return what to say of it.

    scratch  a directory on the node, where it is mounted to be read
    deep     whether the content of all files is read, too, and not only the lists of them
    Raises OverlayError (DAMAGED, UNAVAILABLE).
    """
    program = process.need("unsquashfs", environ)
    result = process.run([program, "-ll", found.descriptor], environ)
    if result.status or "FATAL" in result.errors:
        raise _damaged(found, process.last_line(result.errors, otherwise="its lists are damaged"))
    if not deep:
        return "its lists of files are sound; to read all that is in them: --deep"
    namespace.need(environ)
    squashfuse = process.which("squashfuse_ll", environ) or process.need("squashfuse", environ)
    staging = private.make_work(scratch, os.uname().nodename, os.getpid())
    try:
        words: list[str | int] = [
            "/bin/sh",
            "-c",
            _READ,
            "sh",
            squashfuse,
            found.descriptor,
            staging,
        ]
        result = process.run(namespace.wrap(words, environ), environ)
    finally:
        private.leave(scratch, staging)
    if result.status:
        raise _damaged(found, process.last_line(result.errors, otherwise="it cannot be read"))
    return "sound: all of it was read"


def _damaged(found: Image, words: str) -> OverlayError:
    path = quote(found.path)
    return OverlayError(
        f"{path} is damaged: {words}",
        status=DAMAGED,
        hint=f"pack it again, or save what can be read: unsquashfs -d DIRECTORY {path}",
    )
