"""The command lines: one parser a command, from shared groups of options."""

from __future__ import annotations

import argparse

from overlay import __version__, size
from overlay.errors import USAGE, OverlayError, nothing_named, quote
from overlay.output import write_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any, NoReturn

    # A parser, or a group of one.
    Group = argparse._ActionsContainer

# Its words stay what they are, in every language: mistakes knows them, and to look for translations
# takes a millisecond of every start.
vars(argparse).update(_=str, ngettext=lambda one, several, count: one if count == 1 else several)

_WIDTH = 79  # of --help, which fits on a terminal of 80 columns and 24 lines
_COLUMN = 27  # where the texts of the options begin


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises OverlayError (USAGE) instead of printing and ending.

    epilog   what --help ends with
    in_page  options that --help only names, because the manual page explains them
    """

    def __init__(
        self, prog: str, description: str, epilog: str | None = None, in_page: Collection[str] = ()
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.in_page = in_page

    def format_help(self) -> str:
        """Return --help: a line for each option that most people need, the names of the others."""
        named = [word for action in self._actions for word in self._named(action)]
        rows = [row for action in self._actions for row in self._rows(action)]
        parts = [self.format_usage().rstrip(), self.description or "", "", *rows]
        if named:
            parts += _row("also, see the page", " ".join(named))
        if self.epilog:
            parts += ["", self.epilog]
        return "\n".join(parts) + "\n"

    def _named(self, action: argparse.Action) -> list[str]:
        return [word for word in action.option_strings[-1:] if word in self.in_page]

    def _rows(self, action: argparse.Action) -> list[str]:
        """Return the lines of --help for an option, an argument, or all subcommands."""
        if self._named(action) or action.help == argparse.SUPPRESS:
            return []
        if isinstance(action, argparse._SubParsersAction):
            chosen = action._choices_actions
            return [line for one in chosen for line in _row(one.dest, one.help)]
        words = ", ".join(action.option_strings)
        if action.nargs != 0:
            name = action.metavar or action.dest
            words = f"{words} [{name}]" if words and action.nargs == "?" else f"{words} {name}"
        return _row(words.strip(), action.help)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong, as ours."""
        raise OverlayError(message, status=USAGE, hint=f"{self.prog} --help")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Say which words there are, the same in every version of Python."""
        if action.choices is not None and value not in action.choices:
            known = ", ".join(action.choices)
            raise argparse.ArgumentError(action, f"{value!r} is not one of {known}")

    def _print_message(self, message: str, file: object = None) -> None:
        """Print the help or the version the way that results are printed."""
        write_result(message)


class Command:
    """A command line.

    summary   what the command does, a sentence
    examples  lines for --help
    in_page   options that --help only names
    check     called with the environment and the root of the installation; raises OverlayError
              where the site does not offer what the command is for
    """

    def __init__(
        self,
        summary: str,
        examples: str,
        add_options: Callable[[Parser], object],
        parse: Callable[[Parser, Sequence[str]], argparse.Namespace] = Parser.parse_args,
        in_page: Collection[str] = (),
        check: Callable[[Mapping[str, str], str], object] | None = None,
    ) -> None:
        """Take what adds the options to a Parser, and what lets that Parser parse words."""
        self.summary = summary
        self.examples = examples
        self.in_page = in_page
        self.check = check
        self._add_options = add_options
        self._parse = parse

    def parser(self, program: str) -> Parser:
        """Return the Parser for a program."""
        examples = "".join(f"  {line}\n" for line in self.examples.splitlines())
        epilog = f"examples; for more, and all options: man {program}\n{examples.rstrip()}"
        made = Parser(program, self.summary, epilog, ("--help", "--version", *self.in_page))
        self._add_options(made)
        group = made.add_argument_group("general")
        add_help(group)
        group.add_argument(
            "-V",
            "--version",
            action="version",
            version=f"{program} {__version__}",
            help="show the version and exit",
        )
        return made

    def parse(self, program: str, words: Sequence[str]) -> argparse.Namespace:
        """Return the options of a command line, as an argparse.Namespace.

        Raises OverlayError (USAGE).
        """
        parser = self.parser(program)
        try:
            for word in words[: list(words).index("--")] if "--" in words else words:
                if word[:1] == "-" and f"-{word}" in parser._option_string_actions:
                    parser.error(f"unrecognized arguments: {word}")  # -size is not -s ize
            return self._parse(parser, words)
        except OverlayError as error:
            from overlay.commands.mistakes import explained

            raise explained(parser, list(words), error) from None


def _row(words: str, text: str | None) -> list[str]:
    """Return the lines of --help for one thing, its text beside or below its words."""
    import textwrap  # not needed at a start

    first = f"  {words:<{_COLUMN - 3}} "
    lines = textwrap.wrap(text or "", _WIDTH - _COLUMN, break_on_hyphens=False)
    head = [first + lines.pop(0)] if len(first) <= _COLUMN else [first.rstrip()]
    return head + [" " * _COLUMN + line for line in lines]


def parse_mixed(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parse names and options that mix: show-overlay a.ext3 --json b.ext3."""
    return (parser.parse_args if "--" in words else parser.parse_intermixed_args)(words)


