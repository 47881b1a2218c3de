"""What the modulefiles ask: they know nothing of overlay.ini, and nothing of what may stand in it.

helpers/for-modulefiles prints it when the module is loaded or unloaded.
"""

from __future__ import annotations

from overlay.errors import OverlayError, printable
from overlay.host import process
from overlay.host.path import trusted
from overlay.settings import config as configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def answer(environ: Mapping[str, str], root: str) -> str:
    """Return a line for each thing that there is to say: a word, a blank, and the rest.

    `module NAME`: that is to be loaded, too; `missing COMMANDS`: none of these programs is here,
    and no module brings it; `warning TEXT`: what the user is to be told.
    environ  the caller's environment
    root     the tree that the commands run from
    """
    return "".join(f"{word} {printable(rest)}\n" for word, rest in _said(environ, root))


def _said(environ: Mapping[str, str], root: str) -> Iterator[tuple[str, str]]:
    environ = trusted(environ)
    try:
        config = configuration.load(environ, root)
        for line in config.left_out:
            yield "warning", line
        name = " ".join((config["engine.module"] or "").split())
        commands = config["engine.commands"]
    except OverlayError as error:
        yield "warning", error.what
        return
    if name and name != "none":
        yield "module", name
    elif not name and not any(process.which(command, environ) for command in commands):
        yield "missing", " ".join(commands)
