"""What is in overlays that can be exposed: asked of a session of them, as the commands will start it."""

from __future__ import annotations

import shlex

from overlay.environment import history
from overlay.environment import note as notes
from overlay.environment.activation import parse
from overlay.errors import UNAVAILABLE, OverlayError
from overlay.host import process
from overlay.launch import engines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from overlay.image.kind import Image

# An image may be made to keep us busy: by a program of a terabyte without a line, or by millions.
_MOST = 1 << 26  # bytes that are said of programs and kernels
_SECONDS = 60  # of the processor

# Prints three words for each program and kernel of the directories that are named: what it is,
# its path, and the first line of a script, or the file that describes the kernel; `end` at the end.
_ASK = r"""
for place; do
    for file in "$place"/*; do
        [ -f "$file" ] && [ -x "$file" ] || continue
        first=
        IFS= read -r first 2>/dev/null <"$file" || :
        case $first in '#!'*) ;; *) first= ;; esac
        printf 'program\0%s\0%s\0' "$file" "$first"
    done
    for file in "${place%/*}"/share/jupyter/kernels/*/kernel.json; do
        [ -f "$file" ] && [ -r "$file" ] || continue
        printf 'kernel\0%s\0' "$file"
        head -c 65536 "$file" | tr -d '\0'
        printf '\0'
    done
done
printf 'end\0\0\0'
"""

_OWN = "run-overlay: error: "  # what begins the line that says what is wrong

# Of a history, in the help of a module; the rest is show-overlay's.
_MOST_TIMES = 10
_WIDEST = 200  # characters


class Inside:
    """What was found.

    programs  path of each -> the first line where it is a script, else ""
    kernels   path of each file that describes a kernel of Jupyter -> what is in it
    """

    def __init__(self, programs: Mapping[str, str], kernels: Mapping[str, str]) -> None:
        self.programs = dict(programs)
        self.kernels = dict(kernels)


def directories(images: Iterable[Image]) -> list[str]:
    """Return the directories that what overlays make ready puts first on PATH, the first first."""
    found: dict[str, None] = {}
    for image in images:
        for one in notes.read(image):
            found.update(dict.fromkeys(parse(one.script).lists.get("PATH", ())))
    return [one for one in found if one.startswith("/")]


def ids(images: Iterable[Image]) -> list[str]:
    """Return an id of each overlay, by which it is known inside; none when one carries none."""
    found = [notes.ids(image)[:1] for image in images]
    return [one for some in found for one in some] if all(found) else []


def made(images: Iterable[Image]) -> list[str]:
    """Return how overlays came to be what they are, a line for each of the last times."""
    lines = []
    for image in images:
        for number, entries in history.read(image).values():
            for entry in entries[-_MOST_TIMES:] if number <= history.FORMAT else ():
                words = entry.get("command")
                command = shlex.join(map(str, words)) if isinstance(words, list) else ""
                line = f"{entry.get('when')} {entry.get('action')}: {command}"
                lines.append(line if len(line) <= _WIDEST else f"{line[: _WIDEST - 3]}...")
    return lines


def look(words: Sequence[str], places: Sequence[str], environ: Mapping[str, str]) -> Inside:
    """Return what is in some directories inside.

    words  start a session, up to and with the --
    Raises OverlayError (UNAVAILABLE) when there is none, with what it says.
    """
    script = f"ulimit -t {_SECONDS}\n{{{_ASK}}} | head -c {_MOST}"
    done = process.run([*words, "/bin/sh", "-c", script, "sh", *places], environ)
    parts = done.output.split("\0")
    if done.status or "end" not in parts[::3]:
        own = [line[len(_OWN) :] for line in done.errors.splitlines() if line.startswith(_OWN)]
        why = [*own, process.last_line(done.errors, done.output)][0]
        if not done.status:
            why = "what is in them takes too long to look at"
        what = f"the overlays cannot be opened: {why}"
        raise OverlayError(
            "no session can be started" if engines.is_inside(environ) else what,
            status=UNAVAILABLE,
            hint="see why: mount-overlay -o OVERLAY:ro",
        )
    found: dict[str, dict[str, str]] = {"program": {}, "kernel": {}}
    for kind, path, text in zip(parts[::3], parts[1::3], parts[2::3]):
        # The first of two programs with one name is the one that PATH finds.
        if kind in found:
            found[kind].setdefault(path, text)
    return Inside(found["program"], found["kernel"])
