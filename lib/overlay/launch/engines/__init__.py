"""Families of container engines: a module each, which is called as the program is, - as _.

Its ENGINE is the class. Only that of the engine that is taken is imported.
"""

from __future__ import annotations

import os
import sys

from overlay.errors import UNAVAILABLE, OverlayError, quote
from overlay.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from overlay.launch.engine import Engine


def find(commands: Sequence[str], environ: Mapping[str, str]) -> Engine:
    """Return the first Engine of a list of names or paths.

    A program of a name that is not known is taken for an Apptainer.
    Raises OverlayError (UNAVAILABLE) when none is here.
    """
    for command in commands:
        path = process.which(command, environ)
        if path:
            names = os.path.realpath(path), path, "apptainer"
            family = next(filter(None, map(_family, map(os.path.basename, names))))
            return family(os.path.abspath(path))
    raise OverlayError(
        f"no container engine found; looked for {', '.join(map(quote, commands)) or 'none'}",
        status=UNAVAILABLE,
        hint="load one, for example: module load apptainer",
    )


def is_inside(environ: Mapping[str, str]) -> bool:
    """Return whether this is the environment of what an engine has started."""
    return "SINGULARITY_CONTAINER" in environ or "APPTAINER_CONTAINER" in environ


def _family(program: str) -> type[Engine] | None:
    """Return the class for a program of a name; None when there is none."""
    name = program.replace("-", "_")
    module = f"{__name__}.{name}"
    # What is known is not looked for: of a build that lasts an upgrade may have taken the files.
    if module not in sys.modules and (
        not name[:1].isalpha() or f"{name}.py" not in os.listdir(os.path.dirname(__file__))
    ):
        return None
    family: type[Engine] = __import__(module, fromlist=["ENGINE"]).ENGINE
    return family
