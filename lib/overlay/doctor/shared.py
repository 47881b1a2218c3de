"""The doctor on shared sessions: whether commands can join one here, and what it ends with."""

from __future__ import annotations

import os
import tempfile

from overlay.doctor.check import OK, WARNING, Check
from overlay.host import process
from overlay.host.scratch import scratch_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from overlay.doctor.check import Node

_PATIENCE = 60  # seconds for a session on a slow node
_WHY = "with --share, many commands start in the time of one, and need the memory of one"
_ALONE = "a session of its own: "


def shared(node: Node, run: str) -> Iterator[Check]:
    """Yield the Check of a session that is joined.

    run  the program run-overlay
    """
    with tempfile.TemporaryDirectory(
        prefix="overlay-doctor.", dir=scratch_directory(node.config)
    ) as directory:
        for name in ("upper", "work"):
            os.makedirs(os.path.join(directory, "overlay", name))
        environ = {**node.environ, "OVERLAY_SCRATCH_LOCAL": directory}
        words = [run, "-v", "--share", "-o", f"{directory}/overlay:ro", "--", "/bin/sh", "-c", ":"]
        try:
            result = process.ask(words, environ, _PATIENCE)
            yield _check(result, node, _ends_with(environ))
        except TimeoutError:
            advice = "leave [launch] share = no, and report this as a bug"
            yield Check("a shared session", WARNING, "it did not come about", _WHY, advice)


def _ends_with(environ: Mapping[str, str]) -> str | None:
    """Return what the session there ends with, and end it; None when there is none."""
    import time

    from overlay.host import holders
    from overlay.shared import sessions

    found = sessions.find(environ)
    sessions.let_go(found)
    deadline = time.monotonic() + _PATIENCE
    while any(holders.alive(one.keeper) for one in found) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found[0].scope if found else None


def _check(result: process.Result, node: Node, scope: str | None) -> Check:
    """Return the Check for how a shared session came out.

    scope  what it ends with; None when there was none
    """
    name = "a shared session"
    if result.status == 0 and scope is not None:
        with_ = "you, when nobody was in it for a while" if scope.startswith("user") else scope
        return Check(name, OK, f"a command joined it; it ends with: {with_}", _WHY)
    lines = result.errors.splitlines()
    said = [line.partition(_ALONE)[2] for line in lines if _ALONE in line]
    found = f"each command has a session of its own: {said[0] if said else 'nobody knows why'}"
    wanted = node.config.get("launch.share") == "read"
    return Check(name, WARNING if wanted else OK, found, _WHY, "[launch] share = no")
