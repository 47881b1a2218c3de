"""The plan for a session: make_plan() decides, from what it is handed."""

import fnmatch
import os

from overlay import size
from overlay.errors import (
    CANNOT_CREATE,
    DAMAGED,
    NOT_ALLOWED,
    UNAVAILABLE,
    OverlayError,
    quote,
    reason,
)
from overlay.host import places, private
from overlay.launch import engine as engines
from overlay.launch.facts import GPUS, NAMED, decide_writable
from overlay.launch.inside import command_line
from overlay.launch.launchers import is_fakeroot, launcher_path, needs_launchers
from overlay.launch.request import check_twice
from overlay.plan import Plan, Step

# Where the host's files show inside whatever the site binds.
_ALWAYS_VISIBLE = ("/tmp", "/var/tmp", "/proc", "/sys", "/dev")


def check_fakeroot(session, facts):
    """Refuse --fakeroot where it cannot be had, after newgrp(1). Raises OverlayError (UNAVAILABLE).

    newgidmap(1), by which an engine without root gets a range of ids from subgid(5), takes no
    callers whose group is not that of their login.
    """
    if facts.uid == 0 or not is_fakeroot(session, facts):
        return
    import pwd  # asks a server on many sites

    try:
        user, group = pwd.getpwuid(facts.uid), os.getgid()
    except KeyError:
        return
    if group == user.pw_gid or facts.engine.is_setuid():
        return
    try:
        with open("/etc/subgid", encoding="utf-8", errors="replace") as file:
            ranges = [line.partition(":")[0] for line in file]
    except OSError:
        return
    if user.pw_name in ranges or str(facts.uid) in ranges:
        from overlay.host.names import group_name

        own = group_name(user.pw_gid)
        raise OverlayError(
            f"--fakeroot cannot be had while your group is {group_name(group)}: newgidmap wants"
            f" that of your login, {own}",
            status=UNAVAILABLE,
            hint=f"leave the shell of newgrp: exit; or: sg {own} -c '{session.program} …'",
        )


class SessionPlan(Plan):
    """The Plan of a session.

    features  what it needs that not every version of its engine has: see Engine.check()
    """

    def __init__(self, final, *, features=(), **known):
        super().__init__(final, **known)
        self.features = list(features)


def make_plan(session, config, facts):
    """Return the SessionPlan of a session. Pure: all it knows of the machine is in facts.

    Raises OverlayError: USAGE for the same overlay twice, NOT_ALLOWED for :rw on one that
    cannot be written, DAMAGED for an image that was not made as an overlay.
    """
    notices, before, after = [], [], []
    check_twice(facts.images)
    writable, why = decide_writable(session, facts)
    if why:
        notices.append(("notice", f"{quote(facts.images[0].path)} is mounted read-only: {why}"))
    layers = []
    for number, found in enumerate(facts.images):
        if found.lacks_upper:
            raise OverlayError(
                f"{quote(found.path)} holds no upper directory: it was not made as an overlay",
                status=DAMAGED,
                hint="make one with: create-overlay -s SIZE -n FILES",
            )
        layers.append((found.path, writable and number == 0))
    view, inside_only, needed = _view(session, facts)
    if inside_only:
        notices.append(
            (
                "notice",
                f"the host's {quote(facts.cwd)} is not seen inside: it is a directory of"
                " the container",
            )
        )
    elif facts.cwd_in_overlay and facts.cwd in (bind[0] for bind in needed):
        words = f"{quote(facts.cwd)} is the host's inside; an overlay has a directory of this name"
        notices.append(("notice", f"{words}, which is not seen from here"))
    # Only fuse-overlayfs knows the markers, and the engine takes it only for a writable
    # stack: an empty layer on top, which our launcher then makes read-only.
    layer = not writable and facts.markers
    if layer and not facts.launchers:
        notices.append(
            ("warning", "what is written inside is thrown away at the end of the session")
        )
    if writable and facts.plain_directory:
        path = facts.images[0].path
        words = f"{quote(path)} is a directory; what is written goes to {quote(path + '/upper')}"
        notices.append(("notice", words))
        before.append(_make_upper(path, facts.gid))
    binds = [*needed, *facts.binds, *session.binds]
    told = facts.engine.told(session.options, facts.environ)
    away = inside_only or told.contained
    command = _command(session, facts, view, binds, before, after, notices, away)
    launch = engines.Launch(
        facts.base,
        layers,
        binds=binds,
        gpus=[gpu for gpu in GPUS if gpu in session.gpus or gpu in facts.gpus],
        fakeroot=session.fakeroot,
        no_cwd=inside_only,
        layer=layer,
        options=session.options,
        command=command,
        quiet=not session.verbose,
    )
    unset = _cleared(config, facts, view, notices)
    variables = {}
    if facts.environ.get("PWD", facts.cwd) != facts.cwd:
        # Where it finds a name of the shell's inside, the engine does not mount what is there.
        variables["PWD"] = facts.cwd
    if command is None:
        variables |= _prompt(facts.engine, session.title or facts.images[0].path)
        notices.append(("notice", describe(layers, facts)))
        if config["site.message"]:
            notices.append(("message", config["site.message"]))
    if writable and facts.images[0].free:
        _check_limits(facts.images[0], facts, notices)
        _warn_of_room(facts.images[0], config, facts, notices)
    arguments, path_first = facts.engine.arguments(launch), None
    if facts.launchers and facts.launchers.directory is None:
        path_first = launcher_path(session, facts, writable)
    elif facts.launchers and needs_launchers(writable, facts):
        launchers = launcher_path(session, facts, writable)
        arguments = engines.enter(arguments, facts.launchers.directory, launchers)
    if writable and facts.foreign_group is not None and not is_fakeroot(session, facts):
        from overlay.host.names import group_name  # asks a server on many sites

        own, theirs = map(group_name, (facts.gid, facts.foreign_group))
        words = (
            f"inside, your group {quote(own)} is called {quote(theirs)}, as that of the files there"
        )
        notices.append(("detail", words))
        arguments = engines.in_group(arguments, facts.unshare, facts.uid, facts.foreign_group)
    final = Step(
        arguments,
        unset=unset,
        variables=variables,
        path_first=path_first,
        commands=facts.commands.descriptor if facts.commands else None,
    )
    return SessionPlan(
        final,
        notices=notices,
        before=before,
        after=after,
        writable=writable,
        features=facts.engine.features(launch),
    )


