"""What mount-overlay and run-overlay ask for."""

from __future__ import annotations

import os
import stat

from overlay.errors import (
    CONFIGURATION,
    DAMAGED,
    MISSING,
    USAGE,
    OverlayError,
    quote,
    reason,
)
from overlay.image.kind import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from overlay.host.places import Way
    from overlay.image.kind import Image
    from overlay.settings.config import Config

NOT_FOUND = 127  # what bash ends with when the last command of a file is not there

# What names the standard input in the place of a file of commands.
_STDIN = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")

# Name and first line of scripts that are handed to bash by mistake. Any other is run with it.
_NOT_BASH = {".py": b"python", ".R": b"Rscript", ".pl": b"perl", ".jl": b"julia"}

# Bytes of a file of commands that tell an image, and in which bash looks for a NUL in the first line
# by which it knows a program: check_binary_file().
_HEAD, _LOOKED_AT = 4096, 80

# The descriptor on which bash finds commands that we have read, where it is free: low, so that
# every shell can name it in what --dry-run prints, and none that scripts use by habit (3, 4).
_COMMANDS = 9


class Overlay:
    """An overlay as a session names it.

    path  as the user typed it
    mode  "rw" or "ro" where they said so, else None
    name  what it is called in messages: the path, unless it is a copy of ours
    """

    __slots__ = ("mode", "name", "path")

    def __init__(self, path: str, mode: str | None = None, name: str | None = None) -> None:
        self.path = path
        self.mode = mode
        self.name = name or path


class Session:
    """What the user asked for.

    overlays    Overlays in the order of the layers, top first
    container   name or path of the base image, None for the site's default
    binds       bind specifications of the user's own, as the engine takes them
    gpus        "nv", "rocm": GPU support asked for by name
    fakeroot    whether to be root inside
    options     further options of the engine, word by word
    commands    a file of commands, "-" for standard input; None when there is none
    command     one command and its arguments, a list; None when there is none
    program     the name of the calling program, for the messages of the shell inside
    title       the overlay that the prompt of a shell names; None for the first
    verbose     whether the engine says more than warnings and errors
    unsynced    whether the image that it writes need not be synced by its server: when the session
                does not end well it is thrown away, and when it does, that, or synced as a whole

    With neither commands nor command it is an interactive shell.
    """

    def __init__(
        self,
        overlays: Iterable[Overlay],
        *,
        container: str | None = None,
        binds: Iterable[str] = (),
        gpus: Iterable[str] = (),
        fakeroot: bool = False,
        options: Iterable[str] = (),
        commands: str | None = None,
        command: Iterable[str] | None = None,
        program: str = "run-overlay",
        title: str | None = None,
        verbose: bool = False,
        unsynced: bool = False,
    ) -> None:
        self.overlays = list(overlays)
        self.container = container
        self.binds = list(binds)
        self.gpus = list(gpus)
        self.fakeroot = fakeroot
        self.options = list(options)
        self.commands = commands
        self.command = None if command is None else list(command)
        self.program = program
        self.title = title
        self.verbose = verbose
        self.unsynced = unsynced

    def over(self, overlays: Iterable[Overlay], title: str | None) -> Session:
        """Return the same session with others in the place of its overlays.

        title  what the prompt of a shell names
        """
        import copy  # for sessions in jobs only

        made = copy.copy(self)
        made.overlays, made.title = list(overlays), title
        return made


class CommandFile:
    """A file of commands.

    path     as the user named it
    regular  whether it can be bound: not a pipe or a descriptor of the caller's
    text     its bytes without carriage returns and byte order mark, when it had such
    way      how the host gets to it
    descriptor  where bash finds the commands that were read from standard input, else None
    """

    def __init__(
        self,
        path: str,
        regular: bool = True,
        text: bytes | None = None,
        way: Way | None = None,
        descriptor: int | None = None,
    ) -> None:
        self.path = path
        self.regular = regular
        self.text = text
        self.way = way
        self.descriptor = descriptor


