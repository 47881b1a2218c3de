"""What was meant by a command line that cannot be parsed: imported only when that has failed."""

from __future__ import annotations

import argparse
import os
import re

from overlay.commands import meant
from overlay.commands.other_words import SETTINGS, hint_for
from overlay.errors import USAGE, OverlayError, nothing_named, quote
from overlay.host.near import alike

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from overlay.commands.meant import Line

_SESSIONS = ("mount-overlay", "run-overlay")
_SUBCOMMANDS = (
    "overlay-admin config shows the settings, overlay-admin doctor tries this node,"
    " overlay-admin report DIR counts overlays, overlay-admin pages DIR writes pages"
)
_LIST = "list-overlays DIRECTORY; one overlay: show-overlay OVERLAY"


def explained(
    parser: argparse.ArgumentParser, words: list[str], error: OverlayError
) -> OverlayError:
    """Return an error as a person needs it, for the one that a Parser has raised.

    words  the command line
    """
    what, program = error.what, parser.prog
    end = words.index("--") if "--" in words else len(words)
    command = words[end + 1 :] if end < len(words) else None
    if what.startswith("unrecognized arguments: "):
        extra = _extra(parser, words[:end], what.partition(": ")[2])
        line = meant.Line(program, words[:end], command, extra)
        if extra:
            return _error(_unrecognized(extra), _unrecognized_hint(parser, line))
        return _without_command(line)
    words = words[:end]
    missing = re.fullmatch(r"argument (\S+): expected (?:one|at least one) argument", what)
    if missing:
        return _without_argument(parser, words, missing[1])
    needless = re.fullmatch(r"argument (\S+): ignored explicit argument .*", what)
    if needless:
        return _needless_argument(parser, words, needless[1])
    if what == "the following arguments are required: COMMAND":
        return _error("no command is named", _SUBCOMMANDS)
    if what == "the following arguments are required: DIR":
        return _error(
            "no directory is named", f"the current one: {meant.typed([program, *words])} ."
        )
    if what == "the following arguments are required: OVERLAY":
        return nothing_named(f"{program} OVERLAY")
    choice = re.fullmatch(r"argument (\S+): '(.*)' is not one of (.+)", what)
    if choice:
        return _not_one_of(choice[1].split("/")[-1], choice[2], choice[3])
    both = re.fullmatch(r"argument (\S+): not allowed with argument (\S+)", what)
    if both:
        return _error(f"{both[2]} and {both[1]} cannot be given together", "give one of them")
    amount = re.fullmatch(r"(?:argument )?(\S+): '(.*)' (?:is not|has|is zero).*", what)
    if amount:
        return _wrong_amount(
            meant.Line(program, words), what.removeprefix("argument "), *amount.groups()
        )
    return error


def _error(what: str, hint: str | None) -> OverlayError:
    return OverlayError(what, status=USAGE, hint=hint)


def _without_command(line: Line) -> OverlayError:
    """Return the error for a command behind -- where none is taken."""
    if line.program == "mount-overlay":
        return _error(
            "a shell is opened here, no command is run", f"one command: {meant.session(line)[1]}"
        )
    if line.program.startswith("create-overlay"):
        return _error("a new overlay takes no command", "put the commands into a file: -f FILE")
    return _error("there is nothing to be run here", f"{line.program} --help")


def _not_one_of(option: str, given: str, known: str) -> OverlayError:
    """Return the error for a word that is not one of those that an option or command may be."""
    words = known.split(", ")
    if option == "COMMAND":
        what = f"{quote(given)} is not one of the commands {known}"
        other = _OTHER_COMMANDS.get(given)
        if given.endswith(("-overlay", "-overlays")):
            other = f"it is a command of its own: {given}"
        return _error(what, other or _did_you_mean(given, words) or _SUBCOMMANDS)
    what = f"{option}: {quote(given)} is not one of {known}"
    return _error(what, _did_you_mean(given, words) or f"for example: {option} {words[0]}")


# What overlay-admin is asked for, and other commands do.
_OTHER_COMMANDS = {
    "check": "check-overlay OVERLAY",
    "help": "overlay-admin --help",
    "list": "list-overlays DIRECTORY",
    "settings": "overlay-admin config",
    "show": "show-overlay OVERLAY",
    "version": "overlay-admin --version",
}


def _wrong_amount(line: Line, what: str, option: str, given: str) -> OverlayError:
    """Return the error for an amount that cannot be understood."""
    if re.match(r"-[\d.]", given) and option in ("-s", "-n"):
        return _less_than_nothing(line, option, given)
    return _error(what, _amount_hint(line, option, given))


