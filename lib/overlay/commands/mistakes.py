"""What was meant by a command line that cannot be parsed: imported only when that has failed."""

from __future__ import annotations

import argparse
import os
import re

from overlay.errors import USAGE, OverlayError, nothing_named, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SESSIONS = ("mount-overlay", "run-overlay")
_AMOUNT = re.compile(r"\+[\d.]+([KMGT]i?B?)?", re.I)
_UNIT = re.compile(r"[KMGT]i?B?", re.I)
_IMAGE = (".ext3", ".img", ".sqsh", ".squashfs", ".sqfs")


def explained(
    parser: argparse.ArgumentParser, words: list[str], error: OverlayError
) -> OverlayError:
    """Return an error as a person needs it, for the one that a Parser has raised.

    words  the command line
    """
    what = error.what
    end = words.index("--") if "--" in words else len(words)
    if what.startswith("unrecognized arguments: "):
        extra = _extra(parser, words[:end], what.partition(": ")[2].split())
        if end < len(words) and set(extra) <= set(words[end:]):
            return _without_command(parser.prog, words[:end], words[end + 1 :])
        return _error(_unrecognized(extra), _unrecognized_hint(parser, words[:end], extra))
    words = words[:end]
    missing = re.fullmatch(r"argument (\S+): expected (?:one|at least one) argument", what)
    if missing:
        return _without_argument(parser, words, missing[1])
    if what == "the following arguments are required: COMMAND":
        return _error("no command is named", _SUBCOMMANDS)
    if what == "the following arguments are required: DIR":
        return _error("no directory is named", f"the current one: {parser.prog} report .")
    if what == "the following arguments are required: OVERLAY":
        return nothing_named(f"{parser.prog} OVERLAY")
    choice = re.fullmatch(r"argument (\S+): '(.*)' is not one of (.+)", what)
    if choice:
        return _not_one_of(choice[1].split("/")[-1], choice[2], choice[3])
    both = re.fullmatch(r"argument (\S+): not allowed with argument (\S+)", what)
    if both:
        return _error(f"{both[2]} and {both[1]} cannot be given together", "give one of them")
    amount = re.fullmatch(r"(?:argument )?(\S+): '(.*)' (?:is not|has|is zero).*", what)
    if amount:
        return _error(what.removeprefix("argument "), _amount_hint(parser.prog, *amount.groups()))
    return error


def _without_command(program: str, before: list[str], command: list[str]) -> OverlayError:
    """Return the error for a command behind -- where none is taken."""
    if program == "mount-overlay":
        line = " ".join(map(quote, ["run-overlay", *before, "--", *command]))
        return _error("a shell is opened here, no command is run", f"one command: {line}")
    if program.startswith("create-overlay"):
        return _error("a new overlay takes no command", "put the commands into a file: -f FILE")
    return _error("there is nothing to be run here", f"{program} --help")


def _not_one_of(option: str, given: str, known: str) -> OverlayError:
    """Return the error for a word that is not one of those that an option or command may be."""
    words = known.split(", ")
    what = f"{option}: {quote(given)} is not one of {known}"
    if option == "COMMAND":
        what = f"{quote(given)} is not one of the commands {known}"
    hint = f"for example: {option} {words[0]}" if option != "COMMAND" else _SUBCOMMANDS
    return _error(what, _meant(given, words) or hint)