class Once(argparse.Action):
    """An option that names one thing: of two, none is left out without a word."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Take the value. Raises OverlayError (USAGE) for a second one."""
        before = getattr(namespace, self.dest)
        if before is not None:
            raise OverlayError(
                f"{option_string} is given twice: {quote(before)} and {quote(values)}",
                status=USAGE,
                hint=f"give it once: {option_string} {quote(before)}",
            )
        setattr(namespace, self.dest, values)


def add_help(group: Group) -> None:
    """Add -h."""
    group.add_argument("-h", "--help", action="help", help="show this help and exit")


def add_overlays(group: Group, text: str = "an overlay") -> None:
    """Add the overlays with their text for --help, and -o, which may stand before each as for a session.

    See parse_overlays().
    """
    group.add_argument("overlays", metavar="OVERLAY", nargs="*", help=text)
    group.add_argument(
        "-o",
        "--overlay",
        metavar="OVERLAY",
        action="append",
        dest="named",
        default=[],
        help="the same as OVERLAY",
    )


def unnamed(program: str, words: Sequence[str], more: str = "") -> OverlayError:
    """Return the error for a command line without an overlay.

    words  those that were typed
    more   what is typed behind the overlay where nothing was typed
    """
    place = list(words).index("--") if "--" in words else len(words)
    line = [program, *map(quote, words[:place]), "OVERLAY", *map(quote, words[place:])]
    return nothing_named(" ".join(line if words else [program, "OVERLAY", *more.split()]))


def parse_overlays(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """Parse overlays and options that mix: those that -o has named come first."""
    options = parse_mixed(parser, words)
    options.overlays = options.named + options.overlays
    return options


def parse_overlay(
    parser: Parser, words: Sequence[str], more: str, behind: Sequence[str] = ()
) -> argparse.Namespace:
    """Parse one overlay and options that mix: options.overlay, and what else stands there.

    more    what is typed behind the overlay where nothing was typed
    behind  "--" and what was typed behind it, which is not parsed
    Raises OverlayError (USAGE) where no overlay is named.
    """
    options = parse_overlays(parser, words)
    if not options.overlays:
        raise unnamed(parser.prog, [*words, *behind], more)
    options.overlay = options.overlays.pop(0)
    return options


def add_verbosity(
    group: Group, dry_run: bool = True, quiet: str = "print errors and warnings only"
) -> None:
    """Add -q with its text for --help, -v, and --dry-run where the command has it."""
    group.add_argument("-q", "--quiet", action="store_true", help=quiet)
    group.add_argument(
        "-v", "--verbose", action="store_true", help="say more, and show each program started"
    )
    if not dry_run:
        return
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be done, for a shell; do nothing",
    )


def add_json(group: Group) -> None:
    """Add --json."""
    group.add_argument("--json", action="store_true", help="print the result as JSON")


class Count(int):
    """A number of files as it was given.

    is_plain  whether without a unit, so that it was thousands
    """

    is_plain = False


def count(text: str) -> Count:
    """Return the Count that a text stands for. Raises ValueError."""
    number = Count(size.parse_count(text))
    number.is_plain = text.replace(".", "").isdecimal()
    return number


