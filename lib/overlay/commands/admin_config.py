"""overlay-admin config: every setting, and files that are wrong."""

from __future__ import annotations

import json

from overlay.commands.admin_output import add_output
from overlay.errors import OverlayError, quote
from overlay.settings import config as configuration
from overlay.settings.files import read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping
    from typing import Any

    from overlay.commands.arguments import Parser
    from overlay.output import Output
    from overlay.settings.config import Config

    # What there is to say of a setting, as for --json.
    Row = dict[str, Any]

SUMMARY = "Show every setting, or check a file of settings."


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
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


def add_options(parser: Parser) -> None:
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
    add_output(parser)
