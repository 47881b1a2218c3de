"""The plan for a session: make_plan() decides, from what it is handed."""

from __future__ import annotations

import os

from overlay import size
from overlay.errors import NOT_ALLOWED, OverlayError, quote
from overlay.host import places
from overlay.launch import engine as engines
from overlay.launch.facts import ENOUGH_MEMORY, GPUS
from overlay.launch.inside import what_runs, with_user_bashrc
from overlay.plan import Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from overlay.host.places import View
    from overlay.image.kind import Image
    from overlay.launch.facts import Facts
    from overlay.launch.joining import Joining
    from overlay.launch.learned import Learned
    from overlay.launch.request import Session
    from overlay.settings.config import Config

    Notice = tuple[str, str]  # (level, text): see Plan

# Where the host's files show inside whatever the site binds.
_ALWAYS_VISIBLE = ("/tmp", "/var/tmp", "/proc", "/sys", "/dev")

NOT_APART = (
    "cp -a, tar and mv can take files of two of these overlays, where they have hard links,"
    " for one file: {}"
)


class SessionPlan(Plan):
    """The Plan of a session, which always has a final Step.

    supervised  whether its overlay is to be looked after
    features    what it needs that not every version of its engine has: see Engine.check()
    joining     of a session that others join: what this caller does in it; None of any other
    """

    final: Step

    def __init__(
        self,
        final: Step,
        *,
        notices: Iterable[Notice],
        before: Iterable[Step],
        after: Iterable[Step],
        writable: bool,
        supervised: bool,
        features: Iterable[str],
        joining: Joining | None = None,
    ) -> None:
        super().__init__(final, notices=notices, before=before, after=after, writable=writable)
        self.supervised = supervised
        self.features = list(features)
        self.joining = joining


# What keeps Python and R from what is installed in the home directory: python(1); R's ?.libPaths
# takes NULL for none.
_NO_USER_SITE = {"PYTHONNOUSERSITE": "1", "R_LIBS_USER": "NULL"}


def make_plan(
    session: Session,
    config: Config,
    facts: Facts,
    learned: Learned,
    *,
    kept: bool = True,
    token: str | None = None,
    hold: Sequence[str] | None = None,
) -> SessionPlan:
    """Return the SessionPlan of a session. Pure: what it knows of the machine, it is handed.

    kept   whether what is written is to be kept, and so looked after
    token  what its processes are known by then, in their environment; None: nothing is started
    hold   what runs in a session that others join, in the place of what is asked for; that is in
           the Plan's joining. None: it is this caller's alone
    Raises OverlayError: NOT_ALLOWED for limits of this shell that would end the server of an
    image, DAMAGED for an image that was not made as an overlay.
    """
    _check_upper(facts)
    first = facts.overlays[0]
    view, no_cwd, needed = _view(session, facts)
    inside = what_runs(session, facts, learned, view, away=no_cwd or facts.told.contained)
    # Only fuse-overlayfs knows the markers, and the engine takes it only for a writable
    # stack: an empty layer on top, which our launcher then makes read-only.
    layer = learned.markers and not facts.writable
    name = _title(session.title or facts.overlays[0].path)
    with_bashrc = inside.words is None and config["launch.bashrc"]
    words = with_user_bashrc(name) if with_bashrc else inside.words
    seen = hold is not None and inside.seen is not None
    launch = engines.Launch(
        facts.base,
        facts.overlays,
        binds=[*needed, *facts.binds, *session.binds, *(() if seen else inside.binds)],
        gpus=[gpu for gpu in GPUS if gpu in session.gpus or gpu in facts.gpus],
        fakeroot=session.fakeroot,
        no_cwd=no_cwd,
        layer=layer,
        options=session.options,
        command=words,
        quiet=not session.verbose,
    )
    cleared = _cleared(config, facts, view)
    made = facts.writable and facts.plain_directory
    supervised = facts.writable and first.image.can_be_unclean and kept
    notices = [
        *facts.belonging.notices,
        *_of_what_is_seen(facts, [source for source, _target, _read_only in needed], no_cwd),
        *_of_what_is_written(facts, learned, layer),
        *_of_memory(facts.limits[2]),
        *inside.notices,
        *([("detail", "not passed on from the host: " + " ".join(cleared))] if cleared else []),
        *(_of_the_shell(config, facts) if inside.words is None else []),
        *(_of_room(first.image, config, facts) if facts.writable else []),
    ]
    unset = cleared + _foreign(config, facts)
    shell = None if inside.words is not None else name
    variables = _variables(config, facts, token if supervised else None, shell)
    joining = None
    if hold is not None:
        from overlay.launch.joining import Joining, for_all, sources, why_not

        launch = for_all(launch, facts.cwd, hold)
        joining = Joining(
            words,
            unset=unset,
            variables=variables,
            same=[inside.seen] if inside.seen is not None else (),
            sources=sources(launch),
            why_not=why_not(session, facts, learned, inside, no_cwd),
        )
        unset, variables = [], {}
    arguments, path_first, more = _started(session, facts, learned, launch)
    before = list(inside.before)
    if made:
        from overlay.launch.upper import make_upper  # for a directory's first session

        before.insert(0, make_upper(first.image, facts.gid))
    final = Step(
        arguments,
        unset=unset,
        variables=variables,
        path_first=path_first,
        why="; ".join(_why(facts, learned, supervised)),
        commands=learned.commands.descriptor if learned.commands else None,
    )
    return SessionPlan(
        final,
        notices=notices + more,
        before=before,
        after=inside.after,
        writable=facts.writable,
        supervised=supervised,
        features=facts.engine.features(launch),
        joining=joining,
    )


