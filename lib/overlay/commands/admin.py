"""overlay-admin: the settings, whether a node is ready, and overlays by owner."""

from __future__ import annotations

import argparse
import json
import os
import textwrap
import time

from overlay import size
from overlay.commands.arguments import (
    Command,
    Parser,
    add_directories,
    add_help,
    add_json,
    add_verbosity,
)
from overlay.errors import NOT_READY, OverlayError, quote
from overlay.settings import config as configuration
from overlay.settings.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace, _MutuallyExclusiveGroup
    from collections.abc import Iterable, Mapping
    from typing import Any

    from overlay.doctor.check import Check
    from overlay.doctor.report import Owner
    from overlay.output import Output
    from overlay.settings.config import Config

    # What there is to say of a setting, as for --json.
    Row = dict[str, Any]


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Run the subcommand that was named."""
    return {"config": _config, "doctor": _doctor, "report": _report}[options.subcommand](
        options, environ, root, output
    )


def _config(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Show every setting, or check a file; return 0, or CONFIGURATION for one that is wrong."""
    if options.check is not None:
        check_file(options.check, environ)
        output.notice(f"{quote(options.check)}: no mistake found")
        return 0
    config = configuration.load(environ, root, output.notice)
    rows: list[Row] = []
    status = 0
    for name in config.names():
        try:
            rows.append(_row(name, config))
        except OverlayError as error:
            rows.append(_row(name, config, typed=False))
            output.error(error)
            status = error.status
    if options.json:
        output.result(json.dumps(rows))
        return status
    width = max(len(row["name"]) + len(row["text"]) for row in rows) + 5 if options.origin else 0
    width = min(width, 60)
    for row in rows:
        line = f"{row['name']} = {row['text']}".rstrip()
        if options.origin:
            locked = ", locked" if row["locked"] else ""
            line = f"{line:<{width}} # {row['origin']}{locked}"
        output.result(line)
    return status


def _row(name: str, config: Config, typed: bool = True) -> Row:
    """Return what there is to say of a setting. Raises OverlayError when its value is wrong."""
    origin = config.origin(name)
    return {
        "name": name,
        "text": " ".join(config.text(name).split("\n")),
        "value": config[name] if typed else None,
        "origin": str(origin),
        "file": origin.file,
        "line": origin.line,
        "locked": config.lock(name) is not None,
    }


def check_file(path: str, environ: Mapping[str, str]) -> None:
    """See whether a file could stand as overlay.ini, or in overlay.d, or as a user's own.

    Raises OverlayError (CONFIGURATION) with file, line and what is allowed.
    """
    config = configuration.Config(environ)
    read_file(config, path)
    configuration.check_locks(config, whole=False)
    configuration.check_limits(config)


_MARKS = {"ok": "32", "warning": "33", "problem": "31;1"}  # colours, ECMA-48


def _doctor(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Show one line for every check, and what to do where it is not well."""
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


_HEADING = ("OWNER", "OVERLAYS", "SIZE", "ON DISK", "USED", "FILES", "NOT CLEAN", "IN USE", "OLD",
            "FULL", "DAMAGED", "UNREADABLE")  # fmt: skip


def _report(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Show the overlays under directories by owner; return the first status that is not 0."""
    from overlay.doctor import report
    from overlay.image.search import Search

    config = configuration.load(environ, root, output.notice)
    statuses = []

    def failed(error: OverlayError) -> None:
        output.error(error)
        statuses.append(error.status)

    def broken(path: str, words: str) -> None:
        output.notice(f"{quote(path)}: {words}", "detail")

    search = Search()
    owners = report.collect(
        report.found(search, options.directories, failed),
        low=config["safety.low"],
        now=time.time(),
        days=options.older,
        broken=broken,
    )
    total = report.total(owners)
    unread = [path for path in search.unreadable if os.path.isdir(path)]
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        output.notice(f"cannot look into {quote(unread[0])}{more}", "warning")
    if options.json:
        found = {
            "owners": [one.as_dictionary() for one in owners],
            "total": total.as_dictionary(),
            "kept_off": total.kept_off,
            "older": options.older,
            "unreadable_directories": unread,
        }
        output.result(json.dumps(found))
    elif options.csv:
        output.result(_csv(owners, report.FIGURES))
    elif owners:
        output.result(_table([*owners, total]))
        output.result(f"\n{size.format_files(total.kept_off)} kept off the file system")
    elif not statuses:
        output.notice("there are no overlays")
    return statuses[0] if statuses else 0


def _csv(owners: Iterable[Owner], figures: Iterable[str]) -> str:
    """Return the owners as comma-separated values, RFC 4180 but for its line ends."""
    import csv
    import io

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("owner", *figures))
    writer.writerows(one.as_dictionary().values() for one in owners)
    return file.getvalue()