def _less_than_nothing(line: Line, option: str, given: str) -> OverlayError:
    """Return the error for an amount with a minus before it."""
    noun, example = ("size", "10G") if option in ("-s", "--size") else ("number", "200")
    return _error(
        f"{option} {quote(given)}: a {noun} cannot be less than nothing",
        f"name the new {noun}: {meant.less(line, given) or f'{option} {example}'}",
    )


def _amount_hint(line: Line, option: str, given: str) -> str | None:
    """Return what to type for an amount that cannot be understood, None when that was said."""
    number = given.replace(",", "").replace("'", "").replace("_", "")
    if number != given and number.isdecimal() and option == "-n":
        thousands = -(-int(number) // 1000)
        return f"-n counts thousands; for {given} files: -n {thousands}"
    if given in ("", "+") and any(word == "+" for word in line.words):
        following = line.words[line.words.index("+") + 1 :]
        amount = following[0] if following and meant.AMOUNT.fullmatch(following[0]) else "500"
        return f"nothing stands between + and the amount: {option} +{amount}"
    time = re.fullmatch(r"-?(\d+)\s*([a-z]*)", given.lower())
    if time and option in _TIMES:
        unit = _TIMES[option].get(time[2][:1], 1)
        return f"{option} {int(time[1]) * unit}"
    # What -n is to conda.
    if line.program == "create-overlay-conda" and re.fullmatch(r"[a-z][\w.-]{3,}", given):
        return f"its name stands behind -o: create-overlay-conda -s 10G -n 200 -o {given}"
    return None


# How many of its own units an option takes for those that people give.
_TIMES = {
    "--wait": {"m": 60, "h": 3600, "d": 86400},
    "--older": {"w": 7, "m": 30, "y": 365},
}


def _unrecognized(extra: list[str]) -> str:
    """Return in words what could not be understood."""
    if extra[0].startswith("-") and extra[0] != "-":
        return f"there is no option {quote(extra[0])}"
    return f"cannot understand {meant.typed(extra)} here"


def _extra(parser: argparse.ArgumentParser, words: list[str], said: str) -> list[str]:
    """Return the words that a parser does not know, apart: its message does not part them.

    None are left where only what stands behind -- is not taken.
    """
    if said in words:
        return [said]
    try:
        known = parser.parse_known_args(words)[1]
    except OverlayError:
        known = []
    if known:
        return known
    found = []
    for word in words:
        if said == word or said.startswith(word + " "):
            found.append(word)
            said = said[len(word) + 1 :]
    return found


def _unrecognized_hint(parser: argparse.ArgumentParser, line: Line) -> str:
    program, first = line.program, line.extra[0]
    if first in ("help", "version"):
        return f"{program} --{first}"
    if first.startswith("-") and first != "-":
        return _option_hint(parser, line, first.partition("=")[0])
    if program in _SESSIONS:
        if first in ("umount", "unmount", "exit"):
            return str(hint_for(program, "--unmount"))
        why, whole = meant.session(line)
        return f"{why}: {whole}" if why else whole
    if program.startswith("create-overlay"):
        return meant.create(line)
    if program == "resize-overlay":
        return meant.resize(line)
    if program == "overlay-admin":
        return _admin_hint(line)
    return f"{program} --help"


def _option_hint(parser: argparse.ArgumentParser, line: Line, name: str) -> str:
    """Return what to type for an option that does not exist."""
    program = line.program
    if program == "mount-overlay" and name in ("-f", "--file", "--per-task", "--keep"):
        whole = meant.typed(["run-overlay", *line.words])
        if name in ("-f", "--file"):
            return f"a shell takes no file of commands: {whole}"
        return f"that is for commands: {whole} -- COMMAND"
    alone = [word for word in line.words if not word.startswith("-")]
    if program == "update-overlay" and line.command is None and alone[1:]:
        at = line.words.index(alone[1])
        if at < line.words.index(line.extra[0]):
            whole = meant.typed([program, *line.words[:at], "--", *line.words[at:]])
            return f"a command stands behind --: {whole}"
    if name == "-w" and line.extra[1:] and line.extra[1].startswith("/"):
        name = "--workdir"
    other = hint_for(program.replace("-conda", ""), name)
    if other and other.startswith("-"):
        return f"did you mean {other}?"
    if other:
        read_only = meant.session(line, read_only=True)[1] if program in _SESSIONS else ""
        # Python 3.13 takes what stands behind it for something that is understood.
        at = line.words.index(line.extra[0]) + 1 if line.extra[0] in line.words else 0
        behind = [word for word in line.words[at : at + 1] if at and not word.startswith("-")]
        given = line.extra[1:] or [line.extra[0].partition("=")[2] or "".join(behind)]
        return other.format(
            overlay=line.overlay(),
            word=quote(line.extra[0]),
            line=line.whole(),
            read_only=read_only,
            given=meant.typed(filter(None, given)) or "…",
            elsewhere=line.elsewhere(given[0] or "DIRECTORY"),
        )
    known = _options(parser, line.words)
    if name in known:  # one of a subcommand, before that
        own = [word for word in line.words if not word.startswith("-")]
        rest = [word for word in line.words if word.startswith("-")]
        return f"options stand behind the command: {meant.typed([program, *own, *rest])}"
    if name.startswith("--") and name[1:] in known:
        return f"did you mean {name[1:]}?"
    file = name.lstrip("-")
    if program in _SESSIONS and os.path.isfile(file):
        line.extra[0] = file
        line.words[line.words.index(name)] = file
        return ": ".join(filter(None, meant.session(line)))
    helped = [program, *(word for word in line.words[:1] if program == "overlay-admin"), "--help"]
    usual = _LIST if program == "list-overlays" else " ".join(helped)
    return _did_you_mean(name, known) or usual


def _admin_hint(line: Line) -> str:
    """Return what to type for words behind a subcommand that takes none."""
    last = line.extra[-1]
    if "--check" in line.words:
        file = line.understood()[-1]
        return f"one file at a time: overlay-admin config --check {quote(file)}"
    if last in ("doctor", "report"):
        return f"overlay-admin {last}{' .' if last == 'report' else ''}"
    if "=" in last or line.extra[0] in ("set", "unset", "edit", "lock"):
        return SETTINGS
    return f"to see one setting: overlay-admin config | grep {quote(last)}"


def _options(parser: argparse.ArgumentParser, words: Iterable[str]) -> list[str]:
    """Return the options of a parser, and of the subcommand among the words."""
    return [name for action in _actions(parser, words) for name in action.option_strings]


def _actions(parser: argparse.ArgumentParser, words: Iterable[str]) -> list[argparse.Action]:
    """Return what a parser can do, and the parser of the subcommand among the words."""
    found = list(parser._actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            chosen = [made for name, made in action.choices.items() if name in words]
            found += [one for made in chosen for one in made._actions]
    return found


def _without_argument(
    parser: argparse.ArgumentParser, words: list[str], names: str
) -> OverlayError:
    """Return the error for an option whose argument is missing, or looks like an option."""
    name = names.split("/")[0]
    options = [one for one in _actions(parser, words) if name in one.option_strings]
    metavar = str(options[0].metavar or options[0].dest.upper()) if options else "an argument"
    used = next((word for word in names.split("/") if word in words), name)
    place = words.index(used) + 1 if used in words else len(words)
    given = words[place] if place < len(words) else ""
    if re.match(r"-[\d.]", given):
        return _less_than_nothing(meant.Line(parser.prog, words), used, given)
    usual = _EXAMPLES.get(names.split("/")[-1])
    between = "=" if usual and usual.startswith("-") else " "
    line = f"for example: {used}{between}{usual}" if usual else f"{parser.prog} --help"
    if names.endswith("--template"):
        line = f"{parser.prog} --list-templates"
    return _error(f"behind {used} there must be {metavar}", line)


def _needless_argument(
    parser: argparse.ArgumentParser, words: list[str], names: str
) -> OverlayError:
    """Return the error for an option that takes no argument, and has one."""
    name = names.split("/")[0]
    word = next((word for word in words if word.startswith(tuple(names.split("/")))), name)
    if "=" in word:
        plain = word.partition("=")[0]
        return _error(f"{plain} takes no argument", f"give it alone: {plain}")
    hint = _did_you_mean(word, _options(parser, words))
    return _error(f"there is no option {quote(word)}", hint or f"{parser.prog} --help")


_EXAMPLES = {"--activate": "/opt/env", "--bind": "/data", "--check": "overlay.ini",
             "--compression": "zstd", "--container": "base.sif", "--engine-option": "--cleanenv",
             "--file": "job.txt", "--files": "200", "--from": "data.tar.gz:/data", "--keep": "layers",
             "--html": "report.html", "--older": "90",
             "--output": "all.sqsh", "--overlay": "env.ext3", "--set": "OMP_NUM_THREADS=1",
             "--size": "10G", "--sort": "size", "--versions": "3"}  # fmt: skip


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


def _did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return the question whether a known word was meant, None when none is near."""
    plain = word.lstrip("-")
    names = {name.lstrip("-"): name for name in known if name[1:2] == "-" or name[0] != "-"}
    near = alike(plain, names)
    return f"did you mean {names[near]}?" if near else None
