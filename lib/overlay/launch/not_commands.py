"""What was meant by something that is not a file of bash commands: imported for an error only."""

from __future__ import annotations

import os
import shlex

from overlay.errors import MISSING, USAGE, OverlayError, printable, quote, reason
from overlay.host.near import meant
from overlay.image.image import kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_OF_A_SHELL = set("|&;<>$`*~")

# How files that are not for bash end -> what runs them.
PROGRAMS = {".py": "python3", ".R": "Rscript", ".pl": "perl", ".jl": "julia"}


def split(text: str) -> list[str]:
    """Return the words of a command that was given as one; bash takes what a shell is needed for."""
    if _OF_A_SHELL.isdisjoint(text):
        try:
            return shlex.split(text)
        except ValueError:
            pass
    return ["bash", "-c", text]


def run_with(file: str) -> list[str]:
    """Return the words that run a file which cannot be executed itself."""
    return [PROGRAMS.get(os.path.splitext(file)[1], "bash"), file]


def installs(path: str) -> str | None:
    """Return the line that installs what a list of packages names, None for other files."""
    name = os.path.basename(path)
    if name.startswith("requirements") and name.endswith(".txt"):
        return f"pip install -r {quote(path)}"
    if name.endswith((".yml", ".yaml")):
        return f"conda env create -f {quote(path)}"
    return None


def unreadable(path: str, program: str, error: OSError | ValueError) -> OverlayError:
    """Return the error for a file of commands that cannot be read.

    program  whose -f it is
    """
    from shutil import which

    hint = None
    if not os.path.lexists(path):
        if " " in path or ("/" not in path and which(path)):
            hint = _as_command(split(path), program)
        hint = hint or meant(path) or "make it first: a text file of bash commands, one a line"
    return OverlayError(
        f"cannot read the command file {quote(path)}: {reason(error)}", status=MISSING, hint=hint
    )


def is_directory(path: str, program: str) -> OverlayError:
    """Return the error for a directory in the place of a file of commands."""
    hint = f"name a file in it: -f {quote(os.path.join(path, 'FILE'))}"
    if program.startswith("create-overlay"):
        hint = f"to fill the overlay with what is in it: --from {quote(path)}"
    return OverlayError(f"the command file {quote(path)} is a directory", status=MISSING, hint=hint)


def in_another_language(path: str, first: bytes, program: str) -> OverlayError:
    """Return the error for a script that is not for bash.

    first  its first line
    """
    return OverlayError(
        f"{quote(path)} begins with {printable(os.fsdecode(first))}, and -f runs bash commands",
        status=USAGE,
        hint=_as_command(run_with(path), program),
    )


def list_of_packages(path: str, program: str) -> OverlayError:
    """Return the error for what pip or conda reads, in the place of a file of commands."""
    line = str(installs(path))
    if not program.startswith("create-overlay"):
        hint = _as_command(split(line), program)
    elif line.startswith("pip"):
        # The base image's own Python may be one that lets nothing be installed into it.
        hint = into_a_file(f"python3 -m venv /opt/env && /opt/env/bin/{line}", program)
    else:
        hint = f"where the base image has conda, {into_a_file(line, program)}"
    return OverlayError(
        f"{quote(path)} is a list of packages, and -f runs bash commands", status=USAGE, hint=hint
    )


def binary(path: str, head: bytes, program: str) -> OverlayError:
    """Return the error for a file that bash takes for a program.

    head  what it begins with
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # the byte order marks of UTF-16
        name = os.path.splitext(path)[0]
        return OverlayError(
            f"{quote(path)} is UTF-16, as Windows writes it, and bash reads UTF-8",
            status=USAGE,
            hint=f"iconv -f UTF-16 -t UTF-8 {quote(path)} >{quote(name + '.utf8')}",
        )
    if kind_of(head) is None:
        started = path if "/" in path else f"./{path}"
        is_program = os.access(path, os.X_OK)
        plain = "name a text file of bash commands, one a line"
        return OverlayError(
            f"{quote(path)} is not a text, and -f runs bash commands",
            status=USAGE,
            hint=_as_command([started], program) if is_program else plain,
        )
    hint = f"run-overlay -o {quote(path)} -f FILE"
    if program == "update-overlay":
        hint = f"update-overlay {quote(path)} -f FILE"
    elif program != "run-overlay":
        hint = f"to fill the new one with what is in it: --from {quote(path)}"
    return OverlayError(
        f"{quote(path)} is an overlay, not a file of commands", status=USAGE, hint=hint
    )


def _as_command(words: Sequence[str], program: str) -> str:
    """Return the hint to give words to a program as one command."""
    line = " ".join(map(quote, words))
    if program == "run-overlay":
        return f"one command stands behind --: run-overlay -o OVERLAY -- {line}"
    if program == "update-overlay":
        return f"one command stands behind --: update-overlay OVERLAY -- {line}"
    return into_a_file(line, program)


def into_a_file(command: str, line: str) -> str:
    """Return the hint to put a command into a file, and name that.

    line  of create-overlay, but for its -f
    """
    return f"-f names a file of commands: echo {quote(command)} >install.txt; {line} -f install.txt"
