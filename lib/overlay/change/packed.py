"""Packed files looked at: can all that is in a squashfs file be read?

The format has no checksums: damage shows where a list cannot be read, or a compressed block
cannot be decompressed; and, of what we have packed, by the checksum behind its end.
"""

from __future__ import annotations

import os

from overlay.errors import DAMAGED, OverlayError, quote
from overlay.host import namespace, private, process
from overlay.plan import Plan, Step, named

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from overlay.image.kind import Image

_READ = '"$1" -o ro "$2" "$3" || exit 125; cd "$3" && find . -type f -exec cat {} + >/dev/null'


def checking(found: Image, scratch: str, environ: Mapping[str, str], *, deep: bool) -> Plan:
    """Return the Plan that looks at a squashfs file; its final Step returns what to say of it.

    scratch  a directory on the node, where it is mounted to be read
    deep     whether the content of all files is read, too, and not only the lists of them
    Doing it raises OverlayError (DAMAGED); this raises OverlayError (UNAVAILABLE).
    """
    program = process.need("unsquashfs", environ)
    lists = Step([program, "-ll", found.path], action=lambda: _read_lists(found, program, environ))
    if not deep:
        return Plan(lists)
    namespace.need(environ)
    squashfuse = process.which("squashfuse_ll", environ) or process.need("squashfuse", environ)
    host, pid = os.uname().nodename, private.worker()
    staging = private.work_name(scratch, host, pid)
    words = namespace.wrap(
        ["/bin/sh", "-c", _READ, "sh", squashfuse, found.descriptor, staging], environ
    )
    return Plan(
        Step(named(words), action=lambda: _read_all(found, words, environ)),
        before=[
            lists,
            Step(["mkdir", "-p", staging], action=lambda: private.make_work(scratch, host, pid)),
        ],
        after=[Step(["rm", "-rf", staging], action=lambda: private.leave(scratch, staging))],
    )


def _read_lists(found: Image, program: str, environ: Mapping[str, str]) -> str:
    result = process.run([program, "-ll", found.descriptor], environ)
    if result.status or "FATAL" in result.errors:
        raise _damaged(found, process.last_line(result.errors, otherwise="its lists are damaged"))
    return "its lists of files are sound; to read all that is in them: --deep"


def _read_all(found: Image, words: Sequence[str | int], environ: Mapping[str, str]) -> str:
    result = process.run(words, environ)
    if result.status:
        raise _damaged(found, process.last_line(result.errors, otherwise="it cannot be read"))
    changed = found.has_changed()
    if changed:
        raise _damaged(found, "it is not what was packed: its checksum is another")
    return f"sound: all of it was read{'' if changed is None else ', and is what was packed'}"


def _damaged(found: Image, words: str) -> OverlayError:
    path = quote(found.path)
    return OverlayError(
        f"{path} is damaged: {words}",
        status=DAMAGED,
        hint=f"pack it again, or save what can be read: unsquashfs -d DIRECTORY {path}",
    )
