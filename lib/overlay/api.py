"""What a site's own scripts may call: settings, new overlays, sessions.

    import os, sys
    sys.path.insert(0, "/share/apps/overlay/1.0/lib")
    from overlay import api

    config = api.load_config(dict(os.environ))
    api.create("env.ext3", size=500 << 20, files=700_000, config=config)
    plan = api.plan_session([("env.ext3", "ro")], command=["python3", "x.py"], config=config)
    print(plan.shell())
    status = api.launch([("env.ext3", "rw")], commands="file.txt", config=config)

Every function raises overlay.errors.OverlayError, whose fields what, hint and status say
what the commands would have said; nothing is printed.
"""

import os

from overlay.create import make
from overlay.create.request import Creation, check_request
from overlay.errors import OverlayError
from overlay.host import process
from overlay.launch.facts import gather
from overlay.launch.plan import make_plan
from overlay.launch.request import Session
from overlay.settings import config as configuration

__all__ = ["OverlayError", "create", "launch", "load_config", "plan_session"]


def load_config(environ, root=None):
    """Return the site's settings for a caller.

    environ  the caller's environment, a dictionary
    root     the tree that holds etc/overlay.ini; None for the one that this file is in
    Its left_out has a line for every file that was not obeyed, because it belongs to somebody
    else or everybody may write it.
    """
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return configuration.load(process.absolute(environ), root or here)


def create(path, *, size, files, config, sparse=False, force=False, notice=lambda text: None):
    """Create an overlay and return a Created: path, size, superblock, allocated.

    path    where; .ext3 is added unless it ends in .ext3 or .img; None for the default name
    size    bytes
    files   how many files it must be possible to make in it
    sparse  whether its blocks are taken only as they are written
    force   whether it may take the place of an overlay
    notice  called with a line when the blocks could not be reserved
    """
    request = Creation(size, files, path=path, sparse=sparse, force=force)
    check_request(request)
    return make.make(request, config, config.environ, notice)


def plan_session(overlays, *, config, **wishes):
    """Return the Plan of a session without locking anything or starting the engine.

    overlays  (path, mode) in the order of the layers, top first; mode "rw", "ro" or None
    wishes    command, commands, container, binds, gpus, fakeroot, options: as Session
    """
    from overlay.launch.run import look_inside

    request = Session(overlays, **wishes)
    facts = gather(request, config, config.environ)
    try:
        look_inside(request, facts, remember=False)
        return make_plan(request, config, facts)
    finally:
        for image in facts.images:
            image.close()


def launch(overlays, *, config, wait=None, output=None, **wishes):
    """Run a session to its end and return its exit status, negative for a signal.

    overlays, wishes  as for plan_session()
    wait              seconds to wait for overlays in use; None not at all
    output            where notices go: an object with notice(text, level) and error(error)
    """
    from overlay.launch.run import run

    request = Session(overlays, **wishes)
    before = process.handlers()
    try:
        return run(request, config, wait=wait, output=output or Silent(), replace=False)
    finally:
        process.set_handlers(before)


class Silent:
    """An output that keeps everything to itself."""

    def notice(self, text, level="notice"):
        """Take a line for the user."""

    def error(self, error):
        """Take an OverlayError that did not end the session."""
