"""What the last writable session wrote about itself, as an extended attribute of the image.

It travels with the file where cp -a or rsync -X keep extended attributes, leaves nothing
beside it, and is simply absent on file systems without them.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = "user.overlay.session"
_LIMIT = 4096  # bytes; more would be refused by ext4 and is none of ours
_LONGEST = 1024  # characters of a path that are noted


def write(descriptor: int, fields: Mapping[str, object]) -> bool:
    """Put a dictionary of words on an image. Returns False where the file system cannot."""
    text = "".join(f"{name}={_line(value)}\n" for name, value in fields.items())
    try:
        os.setxattr(descriptor, _NAME, text.encode(errors="surrogateescape")[:_LIMIT])
    except OSError:
        return False
    return True


def read(descriptor: int) -> dict[str, str]:
    """Return the dictionary on an image; empty when there is none."""
    try:
        data = os.getxattr(descriptor, _NAME)
    except OSError:
        return {}
    lines = data.decode(errors="replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def begin(
    descriptor: int,
    environ: Mapping[str, str],
    *,
    host: str,
    stack: str,
    others: int,
    image: str,
) -> None:
    """Note that a writable session begins; its lock is held.

    others  the last second, since 1970, of which there may be markers of other sessions
    stack  the layers below, as one word. Markers that a session left behind when it was
           killed are still known to be made over these layers when the next one has the same.
    image  the path of the base image
    """
    before = read(descriptor)
    if 0 <= others - time.time() + 1 <= 1:
        time.sleep(others - time.time() + 1)  # so that the seconds tell whose they are
    now = str(int(time.time()))
    fields = {
        "user": environ.get("USER") or environ.get("LOGNAME") or str(os.getuid()),
        "host": host,
        "pid": str(os.getpid()),
        "started": now,
        "stack": stack,
        "tidy_from": str(max(int(now), others + 1)),
        "image": image[:_LONGEST],
    }
    if stack and "ended" not in before and before.get("stack") == stack:
        fields["tidy_from"] = str(tidy_from(before) or fields["tidy_from"])
    if environ.get("SLURM_JOB_ID"):
        fields["job"] = environ["SLURM_JOB_ID"]
    write(descriptor, fields)


def end(descriptor: int) -> None:
    """Note that the writable session has ended and left the image clean."""
    fields = read(descriptor)
    if fields:
        write(descriptor, {**fields, "ended": str(int(time.time()))})


def note_markers(descriptor: int, stamp: str, there: bool) -> None:
    """Write down whether an image has deletion markers, in the state that the stamp is of."""
    fields = read(descriptor)
    fields.update(markers="some" if there else "none", stamp=stamp)
    write(descriptor, fields)


def tidy_from(fields: Mapping[str, str]) -> int:
    """Return the second since which markers are of sessions that are known; 0 when none is told.

    Whoever may write the image may have put there what they like.
    """
    text = fields.get("tidy_from", "")
    return int(text) if text.isdecimal() else 0


def describe(fields: Mapping[str, str]) -> str | None:
    """Return who the last writable session was, in words; None when nobody said."""
    if "user" not in fields or "host" not in fields:
        return None
    words = f"{_plain(fields['user'])} on {_plain(fields['host'])}"
    if "job" in fields:
        words += f", job {_plain(fields['job'])}"
    if fields.get("started", "").isdecimal():
        words += ", since " + clock(int(fields["started"]))
    return words


def clock(seconds: float) -> str:
    """Return a time for a person: today's as 12:34, others as 2024-05-31 12:34."""
    then = time.localtime(min(seconds, 1 << 40))
    form = "%H:%M" if time.localtime()[:3] == then[:3] else "%Y-%m-%d %H:%M"
    return time.strftime(form, then)


def _line(value: object) -> str:
    return str(value).replace("\n", " ")


def _plain(text: str) -> str:
    """Return a word that somebody else wrote without what could mislead a terminal."""
    return "".join(char for char in text[:64] if char.isprintable())