def parse_overlay(text: str) -> Overlay:
    """Return the Overlay that NAME[:ro|:rw] stands for. Raises OverlayError (USAGE) for another form."""
    mode: str | None
    path, colon, mode = text.rpartition(":")
    if not colon:
        path, mode = text, None
    elif mode not in ("ro", "rw"):
        if os.path.exists(path) and os.path.exists(mode):
            raise OverlayError(
                f"there is no overlay {quote(text)}",
                status=USAGE,
                hint=f"name each apart: -o {quote(path)} -o {quote(mode)}",
            )
        if os.path.exists(path) and not os.path.lexists(text):
            raise OverlayError(
                f"{quote(text)}: behind the colon there must be ro or rw",
                status=USAGE,
                hint=f"did you mean {quote(path)}:{'rw' if 'w' in mode else 'ro'}?",
            )
        raise OverlayError(
            f"{quote(text)}: a colon in the name of an overlay would be misread by the engine",
            status=USAGE,
            hint="overlays are named NAME, NAME:ro or NAME:rw; give it another name, or make a link"
            f" to it: ln -s {quote(text)} NAME",
        )
    if "," in path and not os.path.lexists(path):
        from overlay.host.near import parted

        several = parted(path)
        if several:
            raise OverlayError(
                f"there is no overlay {quote(path)}",
                status=MISSING,
                hint="name each apart: " + " ".join(f"-o {quote(name)}" for name in several),
            )
    if not path:
        raise OverlayError("the name of an overlay is empty", status=USAGE)
    check_name(path, f"rename the file, or make a link to it: ln -s {quote(path)} NAME")
    return Overlay(path, mode)


def check_commands(commands: str | None) -> None:
    """Refuse an empty name of a file of commands. Raises OverlayError (USAGE)."""
    if commands == "":
        raise OverlayError("the name of the command file is empty", status=USAGE)


def _how_to_fetch(source: str, config: Config) -> str | None:
    """Return the line to type for a base image that lies elsewhere; None without an engine."""
    from overlay.launch import engines  # only where there is something wrong

    try:
        engine = engines.find(config["engine.commands"], config.environ)
    except OverlayError:
        return None
    return "fetch it first: " + " ".join(map(quote, engine.pull(source, "image.sif")))


def find_container(spec: str | None, config: Config) -> str:
    """Return the path of a base image, given by name, by path, or None for the default.

    Raises OverlayError (MISSING, or DAMAGED for something that is not a container image).
    """
    known = config.images()
    origin = None
    if spec is None:
        spec = config["images.default"]
        origin = config.origin("images.default")
        if not spec:
            raise OverlayError(
                f"{origin}: [images] default is empty, and there is no -c",
                status=CONFIGURATION,
                hint="name a base image: -c PATH",
            )
    path = known.get(spec, spec)
    if path is None:
        path = config[f"images.{spec}"]  # raises: a variable in it is not set
    where = f" ({origin}: [images] default)" if origin else ""
    # A setting's word is a name: what lies in the current directory is not the site's choice.
    if spec not in known and "/" not in spec and (origin or not os.path.exists(spec)):
        names = ", ".join(map(quote, sorted(known)))
        hint = f"known names: {names}" if known else "give a path"
        raise OverlayError(
            f"there is no base image named {quote(spec)}{where}", status=MISSING, hint=hint
        )
    if "://" in spec:
        raise OverlayError(
            f"{quote(spec)} is not a file of this machine",
            status=MISSING,
            hint=_how_to_fetch(spec, config),
        )
    try:
        with_content = os.stat(path)
    except OSError as error:
        others = ", ".join(map(quote, sorted(known)))
        raise OverlayError(
            f"the base image {quote(path)}{where} cannot be used: {reason(error)}",
            status=MISSING,
            hint=f"choose another with -c NAME-or-PATH; known names: {others}"
            if known
            else "choose another with -c PATH",
        ) from None
    if not (stat.S_ISREG(with_content.st_mode) or stat.S_ISDIR(with_content.st_mode)):
        raise OverlayError(
            f"the base image {quote(path)}{where} is neither a file nor a directory",
            status=DAMAGED,
        )
    if not os.access(path, os.R_OK):
        raise OverlayError(f"you may not read the base image {quote(path)}{where}", status=MISSING)
    if stat.S_ISREG(with_content.st_mode) and with_content.st_size == 0:
        raise OverlayError(f"the base image {quote(path)} is empty", status=DAMAGED)
    if origin is None and spec not in known:  # a site's own are not opened once more at each start
        from overlay.launch.not_base import check

        check(path)
    return path


