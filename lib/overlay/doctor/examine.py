"""Is this node ready? What can be tried is tried, not looked up.

examine() yields one Check after another, each with why it matters and what to do. The
versions among them are what a report of a bug should begin with.
"""

from overlay.doctor.check import PROBLEM, WARNING, Check
from overlay.doctor.engine import Engine, fuse, namespaces
from overlay.doctor.filesystems import chosen_directories, directory_checks
from overlay.doctor.installation import modulefile, python, system
from overlay.doctor.programs import programs
from overlay.doctor.session import session
from overlay.doctor.site import binds, images, settings
from overlay.errors import OverlayError, quote


def examine(environ, root, directories=()):
    """Yield the Checks of this node.

    environ      the caller's environment
    root         the tree that the commands run from
    directories  those whose file systems are to be tried; without any, the current one and
                 the site's places for overlays and for temporary files
    """
    problems = 0
    for check in _parts(environ, root, directories):
        problems += check.state == PROBLEM
        yield check
    if not problems:
        yield from _guarded("a session", session(environ, root))


def _parts(environ, root, directories):
    """Yield the Checks of everything by itself."""
    yield from _guarded("system", system(environ))
    config, check = settings(environ, root)
    yield check
    engine = Engine(config, environ)
    yield from _guarded("engine", engine.checks)
    yield from _guarded("user namespaces", namespaces(environ, engine))
    yield from _guarded("/dev/fuse", fuse(engine))
    yield from _guarded("programs", programs(environ, engine))
    yield from _guarded("base images", images(config))
    yield from _guarded("binds", binds(config))
    for directory, wanted in chosen_directories(directories, config):
        yield from _guarded(quote(directory), directory_checks(directory, wanted, config, environ))
    yield from _guarded("Python", python())
    yield from _guarded("modulefile", modulefile(environ, root))


def _guarded(name, checks):
    """Yield Checks; what goes wrong while they are made is one more, not the end of all."""
    try:
        yield from checks
    except Exception as error:  # whatever it is, the rest must be told
        words = error.what if isinstance(error, OverlayError) else str(error)
        yield Check(name, WARNING, words, "this could not be looked at", "see what is wrong there")