def _make_upper(path, group):
    """Return the Step that makes upper/ and work/ in an empty directory.

    The engine would make them with the directory's own group, where that is handed on, and
    could write nothing there: see _foreign_group().
    """
    names = [os.path.join(path, name) for name in ("work", "upper")]

    def make():
        try:
            for name in names:
                os.mkdir(name, 0o755)
                os.chown(name, -1, group)
                os.chmod(name, 0o755)  # not the bit that hands on the group
        except FileExistsError:
            pass  # another session was first
        except OSError as error:
            raise OverlayError(
                f"cannot make {quote(names[-1])}: {reason(error)}", status=CANNOT_CREATE
            ) from None

    return Step(["install", "-d", "-m", "00755", "-g", str(group), *names], action=make)


def _view(session, facts):
    """Return what of the host is seen inside, and what has to be bound for that.

    (a places.View, whether the current directory is the container's, (source, target,
    read-only) of binds)
    """
    told = facts.engine.told(session.options, facts.environ)
    if told.contained:
        return places.View(_bound(session, facts)), False, []
    points = [(path, path) for path in _ALWAYS_VISIBLE]
    if facts.passwd_home and not session.fakeroot:
        points.append((facts.passwd_home, facts.passwd_home))
    view = places.View(points + _bound(session, facts))
    ways = [facts.ways[name] for name in NAMED if name in facts.ways]
    if told.own_home:
        ways = [way for way in ways if way is not facts.ways.get("HOME")]
    needed = [bind for way in ways for bind in view.needed(way, system=True)]
    inside_only = _is_inside_only(facts, view)
    if not inside_only and not told.no_cwd:
        needed += _cwd_binds(facts, view)
    for way in (*facts.bound, *filter(view.leads_out, facts.locations)):
        needed += view.needed(way)
    return view, inside_only, needed


def _bound(session, facts):
    """Return (source, target) of the binds of the site and of the user."""
    texts = (*facts.binds, *session.binds)
    return [point for text in texts for point in places.parse_binds(text)]


def _cwd_binds(facts, view):
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


def _is_inside_only(facts, view):
    """Return whether the current directory means the container's, which the host's would hide.

    One of an overlay gives way where the caller may write the host's: what is written from
    there would otherwise end up in the overlay.
    """
    if view.shows(facts.cwd):
        return False
    hidden = facts.cwd_in_overlay and not facts.cwd_is_mine
    return hidden or places.is_below(facts.cwd, places.SYSTEM) or facts.cwd == "/opt"


def _check_limits(image, facts, notices):
    """Refuse, or warn of, limits of this shell that would end the server of a writable image.

    Raises OverlayError (NOT_ALLOWED).
    """
    most, seconds = facts.limits
    if most is not None and most < image.status.st_size:
        raise OverlayError(
            f"{quote(image.path)} cannot be written here: files may have {size.format_size(most)}"
            f" (ulimit -f), and it has {size.format_size(image.status.st_size)}",
            status=NOT_ALLOWED,
            hint=f"in a shell without that limit, or read-only: -o {quote(image.path)}:ro",
        )
    if seconds is not None:
        words = f"the limit of {seconds} s of processor time (ulimit -t) holds for the overlay's"
        notices.append(
            ("warning", f"{words} server, too; what is being written when it ends is lost")
        )