def _why(facts: Facts, learned: Learned, supervised: bool) -> Iterator[str]:
    """Yield what goes with the start of the engine, and no shell does."""
    if learned.stack:
        yield learned.stack.why
    if learned.shared:
        from overlay.launch import shield  # of sessions in a group only

        yield shield.WHY
    yield "the overlays are locked meanwhile"
    if supervised:
        yield f"then it is seen that what was written is in {quote(facts.overlays[0].path)}"


def _check_upper(facts: Facts) -> None:
    """Refuse images that were not made as overlays. Raises OverlayError (DAMAGED)."""
    for one in facts.overlays:
        one.image.check_upper()


def _of_what_is_seen(facts: Facts, bound: Sequence[str], no_cwd: bool) -> Iterator[Notice]:
    """Yield what is to be said of a first overlay that is not written, and of the current directory.

    bound   what of the host is bound
    no_cwd  whether the current directory is the container's
    """
    first, cwd = facts.overlays[0], quote(facts.cwd)
    if first.why:
        yield "notice", f"{quote(first.path)} is mounted read-only: {first.why}"
    if no_cwd:
        words = f"the host's {cwd} is not seen inside: it is a directory of the container"
        yield "notice", words
    elif facts.cwd_in_overlay and facts.cwd in bound:
        words = f"{cwd} is the host's inside; an overlay has a directory of this name"
        yield "notice", f"{words}, which is not seen from here"


def _of_what_is_written(facts: Facts, learned: Learned, layer: bool) -> Iterator[Notice]:
    """Yield what is to be said of where it goes that is written inside.

    layer  whether an empty layer in memory lies on top
    """
    if learned.not_apart:
        yield "warning", NOT_APART.format(learned.not_apart)
    if layer and not learned.launchers:
        yield "warning", "what is written inside is thrown away at the end of the session"
    if facts.writable and facts.plain_directory:
        path = facts.overlays[0].path
        words = f"{quote(path)} is a directory; what is written goes to {quote(path + '/upper')}"
        yield "notice", words


def _of_memory(limit: int | None) -> Iterator[Notice]:
    """Yield a warning for a limit under which an engine starts at times only."""
    if limit is not None and limit < ENOUGH_MEMORY:
        yield (
            "warning",
            f"the engine may fail here: a program may have {size.format_size(limit)} of memory"
            f" (ulimit -v), and it wants {size.format_size(ENOUGH_MEMORY)}",
        )


def _of_the_shell(config: Config, facts: Facts) -> Iterator[Notice]:
    """Yield what an interactive shell begins with."""
    yield "notice", describe(facts)
    if config["site.message"]:
        yield "message", config["site.message"]


