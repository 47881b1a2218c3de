"""Our launchers for the engine's helpers, and when a session needs them."""

from overlay.host import process
from overlay.launch import engine as engines


def needs_launchers(writable, facts):
    """Return whether data or the view depend on our launchers; else they save time only."""
    return writable or facts.markers


def settle_launchers(session, facts, writable):
    """Do without our launchers where they would take a namespace that cannot be had.

    With --fakeroot the engine asks for ids that such a namespace has not. Starts a process
    for an engine with helpers of its own, and for a session that needs ours.
    """
    launchers = facts.launchers
    if launchers is None or launchers.directory is None or not needs_launchers(writable, facts):
        return
    true = engines.enter(["true"], launchers.directory, launcher_path(session, facts, writable))
    if is_fakeroot(session, facts) or not process.succeeds(true, facts.environ):
        facts.launchers = None


def is_fakeroot(session, facts):
    """Return whether the engine will take a range of ids, by whatever way it is told to."""
    return session.fakeroot or facts.engine.told(session.options, facts.environ).fakeroot


def launcher_path(session, facts, writable):
    """Return the directories of our launchers for a session, with colons between.

    An empty layer in memory that the user asks the engine for stays writable.
    """
    told = facts.engine.told(session.options, facts.environ)
    return facts.launchers.path(writable=writable or told.layer)
