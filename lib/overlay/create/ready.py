"""What a filled overlay carries of itself, put together before its image is made."""

from __future__ import annotations

import os

from overlay import __version__
from overlay.create.activate import Wanted, find_out
from overlay.create.kind import open_regular
from overlay.create.place import make_directories
from overlay.environment import find, history
from overlay.environment.activation import BASE, PROFILE, Activation
from overlay.environment.activation import parse as read_lines
from overlay.environment.base import Base, look
from overlay.environment.note import DIRECTORY, ENGINE, MOST, Note, is_id, new_id, parse, path
from overlay.errors import CANNOT_CREATE, OverlayError, quote, reason
from overlay.launch.request import find_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from overlay.create.kind import Source
    from overlay.create.workplace import Workplace
    from overlay.output import Output
    from overlay.settings.config import Config

# Files and directories that all of it is at most, without a command file, and their blocks.
FILES = 14
BLOCKS = 20


class Wish:
    """What the overlay is to carry.

    activate  directories inside, the first comes first; None: the environment that is found
    values    variables that are set besides
    history   whether it says how it was made
    command   the command line that makes it
    """

    __slots__ = ("activate", "command", "history", "values")

    def __init__(
        self,
        *,
        activate: Sequence[str] | None = None,
        values: Mapping[str, str] | None = None,
        history: bool = True,
        command: Sequence[str] = (),
    ) -> None:
        self.activate = None if activate is None else list(activate)
        self.values = dict(values or {})
        self.history = history
        self.command = list(command)


def make_ready(
    wish: Wish,
    workplace: Workplace,
    config: Config,
    output: Output,
    *,
    sources: Sequence[Source],
    binds: Iterable[tuple[str, str]],
    container: str | None,
    base: str | None,
    recipe: bytes | None,
) -> None:
    """Write into the Workplace what the new overlay carries.

    sources    of what is there
    binds      (directory, place below upper/) of what is read where it is
    container  name or path of the base image, None for the site's
    base       the same image where it is unpacked, None where it is not
    recipe     the file of commands that filled it
    Raises OverlayError for what is to be activated and cannot be.
    """
    trees = [("/", workplace.upper), *(("/" + place.strip("/"), tree) for tree, place in binds)]
    wanted, chosen = wish.activate, wish.activate is not None
    found = [one for place, tree in trees for one in find.environments(tree, place)]
    if wanted is None:
        already = _already(workplace.upper)
        found = [one for one in found if one not in already]
        wanted = found if len(found) == 1 else []
        if len(found) > 1:
            names = " ".join(map(quote, found[:5]))
            output.notice(f"it holds several environments, and none is activated: {names}")
            output.notice(f"to choose: --activate {quote(found[0])}")
    image = _container(container, config, needed=chosen and bool(wanted))
    activation = Activation(values=wish.values)
    if wanted and image is not None:
        mounts = [f"{os.path.abspath(tree)}:{place}:ro" for place, tree in trees[1:]]
        found_out = find_out(
            Wanted(wanted, wish.values, chosen=chosen, found=found),
            workplace.path,
            config,
            output,
            image=base or image,
            binds=mounts,
        )
        activation = found_out or activation
    if not activation and not wish.history:
        return
    known = identity(image)
    made = Note(
        new_id(),
        base=known,
        machine=os.uname().machine,
        directories=tuple(activation.directories),
        names=tuple(sorted(wish.values)),
        script=activation.script(),
    )
    files = {path(made.id): made.text()}
    if activation:
        files.update(lines(made))
        if image is not None and not has_scripts(base or image):
            files[BASE] = b""
    if wish.history:
        if recipe is not None:
            output.notice("the commands are kept in it: show-overlay --recipe; else --no-history")
        entry = history.entry(
            "create",
            __version__,
            command=wish.command,
            recipe=recipe,
            sources=[f"{one.path}:{one.dest}" for one in sources],
            base=known,
        )
        files[path(made.id, history.NAME)] = history.data([entry])
    try:
        _write(workplace.upper, files)
    except OSError as error:
        words = f"cannot write what the overlay carries of itself: {reason(error)}"
        if chosen or wish.values:
            raise OverlayError(words, status=CANNOT_CREATE) from None
        output.notice(words, "warning")


def _already(top: str) -> set[str]:
    """Return the environments that what was put in, an overlay itself, makes ready already."""
    found: set[str] = set()
    try:
        names = os.listdir(top + DIRECTORY)
    except OSError:
        return found
    for name in filter(is_id, names):
        try:
            with open_regular(top + path(name)) as file:
                note = parse(name, file.read(MOST))
        except (OSError, ValueError):
            continue
        found.update(note.directories if note else ())
    return found


def _container(container: str | None, config: Config, *, needed: bool) -> str | None:
    """Return the path of the base image; None where there is none and it is not needed."""
    try:
        return os.path.realpath(find_container(container, config))
    except OverlayError:
        if needed or container is not None:
            raise
        return None


def lines(note: Note) -> dict[str, bytes]:
    """Return what the engine, and a login shell, read of a Note, by the paths inside."""
    login = read_lines(note.script).script(login=True)
    return {
        ENGINE.format(note.id): note.script.encode(errors="surrogateescape"),
        PROFILE.format(note.id): login.encode(errors="surrogateescape"),
    }


def identity(image: str | None) -> Base | None:
    try:
        return None if image is None else look(image)
    except OSError:
        return None


def has_scripts(image: str) -> bool:
    """Return whether a base image has scripts for the engine of its own: all but directories have."""
    return not os.path.isdir(image) or os.path.isdir(image + os.path.dirname(ENGINE))


def _write(top: str, files: Mapping[str, bytes]) -> None:
    """Write files below a directory, with the directories above them; no link is followed.

    Raises OSError.
    """
    for name, content in files.items():
        directory, base = os.path.split(name)
        if not make_directories(top, directory):
            raise NotADirectoryError(20, "something is in the way of it", directory)
        place = top + directory
        with open(os.path.join(place, f".{base}.new"), "xb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
        os.replace(file.name, os.path.join(place, base))
