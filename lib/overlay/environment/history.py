"""How an overlay came to be what it is: an entry for each time that it was filled or changed.

JSON, {"format": 1, "entries": [...]}, in /.singularity.d/overlay/ID/history.json inside, the oldest
entry first. What is in it may be somebody else's: it is shown, never obeyed.
"""

from __future__ import annotations

import json
import os
import time

from overlay.environment import note as notes
from overlay.environment import secrets
from overlay.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from overlay.environment.base import Base
    from overlay.image.kind import Image

NAME = "history.json"
FORMAT = 1
MOST = 4 << 20  # bytes of all histories of an overlay
_MOST_RECIPE = 1 << 20  # bytes of a file of commands


def entry(
    action: str,
    version: str,
    *,
    command: Sequence[str] = (),
    recipe: bytes | None = None,
    sources: Iterable[str] = (),
    base: Base | None = None,
) -> dict[str, Any]:
    """Return one entry.

    action   what was done, a verb: "create", "update", "resize", "pack"
    version  of ours
    command  the command line
    recipe   the file of commands
    sources  of --from and templates, as they were named
    """
    made: dict[str, Any] = {
        "action": action,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": version,
        "architecture": os.uname().machine,
        "command": secrets.masked_words(command),
    }
    if recipe is not None:
        text = recipe[:_MOST_RECIPE].decode(errors="replace")
        made["recipe"] = secrets.masked(text)
    named = [secrets.masked(source) for source in sources]
    if named:
        made["sources"] = named
    if base is not None:
        made["image"] = {"path": base.path, "size": base.size, "mark": base.mark}
    return made


def data(entries: Iterable[dict[str, Any]]) -> bytes:
    """Return entries as they are written."""
    document = {"format": FORMAT, "entries": list(entries)}
    return (json.dumps(document, indent=1) + "\n").encode("ascii")


def parse(content: bytes) -> tuple[int, list[dict[str, Any]]] | None:
    """Return (format, entries) of what some bytes say; None when they are something else."""
    try:
        # No number of ours has a fraction, and what JSON cannot say again would end --json.
        document = json.loads(content, parse_float=str, parse_constant=str)
        number, entries = document["format"], document["entries"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(number, int) or not isinstance(entries, list):
        return None
    return number, [one for one in entries if isinstance(one, dict)]


def read(image: Image) -> dict[str, tuple[int, list[dict[str, Any]]]]:
    """Return what an overlay says of how it was made: id -> (format, entries)."""
    found = {}
    left = MOST
    for name in notes.ids(image):
        content = image.content_of(notes.path(name, NAME), left)
        history = parse(content) if content is not None else None
        left -= len(content or b"")
        if history is not None:
            found[name] = history
    return found


def recipe(entries: Iterable[dict[str, Any]]) -> str:
    """Return the files of commands of all entries, one after the other, as one for bash.

    Of several each gets a shell of its own, so that neither its exit nor its directory is the
    next one's. What is not in them stands in comments. Empty when there are no commands.
    """
    entries = list(entries)
    texts = [one["recipe"] for one in entries if isinstance(one.get("recipe"), str)]
    texts = [text if text.endswith("\n") else text + "\n" for text in texts if text.strip()]
    if not texts:
        return ""
    lines = []
    for one in entries:
        sources = one.get("sources")
        for source in sources if isinstance(sources, list) else ():
            lines.append(f"# it was also filled with --from {printable(str(source))}\n")
    if any("***" in text for text in texts):
        lines.append("# *** stands for what looked like a secret\n")
    if len(texts) > 1:
        texts = [f"(\n{text}) || exit\n" for text in texts]
    return "".join(lines + texts)
