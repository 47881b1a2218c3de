"""The one exception that the library raises on purpose, and every exit status.

The numbers are those of sysexits.h(3head) where it has a fitting one; 2 is what
argparse and most tools use for a usage error, and 130 is a shell's for Ctrl-C.
"""

from __future__ import annotations

NOT_READY = 1  # overlay-admin doctor found a problem
USAGE = 2  # the command line does not make sense
DAMAGED = 65  # not an overlay, or a damaged one
MISSING = 66  # an input is not there or cannot be read
UNAVAILABLE = 69  # no container engine, or a tool is missing or was ended
INTERNAL = 70  # a bug of ours
CANNOT_CREATE = 73  # no room, no permission, or it exists already
DATA_LOST = 74  # the commands ended well, but what they wrote may be lost
IN_USE = 75  # somebody else has it open: try again later
NOT_ALLOWED = 77  # not writable for the caller, or against the site's rules
CONFIGURATION = 78  # overlay.ini is wrong
INTERRUPTED = 130  # Ctrl-C


class OverlayError(Exception):
    """What went wrong, in words for the person at the terminal.

    what    one sentence that names the file or option concerned
    status  the exit status, one of the constants above
    hint    what to do now, best a command to type; None when there is nothing to say
    """

    def __init__(self, what: str, *, status: int, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.status = status
        self.hint = hint


def nothing_named(line: str) -> OverlayError:
    """Return the error for a command line without an overlay; line is how it is to look."""
    return OverlayError("no overlay is named", status=USAGE, hint=line)


def cannot(path: str, why: str, hint: str | None = None, task: str = "create") -> OverlayError:
    """Return the error for an image that cannot be made, or changed."""
    return OverlayError(
        f"cannot {task} {quote(path)}: {why}; nothing was changed",
        status=CANNOT_CREATE,
        hint=hint,
    )


def reason(error: OSError | ValueError) -> str:
    """Return the words of an OSError without its number and file name.

    A ValueError is that of a name with a NUL byte in it.
    """
    if isinstance(error, ValueError):
        return "it is not a file name"
    return error.strerror or str(error)


def quote(text: object) -> str:
    """Return a path or word as it may stand in a message: one line, and safe to paste.

    Plain words stay as they are, others get the quotes of a POSIX shell; control
    characters and undecodable bytes become $'…' escapes of bash(1), so that no file
    name can forge a second message.
    """
    text = str(text)
    if text and all(char.isalnum() or char in "@%+=:,./-_" for char in text):
        return text
    if text.isprintable():
        return "'" + text.replace("'", "'\\''") + "'"
    escaped = ("\\" + char if char in "'\\" else printable(char) for char in text)
    return "$'" + "".join(escaped) + "'"


def printable(text: str, keep: str = "") -> str:
    """Return text with control characters and undecodable bytes as escapes, but for some.

    For what others have a say in: a tool's words, a setting, what stands in an image. It could
    else forge a line, or rule the terminal that shows it.
    """
    if text.isprintable():
        return text
    return "".join(
        char
        if char.isprintable() or char in keep
        else "".join(f"\\x{byte:02x}" for byte in encoded(char))
        for char in text
    )


def encoded(text: str) -> bytes:
    """Return text as it is written: undecodable bytes as they were.

    What no bytes stand for (JSON can name half of a pair, \\ud800) becomes a question mark.
    """
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="replace")
