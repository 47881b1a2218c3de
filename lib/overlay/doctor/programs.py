"""The doctor on the programs of the system that are started."""

from __future__ import annotations

import re

from overlay.doctor.check import OK, PATIENCE, PROBLEM, WARNING, Check, known_bad
from overlay.doctor.engine import or_warning
from overlay.errors import OverlayError, quote
from overlay.host import process
from overlay.host.tools import TOOLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from overlay.doctor.check import Node
    from overlay.host.tools import Tool

# What the engine starts, each with what does the same; an engine that is installed setuid root
# can do without.
_HELPERS = {"fuse2fs": None, "fuse-overlayfs": None, "squashfuse_ll": "squashfuse"}


def programs(node: Node) -> Iterator[Check]:
    """Yield the Checks of the programs that the engine and we start."""
    environ, engine = node.environ, node.engine
    for name, other in _HELPERS.items():
        path = engine.helper(name, environ)
        if path is None and other:
            path = engine.helper(other, environ)
        yield _program(TOOLS[name], path, environ, or_warning(engine))
    for name, tool in TOOLS.items():
        if name not in (*_HELPERS, *_HELPERS.values()):
            missing = PROBLEM if tool.essential else WARNING
            yield _program(tool, process.which(name, environ), environ, missing)


def _program(tool: Tool, path: str | None, environ: Mapping[str, str], missing: str) -> Check:
    """Return the Check of one program."""
    if path is None:
        return Check(tool.name, missing, "it is missing", tool.why, f"install {tool.package}")
    if tool.option is None:
        return Check(tool.name, OK, quote(path), tool.why)
    version = _version(tool, path, environ)
    if version is None:
        advice = f"see what it says: {quote(path)} {tool.option}; install {tool.package} anew"
        return Check(tool.name, missing, f"{quote(path)} does not run", tool.why, advice)
    bad = known_bad(tool.name, version)
    words = f"{version}, {quote(path)}"
    return (
        Check(tool.name, bad[0], words, bad[1], bad[2])
        if bad
        else Check(tool.name, OK, words, tool.why)
    )


def _version(tool: Tool, path: str, environ: Mapping[str, str]) -> str | None:
    """Return its version as text, "unknown" when it does not say one, None when it fails."""
    try:
        said = process.ask([path, str(tool.option)], environ, PATIENCE)
    except (OverlayError, TimeoutError):
        return None
    found = re.search(rf"(?:{tool.word})\b.{{0,40}}?(\d+(?:\.\d+)+)", said.output + said.errors)
    return found[1] if found else "unknown" if 0 <= said.status < 126 else None
