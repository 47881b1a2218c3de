"""Our launchers for the engine's helpers, and when a session needs them."""

import os

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
    if facts.launchers in (None, engines.PATH) or not needs_launchers(writable, facts):
        return
    true = engines.enter(["true"], facts.launchers, launcher_path(session, facts, writable))
    if is_fakeroot(session, facts) or not process.succeeds(true, facts.environ):
        facts.launchers = None


def is_fakeroot(session, facts):
    """Return whether the engine will take a range of ids, by whatever way it is told to."""
    told = session.fakeroot or {"--fakeroot", "-f"}.intersection(session.options)
    return told or f"{facts.engine.prefix}_FAKEROOT" in facts.environ


def launcher_path(session, facts, writable):
    """Return the directories of our launchers for a session, with colons between.

    An empty layer in memory that the user asks the engine for stays writable.
    """
    told = any(word.startswith("--writable-tmpfs") for word in session.options)
    told = told or f"{facts.engine.prefix}_WRITABLE_TMPFS" in facts.environ
    names = ["writable" if writable or told else "read-only"]
    if facts.squashfuse:
        names.append("base")
    return ":".join(os.path.join(engines.LAUNCHERS, name) for name in names)