def _variables(
    config: Config, facts: Facts, token: str | None, shell: str | None
) -> dict[str, str]:
    """Return the variables that the engine gets.

    token  see make_plan()
    shell  what the prompt of a shell says, None where no shell runs inside
    """
    variables: dict[str, str] = {}
    if config["launch.user_site"] == "hide":
        variables |= {facts.engine.variable(name): value for name, value in _NO_USER_SITE.items()}
    if facts.environ.get("PWD", facts.cwd) != facts.cwd:
        # Where it finds a name of the shell's inside, the engine does not mount what is there.
        variables["PWD"] = facts.cwd
    if shell is not None:
        variables[facts.engine.variable("PS1")] = f"[{shell}] \\w> "
    # The engine sources what the overlays set in the order of names, which is nobody's choice.
    for name, value in facts.belonging.variables.items():
        variables.setdefault(facts.engine.variable(name), value)
    if facts.belonging.first:
        name = facts.engine.variable("PREPEND_PATH")
        own = facts.environ.get(name)
        variables[name] = ":".join(filter(None, (own, facts.belonging.first)))
    if token is not None:
        variables[facts.engine.variable("OVERLAY_SESSION")] = token
    return variables


def _started(
    session: Session, facts: Facts, learned: Learned, launch: engines.Launch
) -> tuple[list[str], str | None, list[Notice]]:
    """Return how the engine is started: its command line, what comes first in PATH, and notices."""
    arguments, path_first = facts.engine.arguments(launch), None
    notices: list[Notice] = []
    if learned.launchers:
        # An empty layer in memory that the users ask the engine for stays writable.
        launchers = learned.launchers.path(
            writable=facts.writable or facts.told.layer,
            stack=learned.stack is not None,
            unsynced=session.unsynced,
        )
        if learned.launchers.directory is None:
            path_first = launchers
        else:
            arguments = engines.enter(arguments, learned.launchers.directory, launchers)
    group = facts.foreign_group
    fakeroot = session.fakeroot or facts.told.fakeroot
    if facts.writable and group is not None and facts.unshare and not fakeroot:
        from overlay.host.names import group_name  # asks a server on many sites

        own, theirs = quote(group_name(facts.gid)), quote(group_name(group))
        words = f"inside, your group {own} is called {theirs}, as that of the files there"
        notices.append(("detail", words))
        arguments = engines.in_group(arguments, facts.unshare, facts.uid, group)
    return arguments, path_first, notices


def _view(session: Session, facts: Facts) -> tuple[View, bool, list[tuple[str, str, bool]]]:
    """Return what of the host is seen inside, and what has to be bound for that.

    (a places.View, whether the current directory is the container's, (source, target,
    read-only) of binds)
    """
    if facts.told.contained:
        return places.View(_bound(session, facts)), False, []
    points = [(path, path) for path in _ALWAYS_VISIBLE]
    if facts.passwd_home and not session.fakeroot:
        points.append((facts.passwd_home, facts.passwd_home))
    view = places.View(points + _bound(session, facts))
    ways = [facts.ways[name] for name in places.NAMED if name in facts.ways]
    if facts.told.own_home:
        ways = [way for way in ways if way is not facts.ways.get("HOME")]
    needed = [bind for way in ways for bind in view.needed(way, system=True)]
    inside_only = _is_inside_only(facts, view)
    if not inside_only and not facts.told.no_cwd:
        needed += _cwd_binds(facts, view)
    for way in (*facts.bound, *filter(view.leads_out, facts.locations)):
        needed += view.needed(way)
    return view, inside_only, needed


def _bound(session: Session, facts: Facts) -> list[tuple[str, str]]:
    """Return (source, target) of the binds of the site and of the user."""
    texts = (*facts.binds, *session.binds)
    return [point for text in texts for point in places.parse_binds(text)]


def _cwd_binds(facts: Facts, view: View) -> list[tuple[str, str, bool]]:
    """Return the binds for the current directory, under its own name and the shell's.

    The engine would mount it as well, but not where its name begins with /dev or /proc, and
    after all else, over what is bound in it.
    """
    if facts.cwd == "/":
        return []
    here = (facts.cwd, facts.cwd, False)
    # Some engines cannot bind such a name, and mount the current directory all the same.
    binds = [here] if facts.engine.can_bind(facts.cwd) and not view.shows(facts.cwd) else []
    view.add(facts.cwd)
    return binds + (view.needed(facts.ways["PWD"]) if "PWD" in facts.ways else [])


