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

from __future__ import annotations

from overlay.create import make
from overlay.create.policy import check_place, check_policy, check_room, room_for
from overlay.create.request import Creation, check_request
from overlay.errors import OverlayError
from overlay.host import foreground
from overlay.host.path import trusted
from overlay.launch.request import Overlay, Session
from overlay.settings import config as configuration
from overlay.settings.files import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from overlay.create.request import Created
    from overlay.output import Listener
    from overlay.plan import Plan
    from overlay.settings.config import Config

__all__ = ["OverlayError", "create", "launch", "load_config", "plan_session"]


def load_config(environ: Mapping[str, str], root: str | None = None) -> Config:
    """Return the site's settings for a caller.

    environ  the caller's environment, a dictionary
    root     the tree that holds etc/overlay.ini; None for the one that this file is in
    Its left_out has a line for every file that was not obeyed, because it belongs to somebody
    else or everybody may write it.
    """
    return configuration.load(trusted(environ), root or tree())


def create(
    path: str | None,
    *,
    size: int,
    files: int,
    config: Config,
    sparse: bool = False,
    force: bool = False,
    notice: Callable[[str], object] = lambda text: None,
) -> Created:
    """Create an overlay and return a Created: path, size, superblock, allocated.

    path    where; .ext3 is added unless it ends in .ext3 or .img; None for the default name
    size    bytes
    files   how many files it must be possible to make in it
    sparse  whether its blocks are taken only as they are written
    force   whether it may take the place of an overlay
    notice  called with a line for each warning: a place or a quota that the site warns of,
            blocks that could not be reserved
    What the site refuses of size, number of files, place and room is refused here, too.
    """
    request = Creation(size, files, path=path, sparse=sparse, force=force)
    check_request(request)
    check_policy(config, size=size, files=files)
    facts = make.gather(request, config)
    try:
        check_place(facts.path, config, lambda text, _level: notice(text))
        room = room_for(facts.path, config)
        check_room(room, lambda text, _level: notice(text), size=size, sparse=sparse)
        return make.make_at(request, config, facts, notice)
    finally:
        facts.close()


def plan_session(
    overlays: Iterable[tuple[str, str | None]], *, config: Config, **wishes: Any
) -> Plan:
    """Return the Plan of a session without locking anything or starting the engine.

    overlays  (path, mode) in the order of the layers, top first; mode "rw", "ro" or None
    wishes    command, commands, container, binds, gpus, fakeroot, options: as Session
    """
    from overlay.launch.run import rehearse

    return rehearse(_session(overlays, wishes), config)


def launch(
    overlays: Iterable[tuple[str, str | None]],
    *,
    config: Config,
    wait: int | None = None,
    output: Listener | None = None,
    **wishes: Any,
) -> int:
    """Run a session to its end and return its exit status, negative for a signal.

    overlays, wishes  as for plan_session()
    wait              seconds to wait for overlays in use; None not at all
    output            where notices go: an object with notice(text, level) and error(error)
    """
    from overlay.launch.run import run

    request = _session(overlays, wishes)
    before = foreground.handlers()
    try:
        return run(request, config, wait=wait, output=output or Silent(), replace=False)
    finally:
        foreground.set_handlers(before)


def _session(overlays: Iterable[tuple[str, str | None]], wishes: Mapping[str, Any]) -> Session:
    """Return the Session that a caller asks for."""
    return Session([Overlay(path, mode) for path, mode in overlays], **wishes)


class Silent:
    """An output that keeps everything to itself."""

    def notice(self, text: str, level: str = "notice") -> None:
        """Take a line for the user."""

    def error(self, error: OverlayError) -> None:
        """Take an OverlayError that did not end the session."""
