"""What is different for a session that others join: one plan for all, and each one's part in it."""

from __future__ import annotations

import copy
import os

from overlay.host import places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from overlay.launch.engine import Launch
    from overlay.launch.facts import Facts
    from overlay.launch.inside import Inside
    from overlay.launch.learned import Learned
    from overlay.launch.request import Session


class Joining:
    """What a caller does in a session that others join, too.

    words      the command line inside; None for the engine's own shell
    unset      those of the caller's variables that an engine of their own would not get
    variables  those that it would get beside the others
    same       names of files that must be the same inside
    sources    what of the host is bound
    why_not    why this caller needs a session of their own, in words; None: they do not
    """

    __slots__ = ("same", "sources", "unset", "variables", "why_not", "words")

    def __init__(
        self,
        words: list[str] | None,
        *,
        unset: Iterable[str],
        variables: dict[str, str],
        same: Iterable[str],
        sources: Iterable[str],
        why_not: str | None,
    ) -> None:
        self.words = words
        self.unset = tuple(unset)
        self.variables = variables
        self.same = tuple(same)
        self.sources = tuple(sources)
        self.why_not = why_not


def why_not(
    session: Session, facts: Facts, learned: Learned, inside: Inside, no_cwd: bool
) -> str | None:
    """Return why a session cannot be joined by others, in words; None when it can."""
    layer = learned.markers and not facts.writable
    reasons = {
        "the engine is installed setuid root": facts.engine.is_setuid(),
        "words for the engine (--engine-option) are for one session": bool(session.options),
        "--fakeroot is for one session": session.fakeroot or facts.told.fakeroot,
        "a layer in memory lies on top": facts.told.layer or (layer and not learned.launchers),
        "the host's directories are kept out": facts.told.contained or facts.told.no_cwd,
        "the current directory is one of the container": no_cwd,
        "the base image has no shell": "sh" in facts.lacking,
        "the commands have to be changed first": bool(inside.before),
        "a bind is written in a way that only the engine reads": any(
            set(bind).intersection('\\"') for bind in (*facts.binds, *session.binds)
        ),
        "the name of the current directory would be misread by the engine": (
            ":" in facts.cwd or not facts.cwd.isprintable()
        ),
    }
    return next((words for words, holds in reasons.items() if holds), None)


def for_all(launch: Launch, cwd: str, hold: Sequence[str]) -> Launch:
    """Return a Launch as it is the same for all who join: no name depends on where they are.

    hold  what runs in it
    """
    made = copy.copy(launch)
    made.image = os.path.join(cwd, launch.image)
    made.overlays = [copy.copy(one) for one in launch.overlays]
    for one in made.overlays:
        one.path = os.path.join(cwd, one.path)
    made.binds = [
        ",".join(os.path.join(cwd, part) for part in bind.split(","))
        if isinstance(bind, str)
        else bind
        for bind in launch.binds
    ]
    made.command, made.quiet = list(hold), True
    return made


def sources(launch: Launch) -> Iterator[str]:
    """Yield what of the host is bound in a session."""
    for bind in launch.binds:
        if isinstance(bind, str):
            yield from (source for source, _target in places.parse_binds(bind))
        else:
            yield bind[0]
