"""What was meant by a command line that cannot be parsed: imported only when that has failed."""

from __future__ import annotations

import re

from overlay.errors import USAGE, OverlayError, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

_SESSIONS = ("mount-overlay", "run-overlay")
_AMOUNT = re.compile(r"\+[\d.]+([KMGT]i?B?)?", re.I)
_IMAGE = (".ext3", ".img", ".sqsh", ".squashfs", ".sqfs")


def explained(
    parser: argparse.ArgumentParser, words: list[str], error: OverlayError
) -> OverlayError:
    """Return an error as a person needs it, for the one that a Parser has raised.

    words  the command line, without what stands behind "--"
    """
    what = error.what
    if what.startswith("unrecognized arguments: "):
        extra = _extra(parser, words, what.partition(": ")[2].split())
        return _error(_unrecognized(extra), _unrecognized_hint(parser, words, extra))
    missing = re.fullmatch(r"argument (\S+): expected (?:one|at least one) argument", what)
    if missing:
        return _without_argument(parser, words, missing[1])
    if what == "the following arguments are required: COMMAND":
        return _error("no command is named", f"{parser.prog} config, doctor or report; or --help")
    if what == "the following arguments are required: DIR":
        return _error("no directory is named", f"the current one: {parser.prog} report .")
    if what == "the following arguments are required: OVERLAY":
        return _error("no overlay is named", f"{parser.prog} OVERLAY")
    choice = re.fullmatch(r"argument .+: '(.*)' is not one of (.+)", what)
    if choice:
        return _error(what, _meant(choice[1], choice[2].split(", ")) or error.hint)
    return error


def _error(what: str, hint: str | None) -> OverlayError:
    return OverlayError(what, status=USAGE, hint=hint)


def _unrecognized(extra: list[str]) -> str:
    """Return in words what could not be understood."""
    if extra[0].startswith("-"):
        return f"there is no option {quote(extra[0])}"
    return f"cannot understand {' '.join(map(quote, extra))} here"


def _extra(parser: argparse.ArgumentParser, words: list[str], said: list[str]) -> list[str]:
    """Return the words that a parser does not know, apart: its message does not part them."""
    try:
        return parser.parse_known_args(words)[1] or said
    except OverlayError:
        return said


def _unrecognized_hint(parser: argparse.ArgumentParser, words: list[str], extra: list[str]) -> str:
    program, first = parser.prog, extra[0]
    if first.startswith("-"):
        known = [word for action in parser._actions for word in action.option_strings]
        if program == "mount-overlay" and first in ("-f", "--file"):
            return "a shell takes no file of commands: run-overlay -o OVERLAY -f FILE"
        return _meant(first.partition("=")[0], known) or _HINTS.get(program) or f"{program} --help"
    if program in _SESSIONS:
        return _session_hint(program, words, extra)
    if program.startswith("create-overlay"):
        if _AMOUNT.fullmatch(first):
            return f"to make one: -s {quote(first[1:])}; for more room in one: resize-overlay"
        rest = " ".join(quote(word) for word in words if word != first)
        return f"its name stands behind -o: {' '.join(filter(None, [program, rest]))} -o {quote(first)}"
    if program == "resize-overlay":
        amount = next((word for word in words if _AMOUNT.fullmatch(word)), None)
        if amount or re.match(r"\d", first):
            name = next((word for word in words if word.endswith(_IMAGE)), "OVERLAY")
            return f"resize-overlay {quote(name)} -s {quote(amount or first)}"
        return "one overlay at a time: resize-overlay OVERLAY -s +5G"
    return _HINTS.get(program) or f"{program} --help"


_HINTS = {
    "list-overlays": "list-overlays DIRECTORY; one overlay: show-overlay OVERLAY",
    "overlay-admin config": "to see one setting: overlay-admin config | grep NAME",
}


def _session_hint(program: str, words: list[str], extra: list[str]) -> str:
    """Return what to type for words that stand alone in the line of a session."""
    place = words.index(extra[0]) if extra[0] in words else len(words)
    before, after = words[:place], words[place:]
    named = any(word.startswith(("-o", "--overlay")) for word in before)
    if not named or (len(extra) == 1 and extra[0].partition(":")[0].endswith(_IMAGE)):
        overlay = f"-o {quote(extra[0])}"
        rest = " ".join(map(quote, after[1:]))
        line = " ".join(filter(None, [program, *map(quote, before), overlay, rest]))
        return f"overlays are named with -o: {line}"
    typed = " ".join(map(quote, before))
    if "-f" in before or "--file" in before:
        file = before[before.index("-f" if "-f" in before else "--file") + 1]
        kept = [word for word in before if word not in ("-f", "--file", file)]
        line = " ".join(map(quote, [program, *kept, "--", "bash", file, *after]))
        return f"to hand arguments to a file of commands: {line}"
    return f"a command stands behind --: run-overlay {typed} -- {' '.join(map(quote, after))}"


def _without_argument(
    parser: argparse.ArgumentParser, words: list[str], names: str
) -> OverlayError:
    """Return the error for an option whose argument is missing, or looks like an option."""
    name = names.split("/")[0]
    options = [one for one in parser._actions if name in one.option_strings]
    metavar = str(options[0].metavar or options[0].dest.upper()) if options else "an argument"
    used = next((word for word in names.split("/") if word in words), name)
    place = words.index(used) + 1 if used in words else len(words)
    given = words[place] if place < len(words) else ""
    if re.match(r"-[\d.]", given):
        noun, example = ("size", "10G") if name == "-s" else ("number", "200")
        return _error(
            f"{used} {quote(given)}: a {noun} cannot be less than nothing",
            f"name the new {noun}: {used} {example}",
        )
    return _error(f"behind {used} there must be {metavar}", f"{parser.prog} --help")


def _meant(word: str, known: Iterable[str]) -> str | None:
    """Return the question whether a known word was meant, None when none is near."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]}?" if near else None
