"""A Check, the answer to one question about this node, and versions known to be bad."""

from __future__ import annotations

from overlay.errors import OverlayError
from overlay.host.tools import TOOLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from overlay.doctor.engine import Engine
    from overlay.settings.config import Config

OK, WARNING, PROBLEM = "ok", "warning", "problem"

PATIENCE = 20  # seconds that a program may take to say its version


class Node:
    """What every topic may ask of: this node, and how the doctor was called.

    environ      the caller's environment
    root         the tree that the commands run from
    config       the settings; the defaults when they cannot be read
    settings     the Check of the settings
    engine       the Engine
    directories  those whose file systems are to be tried, as they were named
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        root: str,
        config: Config,
        settings: Check,
        engine: Engine,
        directories: Sequence[str] = (),
    ) -> None:
        self.environ = environ
        self.root = root
        self.config = config
        self.settings = settings
        self.engine = engine
        self.directories = directories


def guarded(name: str, checks: Iterable[Check]) -> Iterator[Check]:
    """Yield Checks; what goes wrong while they are made is one more, not the end of all."""
    try:
        yield from checks
    except Exception as error:  # whatever it is, the rest must be told
        words = error.what if isinstance(error, OverlayError) else str(error)
        yield Check(name, WARNING, words, "this could not be looked at", "see what is wrong there")


class Check:
    """One question and its answer.

    name    what was looked at; a directory's begins with its path
    state   OK, WARNING or PROBLEM
    found   what there is, in words
    why     what it is needed for, or what would go wrong
    advice  what to do; None when all is well
    """

    __slots__ = ("advice", "found", "name", "state", "why")

    def __init__(
        self, name: str, state: str, found: str, why: str, advice: str | None = None
    ) -> None:
        self.name = name
        self.state = state
        self.found = found
        self.why = why
        self.advice = advice if state != OK else None

    def as_dictionary(self) -> dict[str, str | None]:
        """Return it for --json."""
        return {name: getattr(self, name) for name in ("name", "state", "found", "why", "advice")}


# Versions that are known to be bad: program, first bad, first good again, why, what to do.
# Sources: the threads that are named.
BAD = (
    ("apptainer", (0,), (1, 1), PROBLEM,
     "it mounts ext3 overlays only when it is installed setuid root", "install 1.1 or newer"),
    ("apptainer", (1, 4, 3), (1, 4, 4), WARNING,
     "it starts no base image that the user may not write (apptainer/apptainer 3163)",
     "install 1.4.4 or newer"),
    ("fuse-overlayfs", (1, 16), (1, 17), WARNING,
     "large files that are rewritten in part were seen to be corrupted"
     " (containers/fuse-overlayfs 475)", "install another version"),
    ("fuse2fs", (1, 47, 3), (2,), WARNING,
     "it mounts no overlay read-only that the user may not write (its issue 244)",
     "install another version; or let users work on copies of others' overlays"),
    ("mksquashfs", (0,), (4, 4), WARNING,
     "it can take a name in an overlay for a command, and pack-overlay refuses it",
     f"install {TOOLS['mksquashfs'].package} 4.4 or newer"),
)  # fmt: skip


def known_bad(name: str, version: str) -> tuple[str, str, str] | None:
    """Return (state, why, advice) of a version that is known to be bad, or None."""
    numbers = tuple(int(part) for part in version.split(".") if part.isdecimal())
    for program, first, good, state, why, advice in BAD:
        if program == name and numbers and first <= numbers < good:
            return state, why, advice
    return None