def add_sizes(
    group: Group,
    program: str,
    size_text: str,
    files_text: str,
    convert: Callable[[Callable[[str], int]], Callable[[str], Any]] = lambda parse: parse,
) -> None:
    """Add -s (bytes) and -n (a Count) with their texts for --help.

    convert  makes of what parses an amount what parses the option; both raise ValueError
    """
    for option, parse, help_ in (
        (("-s", "--size"), size.parse_size, size_text),
        (("-n", "--files"), count, files_text),
    ):
        kind = _said(option[0], convert(parse), program)
        group.add_argument(*option, metavar=option[1][2:].upper(), type=kind, help=help_)


def _said(option: str, parse: Callable[[str], Any], program: str) -> Callable[[str], Any]:
    """Return what parses a text, and says what is wrong with it as every command does."""

    def said(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise OverlayError(
                f"{option}: {error}", status=USAGE, hint=f"{program} --help"
            ) from None

    return said


def check_one(commands: str | None, command: Sequence[str] | None) -> None:
    """Refuse two things to run. Raises OverlayError (USAGE)."""
    if commands is not None and command is not None:
        raise OverlayError(
            "there are both a file of commands (-f) and a command (after --)",
            status=USAGE,
            hint="give one of them",
        )


def add_activate(group: Group, text: str) -> None:
    """Add --activate with its text for --help, and --no-activate: an empty list."""
    activate = group.add_mutually_exclusive_group()
    activate.add_argument(
        "--activate", metavar="DIR", action="append", type=absolute_path, help=text
    )
    activate.add_argument(
        "--no-activate",
        dest="activate",
        action="store_const",
        const=[],
        help="activate nothing, also when there is exactly one environment",
    )


def absolute_path(text: str) -> str:
    """Return an absolute path inside, in its shortest form. Raises OverlayError (USAGE)."""
    if not text.startswith("/") or ".." in text.split("/") or not text.isprintable():
        raise OverlayError(
            f"--activate: {quote(text)} is not the absolute path of a directory inside",
            status=USAGE,
            hint="as it is called inside the overlay: --activate /opt/env",
        )
    path = "/" + "/".join(filter(lambda part: part not in ("", "."), text.split("/")))
    if path == "/":
        raise OverlayError(
            "--activate: / is all that is inside, not an environment",
            status=USAGE,
            hint="name its top directory: --activate /opt/env",
        )
    return path


def variable(text: str) -> tuple[str, str]:
    """Return the (name, value) that NAME=VALUE stands for. Raises OverlayError (USAGE)."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier() or not name.isascii() or "\0" in value:
        raise OverlayError(
            f"--set: {quote(text)} does not set a variable",
            status=USAGE,
            hint=f"{'--set NAME' if equals else f'--set {quote(text)}'}=VALUE",
        )
    return name, value


def add_container(
    group: Group, text: str = "the base image: a name of the site's, or a path"
) -> None:
    """Add -c with its text for --help."""
    group.add_argument("-c", "--container", metavar="IMAGE", help=text)


def add_binds(
    group: Group, text: str = "bind a path of the host: PATH or PATH:INSIDE[:ro]"
) -> None:
    """Add -b with its text for --help."""
    group.add_argument(
        "-b", "--bind", metavar="SPEC", action="append", dest="binds", default=[], help=text
    )


def add_wait(group: Group, text: str) -> None:
    """Add --wait with its text for --help: seconds, infinity without a number."""
    group.add_argument(
        "--wait", metavar="SECONDS", nargs="?", type=_seconds, const=float("inf"), help=text
    )


def _seconds(text: str) -> float:
    """Return a number of seconds from the command line."""
    if not text.isascii() or not text.replace(".", "", 1).isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return float(text)


def add_directories(group: Group, count: str, text: str) -> None:
    """Add names of directories, as many as count says."""
    group.add_argument("directories", metavar="DIR", nargs=count, help=text)


def add_listing_output(parser: Parser) -> None:
    """Add what is printed how, for the commands that list."""
    group = parser.add_argument_group("output")
    add_json(group)
    add_verbosity(group, dry_run=False, quiet="the result, errors and warnings only")
