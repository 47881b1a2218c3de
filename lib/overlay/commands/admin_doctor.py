"""overlay-admin doctor: whether this node is ready."""

from __future__ import annotations

import json
import os
import textwrap

from overlay.commands.admin_output import add_output
from overlay.commands.arguments import add_directories
from overlay.errors import MISSING, NOT_READY, OverlayError, quote
from overlay.image.search import no_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Mapping

    from overlay.commands.arguments import Parser
    from overlay.doctor.check import Check
    from overlay.output import Output

SUMMARY = "See whether this node is ready for overlays."

_MARKS = {"ok": "32", "warning": "33", "problem": "31;1"}  # colours, ECMA-48


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Show one line for every check, and what to do where it is not well."""
    for path in options.directories:
        _check_directory(path)
    from overlay.doctor import examine
    from overlay.doctor.check import OK, WARNING

    checks = examine.examine(environ, root, options.directories)
    if options.json:
        found = list(checks)
        ready = not _problems(found)
        output.result(
            json.dumps({"ready": ready, "checks": [check.as_dictionary() for check in found]})
        )
        return 0 if ready else NOT_READY
    terminal = os.isatty(1) and environ.get("TERM", "dumb") != "dumb"
    width = os.get_terminal_size(1).columns if terminal else 0
    found = []
    for check in checks:
        found.append(check)
        if not (options.quiet and check.state == OK):
            output.result(
                "\n".join(_check_lines(check, width, terminal and "NO_COLOR" not in environ)),
                exact=True,
            )
    problems = _problems(found)
    warnings = sum(check.state == WARNING for check in found)
    if problems:
        words = f"this node is not ready: {_number(problems, 'problem')}, {_number(warnings, 'warning')}"
    else:
        words = f"this node is ready; {_number(warnings, 'warning')}"
    output.result(f"\n{words}")
    return NOT_READY if problems else 0


def _check_directory(path: str) -> None:
    """Refuse what is not a directory. Raises OverlayError (MISSING)."""
    if os.path.isdir(path):
        return
    if os.path.exists(path):
        raise OverlayError(
            f"{quote(path)} is not a directory",
            status=MISSING,
            hint=f"an overlay: check-overlay {quote(path)}; its file system: overlay-admin doctor"
            f" {quote(os.path.dirname(path) or '.')}",
        )
    raise no_directory(path)


def _problems(checks: Iterable[Check]) -> int:
    return sum(check.state == "problem" for check in checks)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


_STATE, _NAME = 9, 26  # widths of the first columns


def _check_lines(check: Check, width: int, colour: bool) -> list[str]:
    """Return the lines of one check.

    width   of the terminal; 0 when lines need not be broken
    """
    state = f"{check.state:<{_STATE}}"
    if colour:
        state = f"\033[{_MARKS[check.state]}m{state}\033[0m"
    lines = [f"{check.name:<{_NAME}}  {_printable(check.found)}"]
    if check.state != "ok":
        lines += [f"  why: {check.why}", f"  do:  {_printable(check.advice or 'nothing')}"]
    if width > 40:
        lines = [
            part
            for number, line in enumerate(lines)
            for part in textwrap.wrap(
                line,
                width - _STATE,
                subsequent_indent=" " * (7 if number else _NAME + 2),
                break_on_hyphens=False,
                break_long_words=False,
            )
        ]
    return [f"{state}{lines[0]}", *(" " * _STATE + line for line in lines[1:])]


def _printable(text: str) -> str:
    """Return text that a program or a file gave, without what could mislead a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def add_options(parser: Parser) -> None:
    group = parser.add_argument_group("file systems")
    add_directories(
        group,
        "*",
        "a directory whose file system is tried (default: the current one, and the site's"
        " places for overlays and temporary files)",
    )
    add_output(parser)