def _table(owners: Iterable[Owner]) -> str:
    """Return the owners as a table for a person; columns in which all is 0 are left out."""
    counts = ("not_clean", "in_use", "old", "nearly_full", "damaged", "unreadable")
    rows: list[tuple[str, ...]] = [_HEADING]
    for one in owners:
        sizes = (size.format_size(amount) for amount in (one.size, one.allocated, one.used))
        rows.append(
            (
                quote(one.name),
                size.format_count(one.overlays),
                *sizes,
                size.format_count(one.files),
                *(size.format_count(getattr(one, count)) for count in counts),
            )
        )
    columns = [
        column for column in zip(*rows) if column[0] in _HEADING[:6] or set(column[1:]) != {"0"}
    ]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(
            f"{text:>{width}}" if place else f"{text:<{width}}"
            for place, (text, width) in enumerate(zip(line, widths))
        )
        for line in zip(*columns)
    )


def _add_options(parser: Parser) -> None:
    commands = parser.add_subparsers(
        title="commands", dest="subcommand", metavar="COMMAND", required=True, parser_class=Parser
    )
    for name, (summary, build) in _SUBCOMMANDS.items():
        made = commands.add_parser(
            name, help=summary[0].lower() + summary[1:-1], description=summary
        )
        build(made)
        add_help(made.add_argument_group("general"))


def _add_config_options(parser: Parser) -> None:
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--origin",
        action="store_true",
        help="show too where each value comes from, and whether the site has locked it",
    )
    group.add_argument(
        "--check",
        metavar="FILE",
        help="see whether FILE could stand as overlay.ini, and show nothing else",
    )
    _add_output_options(parser)


def _add_doctor_options(parser: Parser) -> None:
    group = parser.add_argument_group("file systems")
    add_directories(
        group,
        "*",
        "a directory whose file system is tried (default: the current one, and the site's"
        " places for overlays and temporary files)",
    )
    _add_output_options(parser)


def _add_report_options(parser: Parser) -> None:
    group = parser.add_argument_group("overlays")
    add_directories(group, "+", "a directory below which they lie")
    group.add_argument(
        "--older",
        metavar="DAYS",
        type=_days,
        default=90,
        help="count those as old in which nothing was written for so many days (default: 90)",
    )
    group = _add_output_options(parser)
    group.add_argument("--csv", action="store_true", help="print comma-separated values, in bytes")


def _days(text: str) -> int:
    """Return a number of days from the command line."""
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days")
    return int(text)


def _add_output_options(parser: Parser) -> _MutuallyExclusiveGroup:
    """Add the options of what is printed; return a group of those that exclude each other."""
    group = parser.add_argument_group("output")
    forms = group.add_mutually_exclusive_group()
    add_json(forms)
    add_verbosity(group, dry_run=False)
    return forms


_SUBCOMMANDS = {
    "config": ("Show every setting, or check a file of settings.", _add_config_options),
    "doctor": ("See whether this node is ready for overlays.", _add_doctor_options),
    "report": ("Count overlays and what they take, by owner.", _add_report_options),
}


PROGRAMS = {
    "overlay-admin": Command(
        "Show the settings, see whether a node is ready, count overlays by owner.",
        "overlay-admin config --origin\n"
        "overlay-admin doctor /scratch\n"
        "overlay-admin report --older 180 /scratch",
        _add_options,
    ),
}