def _amount_hint(program: str, option: str, given: str) -> str | None:
    """Return what to type for an amount that cannot be understood, None when that was said."""
    number = given.replace(",", "").replace("'", "").replace("_", "")
    if number != given and number.isdecimal() and option == "-n":
        thousands = -(-int(number) // 1000)
        return f"-n counts thousands; for {given} files: -n {thousands}"
    if re.fullmatch(r"\d+\s*[dD](ays?)?|\d+\s*s(ec\w*)?", given):
        return f"{option} {re.split('[^0-9]', given)[0]}"
    # What -n is to conda.
    if program == "create-overlay-conda" and re.fullmatch(r"[a-z][\w.-]{3,}", given):
        return f"its name stands behind -o: -o {given}"
    return None


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
        name = first.partition("=")[0]
        if program == "mount-overlay" and name in ("-f", "--file"):
            return "a shell takes no file of commands: run-overlay -o OVERLAY -f FILE"
        other = _OTHER_WORDS.get(program.replace("-conda", ""), {}).get(name)
        if other:
            return f"did you mean {other}?" if other.startswith("-") else other
        known = _options(parser, words)
        return _meant(name, known) or _HINTS.get(program) or f"{program} --help"
    if program in _SESSIONS:
        return _session_hint(program, words, extra)
    if program.startswith("create-overlay"):
        if _AMOUNT.fullmatch(first):
            return f"to make one: -s {quote(first[1:])}; for more room in one: resize-overlay"
        place = words.index(first) if first in words else 0
        if _UNIT.fullmatch(first) and place > 1 and words[place - 2] in ("-s", "-n"):
            return f"number and unit in one word: {words[place - 2]} {words[place - 1]}{first}"
        if program == "create-overlay-conda" and ("=" in first or "-o" in words):
            return "packages are installed inside, when it is made: mount-overlay -o NAME"
        rest = " ".join(quote(word) for word in words if word != first)
        return f"its name stands behind -o: {' '.join(filter(None, [program, rest]))} -o {quote(first)}"
    if program == "resize-overlay":
        amount = next((word for word in words if _AMOUNT.fullmatch(word)), None)
        if amount or re.match(r"\d", first):
            name = next((word for word in words if word.endswith(_IMAGE)), "OVERLAY")
            return f"resize-overlay {quote(name)} -s {quote(amount or first)}"
        return "one overlay at a time: resize-overlay OVERLAY -s +5G"
    if program == "overlay-admin" and "config" in words:
        return f"to see one setting: overlay-admin config | grep {quote(first)}"
    return _HINTS.get(program) or f"{program} --help"


def _options(parser: argparse.ArgumentParser, words: Iterable[str]) -> list[str]:
    """Return the options of a parser, and of the subcommand among the words."""
    found: list[str] = []
    for action in parser._actions:
        found += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            chosen = [made for name, made in action.choices.items() if name in words]
            found += [word for made in chosen for word in _options(made, ())]
    return found


_HINTS = {"list-overlays": "list-overlays DIRECTORY; one overlay: show-overlay OVERLAY"}

_SUBCOMMANDS = (
    "overlay-admin config shows the settings, overlay-admin doctor tries this node,"
    " overlay-admin report DIR counts overlays, overlay-admin pages DIR writes pages"
)

_READ_ONLY = "to open it read-only: -o NAME:ro"
_SESSION = {
    **dict.fromkeys(("-r", "--ro", "--readonly", "--read-only"), _READ_ONLY),
    "-B": "-b",
    "--image": "-c",
    "-i": "-c",
    "--command": "one command: run-overlay -o NAME -- COMMAND",
}

# What other programs call it: -i of mke2fs and df, -f and -y of fsck, -c of tar, -a and -l of ls.
_OTHER_WORDS = {
    "mount-overlay": _SESSION,
    "run-overlay": _SESSION,
    "create-overlay": {"--name": "-o", "--output": "-o", "--inodes": "-n", "-i": "-n", "--image": "-c"},
    "resize-overlay": {"--grow": "-s +SIZE", "--add": "-s +SIZE", "--inodes": "-n", "-i": "-n"},
    "check-overlay": dict.fromkeys(("-f", "-y", "-r", "-p", "--fix"), "--repair"),
    "show-overlay": {"-l": "--files", "-a": "--files", "--list": "--files", "--ls": "--files",
                     "--size": "--du", "-s": "--du", "--usage": "--du"},
    "pack-overlay": {"-f": "--force", "-c": "--compression", "--comp": "--compression", "--name": "-o"},
    "overlay-admin": {"--set": "settings stand in files, such as ~/.config/overlay/overlay.ini; see:"
                               " man overlay.ini", "--fix": "what it says behind do: is yours to type"},
}  # fmt: skip


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
    if program == "mount-overlay" and os.path.isdir(extra[0]):
        return f"it is laid over the base image, not mounted at a place: mount-overlay {typed}"
    if len(extra) == 1 and os.path.isfile(extra[0]) and not os.access(extra[0], os.X_OK):
        return f"a file of commands stands behind -f: run-overlay {typed} -f {quote(extra[0])}"
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
    usual = _EXAMPLES.get(names.split("/")[-1])
    line = f"for example: {used} {usual}" if usual else f"{parser.prog} --help"
    return _error(f"behind {used} there must be {metavar}", line)


_EXAMPLES = {"--bind": "/data", "--file": "job.txt", "--files": "200", "--overlay": "env.ext3",
             "--size": "10G", "--sort": "size"}  # fmt: skip


def check_layer(options: argparse.Namespace, program: str) -> None:
    """Refuse options that go with a layer of the session's own where none is asked for.

    Raises OverlayError (USAGE).
    """
    per_task, tasks = getattr(options, "per_task", False), program == "run-overlay"
    if getattr(options, "keep", None) is not None and not per_task:
        raise _error("--keep goes with --per-task", "add --per-task")
    given = [word for word, value in (("-s", options.size), ("-n", options.files)) if value]
    if given and not per_task and not options.discard_writes:
        raise _error(
            f"{' and '.join(given)} {'go' if given[1:] else 'goes'} with"
            f" {'--per-task or ' if tasks else ''}--discard-writes",
            "to give the overlay itself another size: resize-overlay OVERLAY -s SIZE -n FILES",
        )


def _meant(word: str, known: Iterable[str]) -> str | None:
    """Return the question whether a known word was meant, None when none is near."""
    from difflib import get_close_matches

    names = {name.lstrip("-"): name for name in known if name[1:2] == "-" or name[0] != "-"}
    plain = word.lstrip("-")
    near = [name for name in names if len(plain) > 2 and name.startswith(plain)]
    near = near or get_close_matches(plain, names, 1)
    return f"did you mean {names[near[0]]}?" if near else None
