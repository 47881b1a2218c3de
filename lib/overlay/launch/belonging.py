"""Which base image a session goes on with, and what its overlays set: from what they carry."""

from __future__ import annotations

import os

from overlay.errors import MISSING, OverlayError, quote
from overlay.launch.request import find_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlay.environment.base import Base
    from overlay.environment.note import Note
    from overlay.image.kind import Image
    from overlay.launch.request import Session
    from overlay.settings.config import Config

    Notice = tuple[str, str]  # (level, text): see Plan

_DIRECTORY = "/.singularity.d/overlay"  # see environment.note, which most sessions do without


class Belonging:
    """What choose() found.

    base       path of the base image
    notices    what is to be said of it
    variables  name -> value of what the first overlay sets, where several set something
    first      directories that come first in PATH then, with colons between; or empty
    """

    __slots__ = ("base", "first", "notices", "variables")

    def __init__(self, base: str, notices: Sequence[Notice] = ()) -> None:
        self.base = base
        self.notices = list(notices)
        self.variables: dict[str, str] = {}
        self.first = ""


def choose(session: Session, config: Config, images: Sequence[Image]) -> Belonging:
    """Return the Belonging of a session; nothing of what an overlay carries is obeyed unlooked at.

    images  of its overlays, in the order of the layers
    What the user says counts more than what an environment was made for, and that more than
    the site's default. Raises OverlayError (MISSING) for an image that is not there.
    """
    named = zip((overlay.name for overlay in session.overlays), images)
    carrying = [(name, image) for name, image in named if image.names_in(_DIRECTORY)]
    if not carrying:
        return Belonging(find_container(session.container, config))
    from overlay.environment import note

    carried = [(name, image, one) for name, image in carrying for one in note.read(image)]
    ready = [(name, one) for name, _image, one in carried if one.script]
    found = _followed(session, config, ready)
    for name, image, one in carried:
        told = _of_the_note(name, image, one)
        found.notices += [notice for notice in told if notice not in found.notices]
    # Else the engine sources what the first sets last, by its name, and that comes first anyway.
    if ready and ready[0][1].id != max(one.id for _name, one in ready):
        found.variables, found.first = _of_the_first(ready[0][1])
    return found


def _followed(session: Session, config: Config, ready: Sequence[tuple[str, Note]]) -> Belonging:
    """Return the base image, and what is to be said of it.

    ready  (path, Note) of those that make something ready
    """
    wish = config["images.follow"]
    wanted = next(((path, one.base) for path, one in ready if one.base), None)
    if session.container is not None or wanted is None or wish == "no" or _is_users(config):
        return Belonging(find_container(session.container, config))
    path, base = wanted
    named = {os.path.realpath(known) for known in config.images().values() if known}
    if config.lock("images.default") and os.path.realpath(base.path) not in named:
        words = f"{quote(path)} was made for {quote(base.path)}, which is not an image of this site"
        return Belonging(find_container(None, config), [("notice", words)])
    default = config.get("images.default")
    default = default and config.images().get(default, default)
    if wish == "warn":
        made = Belonging(find_container(None, config))
        if os.path.realpath(made.base) != os.path.realpath(base.path):
            words = f"{quote(path)} was made for {quote(base.path)}: -c {quote(base.path)}"
            made.notices.append(("warning", words))
        return made
    made = Belonging(base.path, _of_the_image(path, base))
    if not default or os.path.realpath(default) != os.path.realpath(base.path):
        words = f"{quote(path)} was made for {quote(base.path)}, which is taken"
        made.notices.insert(0, ("notice", words))
    for other, one in ready:
        if one.base and (one.base.path, one.base.mark) != (base.path, base.mark):
            words = f"{quote(other)} was made for another one: {quote(one.base.path)}"
            made.notices.append(("warning", words))
            break
    return made


def _is_users(config: Config) -> bool:
    """Return whether it is the user who has set the default image."""
    origin = config.origin("images.default")
    if origin.file is None:
        return origin.word.startswith("$")
    return origin.file not in config.files


def _of_the_image(path: str, wanted: Base) -> list[Notice]:
    """Return what is to be said of the image that an overlay was made for.

    Raises OverlayError (MISSING) when it is gone.
    """
    from overlay.environment.base import look

    try:
        there = look(wanted.path)
    except OSError as error:
        raise OverlayError(
            f"{quote(path)} was made for the base image {quote(wanted.path)}, which cannot be used:"
            f" {error.strerror}",
            status=MISSING,
            hint="to try it with another one: -c NAME-or-PATH; when it works, for good:"
            f" update-overlay {quote(path)} -c NAME-or-PATH -- true; to make it anew:"
            f" show-overlay --recipe {quote(path)}",
        ) from None
    if there.machine and there.machine != os.uname().machine:
        words = f"{quote(wanted.path)} is an image for {there.machine}, and this node is not"
        return [("warning", words)]
    if (there.size, there.mark) != (wanted.size, wanted.mark):
        words = f"{quote(wanted.path)} is another one than that which {quote(path)} was made for"
        return [("warning", words)]
    return []


def _of_the_note(name: str, image: Image, note: Note) -> list[Notice]:
    """Return what is to be said of what an overlay carries."""
    from overlay.environment.note import FORMAT, is_intact

    path = quote(name)
    if note.format > FORMAT:
        return [("notice", f"what {path} carries of itself was written by a newer version")]
    found = []
    if note.script and note.machine and note.machine != os.uname().machine:
        words = f"{path} was filled on a node of another architecture: {quote(note.machine)}"
        found.append(("warning", words))
    if note.script and not is_intact(image, note):
        words = f"{path}: its activation was changed, and is not what was recorded"
        found.append(("warning", words))
    return found


def _of_the_first(note: Note) -> tuple[dict[str, str], str]:
    """Return the (variables, first directories of PATH) that an overlay sets."""
    from overlay.environment.activation import parse

    activation = parse(note.script)
    return activation.values, ":".join(activation.lists.get("PATH", ()))