def _warn_of_room(image, config, facts, notices):
    """Warn when a writable image, or a sparse one's file system, is nearly full."""
    low = config["safety.low"]
    data, files = image.free
    short_of_room, short_of_files = image.is_short(low)
    if short_of_room or short_of_files:
        notices.append(
            (
                "warning",
                f"{quote(image.path)} is nearly full: {size.format_size(data)} and"
                f" {size.format_files(files)} left; for more: resize-overlay {quote(image.path)}"
                + (" -s +SIZE" if short_of_room else " -n +FILES")
                # fuse2fs wants five free blocks before it renames, and so before it deletes.
                + (
                    "; to delete a file, empty it first: truncate -s 0 FILE"
                    if data < 1 << 15
                    else ""
                ),
            )
        )
    growth = min(image.status.st_size - image.status.st_blocks * 512, data)
    if facts.room is not None and growth > facts.room:
        notices.append(
            (
                "warning",
                f"{quote(image.path)} is sparse and may still grow by {size.format_size(growth)},"
                f" but its file system has {size.format_size(facts.room)} left",
            )
        )


def _command(session, facts, view, binds, before, after, notices, away):
    """Return what runs inside, None for a shell; add the binds and steps that it needs.

    away  whether what runs inside begins in another directory
    """
    if session.command is not None:
        return command_line(session.command, session.program, _unseen(session, facts, view))
    if session.commands is None:
        return None
    commands = facts.commands
    if commands.text is not None:
        words = "has" if commands.descriptor is None else "have"
        name = quote(commands.path) if commands.descriptor is None else "the commands"
        notices.append(
            (
                "notice",
                f"{name} {words} Windows line ends or a byte order mark; they are left out",
            )
        )
    if commands.descriptor is not None:
        return ["bash", "--", f"/dev/fd/{commands.descriptor}"]
    if not commands.regular:
        # A pipe such as <(…) has no name to bind; its descriptor is inherited.
        return ["bash", "--", commands.path]
    path = os.path.join(facts.cwd, commands.path)
    way = commands.way or places.Way(path)
    source = way.real
    if commands.text is not None:
        place = private.name(facts.scratch)
        source = os.path.join(place, f"commands.{os.uname().nodename}.{os.getpid()}")
        text = commands.text
        before.append(
            Step(["mkdir", "-p", "-m", "700", place], action=lambda: private.make(facts.scratch))
        )
        before.append(
            Step(
                ["sed", r"1s/^\xef\xbb\xbf//; s/\r$//", way.real],
                output=source,
                action=lambda: private.put(facts.scratch, source, text),
                why="the commands without the carriage returns of Windows",
            )
        )
        after.append(
            Step(["rm", "-f", source], action=lambda: private.leave(facts.scratch, source))
        )
    binds.append((source, view.place_of(way), True))
    if way.links and ".." in path.split("/"):
        return ["bash", "--", view.place_of(way)]  # not all on the way may be there inside
    return ["bash", "--", path if away else commands.path]


def _unseen(session, facts, view):
    """Return the hint for a command that the host has, where that is not what is seen inside."""
    path = os.path.normpath(os.path.join(facts.cwd, session.command[0]))
    if not facts.command_here or view.shows(path):
        return ""
    if places.is_below(path, places.SYSTEM):
        return "this machine has it; inside, the directories of the system are the base image's"
    return f"this machine has it, but it is not seen inside: -b {quote(os.path.dirname(path))}"


def _cleared(config, facts, view, notices):
    """Return the names of the caller's variables that the session does not get."""
    patterns, environ = config["launch.clear"], facts.environ
    cleared = [
        name
        for name in sorted(environ)
        if (name in facts.files and not view.leads_to(facts.files[name]))
        or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if cleared:
        notices.append(("detail", "not passed on from the host: " + " ".join(cleared)))
    # These would add overlays that nobody named on this command line, or set aside the site's lock.
    foreign = [*facts.engine.foreign]
    for setting, names in facts.engine.setting_aside.items():
        foreign += names if config.lock(setting) else ()
    return cleared + [name for name in foreign if name in environ]


def _prompt(engine, path):
    """Return the variables that make the shell's prompt name the overlay."""
    name = os.path.basename(path.rstrip("/"))
    plain = "".join(char if char.isalnum() or char in "-_.+@%=" else "?" for char in name)
    return {engine.variable("PS1"): f"[{plain}] \\w> "}


def describe(layers, facts):
    """Return the line that says what is mounted how, and what room is left."""
    words = []
    for (path, writable), found in zip(layers, facts.images):
        state = "writable" if writable else "read-only"
        if writable and found.free:
            data, files = found.free
            state += f", {size.format_size(data)} and {size.format_files(files)} free"
        words.append(f"{quote(path)} ({state})")
    words.append(quote(os.path.basename(facts.base.rstrip("/"))))
    return " over ".join(words)
