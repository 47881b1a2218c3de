"""What environments set when they are activated, found out once in a session."""

from __future__ import annotations

import itertools
import os

from overlay.environment import find, learn
from overlay.environment.activation import Activation
from overlay.errors import CANNOT_CREATE, DAMAGED, MISSING, OverlayError, quote
from overlay.host import process
from overlay.launch.facts import gather
from overlay.launch.learned import learn as learn_session
from overlay.launch.plan import make_plan
from overlay.launch.request import Overlay, Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from overlay.create.kind import Source
    from overlay.environment.learn import Outcome
    from overlay.output import Output
    from overlay.settings.config import Config

_SECONDS = 60  # that an activation may take
_TOLD = 3  # seconds after which it is said that it takes its time


class Wanted:
    """What is to be activated.

    directories  inside, or files that a shell sources; the first comes first
    values       variables that are set besides, by name
    chosen       whether the user has named the directories: what cannot be done is an error then
    found        the environments that are there, for what to type in the place of a mistake
    """

    __slots__ = ("chosen", "directories", "found", "values")

    def __init__(
        self,
        directories: Iterable[str],
        values: Mapping[str, str],
        *,
        chosen: bool,
        found: Iterable[str] = (),
    ) -> None:
        self.directories = list(directories)
        self.values = values
        self.chosen = chosen
        self.found = [one for one in found if one not in self.directories]

    def __str__(self) -> str:
        return " ".join(map(quote, self.directories))


def find_out(
    wanted: Wanted,
    path: str,
    config: Config,
    output: Output,
    *,
    image: str | None,
    binds: Iterable[str] = (),
    otherwise: str = "is not activated",
) -> Activation | None:
    """Return the Activation of environments, and say what is to be said of it.

    path       of the overlay that has them; a session reads it
    image      the base image, None for the one that the session goes on with
    binds      what is bound in the session
    otherwise  what is said of directories where it cannot be found out
    None where it cannot be found out, which is said. Raises OverlayError then for directories that
    the user has chosen.
    """
    try:
        outcome = _ask(wanted, path, config, output, image=image, binds=binds)
    except TimeoutError:
        why = f"it has not ended in {_SECONDS} s"
    except OverlayError as error:
        why = error.what
    else:
        return _told(outcome, wanted, output)
    if wanted.chosen:
        raise OverlayError(
            f"cannot find out what {wanted} sets: {why}",
            status=CANNOT_CREATE,
            hint="without it: --no-activate",
        )
    output.notice(f"{wanted} {otherwise}: {why}", "warning")
    return None


def _ask(
    wanted: Wanted,
    path: str,
    config: Config,
    output: Output,
    *,
    image: str | None,
    binds: Iterable[str],
) -> Outcome:
    """Return what a bash inside says. Raises TimeoutError, and OverlayError when that is not whole."""
    request = Session(
        [Overlay(path, "ro")],
        container=image,
        binds=binds,
        command=learn.words(wanted.directories),
        program=output.program,
    )
    facts = gather(request, config)

    def tell() -> None:
        output.notice(
            f"the activation of {wanted} takes its time: it is run once, to see what it sets,"
            f" and ended after {_SECONDS} s"
        )

    try:
        plan = make_plan(request, config, facts, learn_session(request, facts))
        final = plan.final
        environ = final.environment(config.environ)
        result = plan.do(
            lambda _final: process.ask(final.arguments, environ, _SECONDS, told=(_TOLD, tell))
        )
    finally:
        facts.close()
    outcome = learn.read(
        result.output.encode(errors="surrogateescape"), wanted.directories, wanted.values
    )
    if outcome is None:
        ended = f"it ends with {result.status}"
        raise OverlayError(process.last_line(result.errors, otherwise=ended), status=CANNOT_CREATE)
    return outcome


def _told(outcome: Outcome, wanted: Wanted, output: Output) -> Activation:
    """Return the Activation of an Outcome, and say what is to be said of it."""
    if wanted.chosen:
        _check(outcome, wanted)
    for one in (*outcome.missing, *outcome.nothing):
        output.notice(f"{quote(one)} is not an environment any more, and is not activated")
    if outcome.lost:
        output.notice(
            f"functions and aliases of the activation ({outcome.lost}) cannot be carried: only"
            " variables are"
        )
    names = " ".join(map(quote, outcome.activation.directories))
    if names:
        output.notice(f"activated: {names}; its programs are found in every session")
    return outcome.activation


def check(wanted: Iterable[str], sources: Sequence[Source]) -> None:
    """Refuse what cannot be activated where that is seen before anything is copied.

    sources  all that the overlay is filled with
    Only directories are looked into, and not where a link is on the way. Raises OverlayError.
    """
    if not all(source.is_tree for source in sources):
        return
    for path in wanted:
        holding = [one for one in sources if (path + "/").startswith(one.dest.rstrip("/") + "/")]
        places = [one.path + path[len(one.dest.rstrip("/")) :] for one in holding]
        if any(os.path.realpath(one) != os.path.abspath(one) for one in places):
            continue
        there = list(filter(os.path.lexists, places))
        options = _options(
            one for source in sources for one in find.environments(source.path, source.dest)
        )
        if places and not there:
            raise _missing(path, options)
        try:
            if there and not find.can_be_one(there[-1]):
                raise _not_one(path, options)
        except OSError:
            continue  # said where it is read


def _check(outcome: Outcome, wanted: Wanted) -> None:
    """Refuse what was chosen and cannot be activated. Raises OverlayError."""
    options = _options(wanted.found)
    if outcome.missing:
        raise _missing(outcome.missing[0], options)
    if outcome.nothing:
        raise _not_one(outcome.nothing[0], options)
    if outcome.ended is not None:
        raise OverlayError(
            f"the activation of {quote(outcome.ended)} ends the shell (exit)",
            status=DAMAGED,
            hint="take the exit out of it, or name what it sets: --set NAME=VALUE",
        )
    made = outcome.activation
    if not made.lists and set(made.values) <= set(wanted.values):
        raise _not_one(wanted.directories[0], options)


def _options(environments: Iterable[str]) -> str:
    """Return the options that activate some environments, those of them that are not too many."""
    return " ".join(f"--activate {quote(one)}" for one in itertools.islice(environments, 3))


def _missing(path: str, options: str) -> OverlayError:
    """Return the error for what is not there.

    options  that activate what there is
    """
    return OverlayError(
        f"there is no {quote(path)} in it to activate",
        status=MISSING,
        hint=f"what there is: {options}"
        if options
        else "name the directory as it is called inside: --activate /opt/env",
    )


def _not_one(path: str, options: str) -> OverlayError:
    """Return the error for what is neither an environment nor a file that sets something.

    options  that activate what there is
    """
    above, directory = os.path.split(os.path.dirname(path))
    if directory == "bin" and above != "/" and not options:
        options = f"--activate {quote(above)}"
    return OverlayError(
        f"{quote(path)} is not an environment: neither a venv, a conda prefix, a library of R or a"
        " directory with bin, nor a file in which a shell sets variables",
        status=DAMAGED,
        hint=f"what there is: {options}"
        if options
        else "name its top directory, as it is called inside; or set variables: --set NAME=VALUE",
    )
