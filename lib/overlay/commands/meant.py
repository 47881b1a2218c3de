"""The line that was meant by one that cannot be parsed, whole, so that it can be typed."""

from __future__ import annotations

import os
import re

from overlay.errors import quote
from overlay.host.near import beside
from overlay.launch.not_commands import installs, into_a_file, run_with, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

AMOUNT = re.compile(r"\+?[\d.]+([KMGTP]i?B?)?", re.I)
_UNIT = re.compile(r"[KMGTP]i?B?", re.I)
_IMAGE = (".ext3", ".img", ".sqsh", ".squashfs", ".sqfs")
_BASH = ("", ".sh", ".bash", ".txt", ".job")  # how the names of files of commands end


class Line:
    """What was typed.

    program  the command
    words    what stands before --
    command  what stands behind --; None: there is no --
    extra    those of the words that were not understood, in their order
    """

    def __init__(
        self,
        program: str,
        words: Sequence[str],
        command: Sequence[str] | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        self.program = program
        self.words = list(words)
        self.command = None if command is None else list(command)
        self.extra = list(extra)

    def places(self) -> list[int]:
        """Return where among the words those stand that were not understood."""
        found, end = [], len(self.words)
        # From the end: the same word may be an option's, before.
        for word in reversed(self.extra):
            end = next((at for at in range(end - 1, -1, -1) if self.words[at] == word), end)
            if end < len(self.words):
                found.append(end)
        return found[::-1]

    def understood(self) -> list[str]:
        """Return the words that were understood."""
        places = set(self.places())
        return [word for at, word in enumerate(self.words) if at not in places]

    def whole(self) -> str:
        """Return the line without the words that were not understood."""
        behind = [] if self.command is None else ["--", *self.command]
        return typed([self.program, *self.understood(), *behind])

    def elsewhere(self, directory: str) -> str:
        """Return the line with its command begun in another directory, inside."""
        there = f"cd {quote(directory)} && {typed(self.command or ['COMMAND'])}"
        return typed(["run-overlay", *self.understood(), "--", "bash", "-c", there])

    def overlay(self) -> str:
        """Return the first overlay that is named, without :ro, as it is to be typed."""
        given = _values(self.words, "-o", "--overlay")
        named = [*given, *(word for word in self.words if _is_overlay(word))]
        return (
            quote(_full(named[0]).removesuffix(":ro").removesuffix(":rw")) if named else "OVERLAY"
        )


def typed(words: Iterable[str]) -> str:
    """Return words as they are typed; those in capitals stand for others."""
    return " ".join(map(quote, words))


def _values(words: Sequence[str], *names: str) -> list[str]:
    """Return what an option of some names is given."""
    found = []
    for word, following in zip(words, [*words[1:], ""]):
        if word in names and following:
            found.append(following)
        found += [word[len(name) + 1 :] for name in names if word.startswith(name + "=")]
        if len(word) > 2 and word[:2] in names:
            found.append(word[2:])
    return found


def _without(words: Sequence[str], *names: str) -> list[str]:
    """Return words without an option of some names and what it is given."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in names:
            skip = True
        elif not word.startswith(tuple(f"{name}=" for name in names)):
            kept.append(word)
    return kept


def _plain(word: str) -> str:
    """Return the name of an overlay without :ro."""
    name, _colon, mode = word.rpartition(":")
    return name if mode in ("ro", "rw") else word


def _is_overlay(word: str) -> bool:
    """Return whether a word names an overlay, as far as its name says."""
    name = _plain(word)
    return name.endswith(_IMAGE) or (not os.path.exists(name) and os.path.exists(name + ".ext3"))


def _full(word: str) -> str:
    """Return the name of an overlay with its ending, where only that was left out."""
    name = _plain(word)
    if not os.path.exists(name) and os.path.exists(name + ".ext3"):
        return name + ".ext3" + word[len(name) :]
    return word


def _is_program(word: str) -> bool:
    from shutil import which

    return which(word) is not None


# ------------------------------------------------------------------------------- sessions --


def session(line: Line, read_only: bool = False) -> tuple[str, str]:
    """Return (why, line) for a session's line in which words stand alone.

    read_only  whether its first overlay is to be read only
    """
    kept, overlays, command, reasons = _parted(line)
    if line.command is not None:
        command += line.command
    named = [word for name in overlays for word in ("-o", _full(name))]
    reasons = ["overlays are named with -o"] * bool(named) + reasons
    words = kept + named
    if not (named or _values(kept, "-o", "--overlay")):
        words += ["-o", "OVERLAY"]
    if read_only:
        words = _read_only(words)
    program = line.program
    if command or line.command is not None:
        program = "run-overlay"
        files = _values(words, "-f", "--file")
        if files and line.command is None:
            reasons = ["to hand arguments to a file of commands"]
            words = _without(words, "-f", "--file")
            command = [*run_with(files[0]), *command]
        more = _started(command) if line.command is None else ["--", *command]
        if line.command is None and not files:
            reasons.append(
                "a file of commands stands behind -f"
                if more[0] == "-f"
                else "a command stands behind --"
            )
        words += more
    elif program == "run-overlay" and not _values(words, "-f", "--file"):
        shell = typed(["mount-overlay", *words])
        return "for a shell", f"{shell}; for a file of commands: {typed([program, *words])} -f FILE"
    return ", ".join(reasons), typed([program, *words])


def _parted(line: Line) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return (the words understood, overlays, command, reasons) of a session's line."""
    places = line.places()
    reasons: list[str] = []
    kept: list[str] = []
    overlays: list[str] = []
    command: list[str] = []
    for at, word in enumerate(line.words):
        if at not in places:
            kept.append(word)
            continue
        named = overlays or _values(kept, "-o", "--overlay")
        others = _values(line.words[at:], "-o", "--overlay")
        if word in (":ro", ":rw") and kept and named:
            kept[-1] += word
            reasons.append("no space stands before :ro")
        elif word == "-":
            command += line.words[at + 1 :]
            break
        elif word.startswith("-"):
            pass  # there is no such option
        elif os.path.isdir(word) and not (named or others or command):
            overlays.append(word)  # what is wrong with that, the next line says
        elif line.program == "mount-overlay" and os.path.isdir(word) and named:
            reasons.append("it is laid over the base image, not mounted at a place")
        elif _is_overlay(word) or not (
            named or others or command or os.path.exists(word) or _is_program(word)
        ):
            overlays.append(word)
        elif named:  # what follows is the command's, options included
            command += line.words[at:]
            break
        else:
            command.append(word)
    return kept, overlays, command, reasons


def _read_only(words: list[str]) -> list[str]:
    """Return words whose first overlay is named :ro."""
    at = next((at for at, word in enumerate(words) if word in ("-o", "--overlay")), None)
    if at is None or at + 1 == len(words):
        return words
    return [*words[: at + 1], _plain(_full(words[at + 1])) + ":ro", *words[at + 2 :]]


def _started(command: list[str]) -> list[str]:
    """Return the words that run a command, or a file of commands, with -- or -f."""
    first = command[0]
    if re.match(r"[A-Za-z_]\w*=", first):
        return ["--", "env", *command]
    if len(command) == 1 and " " in first and not os.path.exists(first):
        return ["--", *split(first)]
    if not os.path.isfile(first):
        return ["--", *command]
    if os.access(first, os.X_OK):
        return ["--", first if "/" in first else f"./{first}", *command[1:]]
    if len(command) == 1:
        installed = installs(first)
        if installed:
            return ["--", *installed.split()]
        if os.path.splitext(first)[1] in _BASH:
            return ["-f", first]
    return ["--", *run_with(first), *command[1:]]


# ----------------------------------------------------------------------- the other commands --


def create(line: Line) -> str:
    """Return the hint for a line of create-overlay in which words stand alone."""
    words, extra, kept = line.words, line.extra, line.understood()
    first, place = extra[0], line.places()[0]
    before = words[place - 1] if place else ""
    if first.startswith("+") and AMOUNT.fullmatch(first):
        return f"to make one: -s {quote(first[1:])}; for more room in one: resize-overlay"
    if _UNIT.fullmatch(first) and re.search(r"\d$", before):
        option = words[place - 2] if place > 1 and before[0].isdigit() else ""
        return f"number and unit in one word: {typed(filter(None, [option, before + first]))}"
    files = _values(kept, "-f", "--file")
    if files and before == files[-1] and not os.path.exists(before):
        text = " ".join([before, *extra])
        rest = typed([line.program, *_without(kept, "-f", "--file")])
        return into_a_file(text, rest)
    if files and os.path.isfile(files[-1]) and os.path.isfile(first):
        rest = typed([line.program, *_without(kept, "-f", "--file")])
        both = typed([files[-1], *extra])
        return f"all in one file: cat {both} >install.txt; {rest} -f install.txt"
    source = before.removeprefix("--from=")
    if first.startswith("/") and source in _values(kept, "--from") and ":" not in before:
        kept[len(kept) - 1 - kept[::-1].index(before)] += f":{first}"
        return f"where it goes inside stands behind a colon: {typed([line.program, *kept])}"
    if line.program == "create-overlay-conda" and ("=" in first or first in ("create", "install")):
        name = _values(kept, "-o", "--overlay")
        return (
            "packages are installed inside, when it is made: mount-overlay -o"
            f" {quote(name[0]) if name else 'NAME'}"
        )
    source = next((word for word in extra if _is_source(word)), "")
    if source and not _values(kept, "--from"):
        stem = os.path.basename(source.rstrip("/")).partition(".")[0]
        more = [] if _values(kept, "-o", "--overlay") or not stem else ["-o", stem]
        whole = typed([line.program, "--from", source, *kept, *more])
        return f"to fill it with that: {whole}"
    amounts = [word for word in extra if AMOUNT.fullmatch(word)]
    names = [word for word in extra if word not in amounts]
    for option, long in (("-s", "--size"), ("-n", "--files")):
        if amounts and not _values(kept, option, long):
            kept = (
                [option, amounts.pop(0), *kept]
                if option == "-s"
                else [*kept, option, amounts.pop(0)]
            )
    if _values(kept, "-o", "--overlay"):
        return f"one overlay at a time: {_with_amounts(line.program, kept)}"
    if names:
        kept += ["-o", names[0]]
        return f"its name stands behind -o: {_with_amounts(line.program, kept)}"
    return _with_amounts(line.program, kept)


def _is_source(word: str) -> bool:
    """Return whether a word is more likely what an overlay is filled with than its name."""
    archive = re.search(r"\.(tar|tgz|tar\.\w+|zip)$", word)
    return os.path.isdir(word) or (os.path.isfile(word) and bool(archive))


def _with_amounts(program: str, words: list[str]) -> str:
    """Return a line of create-overlay with a size and a number where neither follows from it."""
    if not _values(words, "--from", "-f", "--file", "-t", "--template"):
        more = ["-s", "10G"] * (not _values(words, "-s", "--size"))
        more += ["-n", "200"] * (not _values(words, "-n", "--files"))
        words = [*more, *words] if len(more) == 4 else [*words, *more]
    return typed([program, *words])


def resize(line: Line) -> str:
    """Return the hint for a line of resize-overlay with words that are more than its overlay."""
    words, extra = line.words, line.extra
    place = line.places()[0]
    before = words[place - 1] if place else ""
    if _UNIT.fullmatch(extra[0]) and re.fullmatch(r"\+?[\d.]+", before):
        option = words[place - 2] if place > 1 else "-s"
        return f"number and unit in one word: {option} {before}{extra[0]}"
    alone = [word for word in _without(words, "-s", "--size", "-n", "--files") if word[0] != "-"]
    amount = next((word for word in alone if AMOUNT.fullmatch(word)), None)
    name = next((word for word in alone if not AMOUNT.fullmatch(word)), "OVERLAY")
    if amount:
        option = "-n" if amount[-1] in "kK" else "-s"
        return f"resize-overlay {quote(_full(name))} {option} {quote(amount)}"
    options = [word for word in words if word not in alone] or ["-s", "+5G"]
    new = _values(words, "-o", "--output")
    if new and alone[1:] and new[-1] in alone and not os.path.exists(_full(new[-1])):
        alone.remove(new[-1])
        options.remove(words[words.index(new[-1]) - 1])
        copy = new[-1].removesuffix(".ext3") + ".ext3"
        resize = typed(["resize-overlay", copy, *options])
        why = "the overlay itself gets another size; to have both"
        return f"{why}: {typed(['cp', _full(alone[0]), copy])} && {resize}"
    return f"one overlay at a time: {typed(['resize-overlay', name, *options])}"


def update(line: Line, overlay: str) -> str:
    """Return the hint for a line of update-overlay with words that are more than its overlay."""
    kept = line.understood()
    if overlay in kept:
        kept.remove(overlay)
    kept = [word for word in kept if word not in ("-o", "--overlay")]  # it is named without
    if not _is_overlay(overlay):  # it may stand behind what is to be done, or not at all
        others = [word for word in line.extra if _is_overlay(word)]
        line.extra = [overlay, *(word for word in line.extra if word not in others)]
        overlay = others[0] if others else "OVERLAY"
    first = line.extra[0]
    line_now = ["update-overlay", _full(overlay), *kept]
    if first in ("undo", "forget"):
        return typed(["update-overlay", f"--{first}", _full(overlay)])
    if AMOUNT.fullmatch(first):
        return typed([*line_now, "-s", first])
    if _is_overlay(first):
        behind = ["--", *line.command] if line.command else []
        return f"one overlay at a time: {typed([*line_now, *behind])}"
    if line.command is not None:
        return typed([*line_now, "--", *line.extra, *line.command])
    if len(line.extra) == 1 and os.path.splitext(first)[1] in _BASH[1:]:
        return typed([*line_now, "-f", first])  # it may not be there yet
    near = None if os.path.exists(first) or len(line.extra) > 1 else beside(first)
    if near:
        return typed([*line_now, "-f", near])
    return typed([*line_now, *_started(line.extra)])


def less(line: Line, given: str) -> str | None:
    """Return the -s and the size that an overlay has with so much less, None when that is not known.

    given  what was typed, with a minus before it
    """
    from overlay import size

    name = _full(line.overlay())
    try:
        now, off = os.stat(name).st_size, size.parse_size(given.removeprefix("-"))
    except (OSError, ValueError):
        return None
    if line.program != "resize-overlay" or off >= now or not _values(line.words, "-s", "--size"):
        return None
    return f"resize-overlay {name} -s {size.mebibytes(now - off)}"