_OF_DESCRIPTORS = ("/dev/fd/", "/proc/self/fd/")


def read_commands(path: str, program: str = "run-overlay") -> CommandFile:
    """Return the CommandFile at a path; standard input is not read yet: see read_input().

    program  whose -f it is
    Raises OverlayError (MISSING) when it is not there, not readable, or a directory.
    """
    if path in _STDIN:
        return CommandFile(path, regular=False, descriptor=_COMMANDS)
    try:
        # A pipe is left alone: who writes to it may wait for one reader, and would be lost.
        if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
            return CommandFile(path, regular=False)
        # So is a file without a name, of memfd_create(2) or removed: there is nothing to bind.
        if path.startswith(_OF_DESCRIPTORS) and not os.path.exists(os.path.realpath(path)):
            return CommandFile(path, regular=False)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        from overlay.launch import not_commands

        raise not_commands.unreadable(path, program, error) from None
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        from overlay.launch import not_commands

        os.close(descriptor)
        raise not_commands.is_directory(path, program)
    with open(descriptor, "rb") as file:
        head = file.read(_HEAD)
        if b"\0" in head[:_LOOKED_AT].partition(b"\n")[0]:
            from overlay.launch import not_commands

            raise not_commands.binary(path, head, program)
        text = head + file.read()
    first = text.partition(b"\n")[0]
    other = _NOT_BASH.get(os.path.splitext(path)[1])
    name = os.path.basename(path)
    if name.startswith("requirements") or name.endswith((".yml", ".yaml")):
        from overlay.launch import not_commands

        # Before bash writes to a file that is named `=2`.
        if not_commands.installs(path):
            raise not_commands.list_of_packages(path, program)
    if first.startswith(b"#!") and other and other in first:
        from overlay.launch import not_commands

        raise not_commands.in_another_language(path, first, program)
    plain = _plain(text)
    return CommandFile(path, text=plain if plain != text else None)


def _plain(text: bytes) -> bytes:
    """Return commands without what Windows puts into them: carriage returns, a byte order mark."""
    return text.replace(b"\r\n", b"\n").removeprefix(b"\xef\xbb\xbf")


def read_input(commands: CommandFile | None, notice: Callable[[str], object]) -> CommandFile | None:
    """Read the commands to their end, where they come from standard input, which is then empty.

    Else the programs among them, which read standard input as well, would take away those
    that follow. They are kept in memory, in a file that has no name, and that what we start or
    become inherits: the CommandFile that is returned says where. Any other comes back as it is.
    commands  None when there is no file of commands
    notice    called with a line for the user
    Raises OverlayError (MISSING) when standard input cannot be read.
    """
    if commands is None or commands.descriptor is None:
        return commands
    import fcntl

    if os.isatty(0):
        notice("reading commands from the terminal; Ctrl-D ends them")
    try:
        with open(0, "rb", closefd=False) as file:
            text = file.read()
    except OSError as error:
        raise OverlayError(
            f"cannot read the commands from standard input: {reason(error)}",
            status=MISSING,
            hint="run-overlay -o OVERLAY -f FILE",
        ) from None
    plain = _plain(text)
    memory = os.memfd_create("commands", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(memory, "wb", closefd=False) as copy:
        copy.write(plain)
    # Nobody changes it while bash reads: fcntl(2), "File Sealing". Numbers: linux/fcntl.h.
    fcntl.fcntl(memory, 1033, 0x1 | 0x2 | 0x4 | 0x8)
    descriptor = fcntl.fcntl(memory, fcntl.F_DUPFD, _COMMANDS)
    os.close(memory)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return CommandFile(
        commands.path,
        regular=False,
        text=plain if plain != text else None,
        way=commands.way,
        descriptor=descriptor,
    )


def check_twice(found: Iterable[Image]) -> None:
    """Refuse one overlay under two names. Raises OverlayError (USAGE)."""
    seen: dict[tuple[int, int], str] = {}
    for image in found:
        if image.identity in seen:
            other = seen[image.identity]
            raise OverlayError(
                f"{quote(image.path)} is named twice"
                + ("" if other == image.path else f", as {quote(other)} too"),
                status=USAGE,
                hint="name every overlay once",
            )
        seen[image.identity] = image.path