def _is_inside_only(facts: Facts, view: View) -> bool:
    """Return whether the current directory means the container's, which the host's would hide.

    One of an overlay gives way where the caller may write the host's: what is written from
    there would otherwise end up in the overlay.
    """
    if view.shows(facts.cwd):
        return False
    hidden = facts.cwd_in_overlay and not facts.cwd_is_mine
    return hidden or places.is_below(facts.cwd, places.SYSTEM) or facts.cwd == "/opt"


def _of_room(image: Image, config: Config, facts: Facts) -> Iterator[Notice]:
    """Yield warnings for a writable image: of limits of this shell, and of little room.

    Raises OverlayError (NOT_ALLOWED) for limits that would end its server.
    """
    if image.free is None:
        return
    most, seconds, _memory = facts.limits
    if most is not None and most < image.status.st_size:
        raise OverlayError(
            f"{quote(image.path)} cannot be written here: files may have {size.format_size(most)}"
            f" (ulimit -f), and it has {size.format_size(image.status.st_size)}",
            status=NOT_ALLOWED,
            hint=f"in a shell without that limit, or read-only: -o {quote(image.path)}:ro",
        )
    if seconds is not None:
        words = f"the limit of {seconds} s of processor time (ulimit -t) holds for the overlay's"
        yield "warning", f"{words} server, too; what is being written when it ends is lost"
    data, files = image.free
    short_of_room, short_of_files = image.is_short(config["safety.low"])
    if short_of_room or short_of_files:
        words = (
            f"{quote(image.path)} is nearly full: {size.format_size(data)} and"
            f" {size.format_files(files)} left; for more: resize-overlay {quote(image.path)}"
            f" {'-s +SIZE' if short_of_room else '-n +FILES'}"
        )
        # fuse2fs wants five free blocks before it renames, and so before it deletes.
        if data < 1 << 15:
            words += "; to delete a file, empty it first: truncate -s 0 FILE"
        yield "warning", words
    growth = min(image.status.st_size - image.status.st_blocks * 512, data)
    if facts.room is not None and growth > facts.room:
        yield (
            "warning",
            f"{quote(image.path)} is sparse and may still grow by {size.format_size(growth)},"
            f" but its file system has {size.format_size(facts.room)} left",
        )


def _cleared(config: Config, facts: Facts, view: View) -> list[str]:
    """Return the names of the caller's variables that are not passed on from the host."""
    patterns, environ = config["launch.clear"], facts.environ
    return [
        name
        for name in sorted(environ)
        if (name in facts.files and not view.leads_to(facts.files[name]))
        or any(_matches(name, pattern) for pattern in patterns)
    ]


def _matches(name: str, pattern: str) -> bool:
    """Return whether a name is of a pattern, as fnmatch says it.

    That would compile an expression for each, which takes longer than all else that is planned.
    """
    start, star, rest = pattern.partition("*")
    if rest or "?" in start or "[" in start:
        import fnmatch  # for patterns of a site's own

        return fnmatch.fnmatchcase(name, pattern)
    return name.startswith(start) if star else name == start


def _foreign(config: Config, facts: Facts) -> list[str]:
    """Return the variables for the engine that it does not get.

    They would add overlays that nobody named on this command line, or set aside the site's lock.
    """
    foreign = [*facts.engine.foreign]
    for setting, names in facts.engine.setting_aside.items():
        foreign += names if config.lock(setting) else ()
    return [name for name in foreign if name in facts.environ]


def _title(path: str) -> str:
    """Return the name of an overlay as a prompt may say it, where some letters have a meaning."""
    name = os.path.basename(path.rstrip("/"))
    return "".join(char if char.isalnum() or char in "-_.+@%=" else "?" for char in name)


def describe(facts: Facts) -> str:
    """Return the line that says what is mounted how, and what room is left."""
    words = []
    for one in facts.overlays:
        state = "writable" if one.written else "read-only"
        if one.written and one.image.free:
            data, files = one.image.free
            state += f", {size.format_size(data)} and {size.format_files(files)} free"
        words.append(f"{quote(one.path)} ({state})")
    words.append(quote(os.path.basename(facts.base.rstrip("/"))))
    return " over ".join(words)
