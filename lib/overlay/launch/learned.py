"""What is learned of a session after its Facts: from the overlays themselves, once they are locked."""

from __future__ import annotations

import os

from overlay.errors import UNAVAILABLE, OverlayError
from overlay.host import process
from overlay.image import markers
from overlay.launch.engine import enter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.launch.engine import Launchers
    from overlay.launch.facts import Facts
    from overlay.launch.request import CommandFile, Session
    from overlay.launch.stack import Stack


class Learned:
    """What learn() found.

    markers    whether a layer of a session that only reads has deletion markers
    launchers  the Launchers that come before the engine's helpers; None: none do
    commands   the CommandFile, its text read; None when there is none
    stack      the Stack that our launcher is told; None: it need not be told
    shared     whether others may write the overlay that is written
    not_apart  why files of several layers cannot be told apart; None: they can
    """

    __slots__ = ("commands", "launchers", "markers", "not_apart", "shared", "stack")

    def __init__(
        self,
        *,
        markers: bool = False,
        launchers: Launchers | None = None,
        commands: CommandFile | None = None,
        stack: Stack | None = None,
        not_apart: str | None = None,
        shared: bool = False,
    ) -> None:
        self.stack = stack
        self.not_apart = not_apart
        self.shared = shared
        self.markers = markers
        self.launchers = launchers
        self.commands = commands


def learn(
    session: Session,
    facts: Facts,
    *,
    commands: CommandFile | None = None,
    remember: bool = True,
) -> Learned:
    """Return what the overlays say once they are locked, or are only asked, as Learned.

    commands  what read_input() returned; None: what the Facts have, nothing of it read
    remember  whether what was found is noted on the images
    Raises OverlayError: UNAVAILABLE where --fakeroot cannot be had.
    """
    marked = not facts.writable and any(
        markers.present(image, facts.environ, remember=remember) for image in facts.images
    )
    _check_fakeroot(session, facts)
    launchers = _settled(session, facts, facts.writable or marked)
    stack = not_apart = None
    # Where nothing is written and nothing was deleted, the kernel mounts the stack by itself.
    mixed = facts.writable or facts.told.layer
    if marked or (mixed and any(image.is_file for image in facts.images[1:])):
        from overlay.launch import stack as stacks  # not needed for one overlay

        stack, not_apart = stacks.look(facts, launchers, remember=remember)
    return Learned(
        markers=marked,
        launchers=launchers,
        commands=commands or facts.commands,
        stack=stack,
        not_apart=not_apart,
        shared=facts.writable and launchers is not None and facts.images[0].others_may_write,
    )


def _settled(session: Session, facts: Facts, needed: bool) -> Launchers | None:
    """Return the Launchers of a session: those of its engine, where they can be had.

    needed  whether data or the view depend on them; else they save time only
    Those that cover an engine's own helpers take a namespace, for which a process is started;
    it has not the ids that the engine asks for with --fakeroot.
    """
    launchers = facts.launchers
    if launchers is None or launchers.directory is None:
        return launchers
    if not needed:
        return None
    true = enter(["true"], launchers.directory, launchers.path(writable=facts.writable))
    fakeroot = session.fakeroot or facts.told.fakeroot
    return launchers if not fakeroot and process.succeeds(true, facts.environ) else None


def _check_fakeroot(session: Session, facts: Facts) -> None:
    """Refuse --fakeroot where it cannot be had, after newgrp(1). Raises OverlayError (UNAVAILABLE).

    newgidmap(1), by which an engine without root gets a range of ids from subgid(5), takes no
    callers whose group is not that of their login.
    """
    if facts.uid == 0 or not (session.fakeroot or facts.told.fakeroot):
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
