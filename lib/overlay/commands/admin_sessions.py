"""overlay-admin sessions: the caller's shared sessions on this node."""

from __future__ import annotations

import json
import os
import time

from overlay.commands.admin_output import add_output
from overlay.errors import IN_USE, OverlayError, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from overlay.commands.arguments import Parser
    from overlay.output import Output
    from overlay.shared.sessions import Shared

SUMMARY = "Show your shared sessions on this node, or end them."

_END = 30  # seconds for the end of sessions that nobody is in
_STOPPED = 2  # the same when something of one is stopped


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Show the sessions, or ask them to end; return IN_USE when some could not end yet."""
    from overlay.shared import sessions

    del root
    found = sessions.find(environ)
    if options.end:
        sessions.let_go(found)
        busy = [one for one in found if one.inside]
        left = _wait([one for one in found if not one.inside])
        if left:
            pids = " ".join(str(one.keeper.pid) for one in left)
            raise OverlayError(
                f"{len(left)} of {len(found)} shared sessions do not end, though nobody is in them"
                f" ({pids})",
                status=IN_USE,
                hint=f"kill -KILL {pids}",
            )
        if busy:
            pids = ", ".join(str(inner.pid) for one in busy for inner in one.inside)
            raise OverlayError(
                f"commands are still in {len(busy)} of {len(found)} shared sessions ({pids})",
                status=IN_USE,
                hint="those end with the last of their commands",
            )
        output.notice(f"ended: {len(found)}")
    elif options.json:
        output.result(json.dumps([_row(one) for one in found]))
    elif found:
        for one in found:
            output.result(_text(one))
    else:
        output.notice("there are no shared sessions")
    return 0


def _wait(found: list[Shared]) -> list[Shared]:
    """Wait until sessions have ended, but not for ever; return those that have not."""
    from overlay.host import holders

    begun = time.monotonic()
    while found:
        waited = time.monotonic() - begun
        stopped = waited >= _STOPPED and any(holders.is_stopped(one.keeper.pid) for one in found)
        if waited >= _END or stopped:
            break
        time.sleep(0.02)
        found = [one for one in found if holders.alive(one.keeper)]
    return found


def _row(one: Shared) -> dict[str, object]:
    """Return what there is to say of a session, for --json."""
    return {
        "process": one.keeper.pid,
        "since": one.keeper.started,
        "overlays": one.record.overlays,
        "image": one.record.image,
        "ends_with": one.scope,
        "commands": [{"process": inner.pid, "command": inner.command} for inner in one.inside],
    }


def _text(one: Shared) -> str:
    """Return the lines of a session."""
    from overlay.image.record import clock

    overlays = ", ".join(map(quote, one.record.overlays))
    image = quote(os.path.basename(one.record.image.rstrip("/")))
    lines = [
        f"{overlays} over {image}",
        f"    process {one.keeper.pid} since {clock(one.keeper.started)}, ends with: {one.scope}",
    ]
    lines += [f"    in it: {inner.pid} {quote(inner.command)}" for inner in one.inside]
    return "\n".join(lines if one.inside else [*lines, "    nobody is in it"])


def add_options(parser: Parser) -> None:
    """Add the options of overlay-admin sessions."""
    parser.add_argument(
        "--end",
        action="store_true",
        help="end them, those that somebody is in with the last of their commands",
    )
    add_output(parser)
