"""Is this node ready? What can be tried is tried, not looked up.

examine() yields one Check after another, each with why it matters and what to do. The
versions among them are what a report of a bug should begin with.
"""

from __future__ import annotations

from overlay.doctor import engine, filesystems, installation, programs, site
from overlay.doctor.check import PROBLEM, Node, guarded
from overlay.doctor.session import session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from overlay.doctor.check import Check

# What is looked at, in this order. A topic is a function that yields the Checks of a Node; the
# name stands for it when it cannot be looked at.
TOPICS: tuple[tuple[str, Callable[[Node], Iterator[Check]]], ...] = (
    ("system", installation.system),
    ("settings", site.settings),
    ("engine", engine.checks),
    ("user namespaces", engine.namespaces),
    ("/dev/fuse", engine.fuse),
    ("programs", programs.programs),
    ("base images", site.images),
    ("binds", site.binds),
    ("file systems", filesystems.directories),
    ("Python", installation.python),
    ("modulefile", installation.modulefile),
)


def examine(
    environ: Mapping[str, str], root: str, directories: Sequence[str] = ()
) -> Iterator[Check]:
    """Yield the Checks of this node.

    environ      the caller's environment
    root         the tree that the commands run from
    directories  those whose file systems are to be tried; without any, the current one and
                 the site's places for overlays and for temporary files
    A session is tried when all the rest is without a problem.
    """
    config, settings = site.load(environ, root)
    node = Node(environ, root, config, settings, engine.Engine(config, environ), tuple(directories))
    problems = 0
    for name, topic in TOPICS:
        for check in guarded(name, topic(node)):
            problems += check.state == PROBLEM
            yield check
    if not problems:
        yield from guarded("a session", session(node))
