"""What is to be known of the machine before a session is planned: gather() asks, and changes nothing."""

from __future__ import annotations

import os

from overlay.errors import MISSING, NOT_ALLOWED, USAGE, OverlayError, nothing_named, quote
from overlay.host import limits, places, process
from overlay.image.image import look
from overlay.launch import engines
from overlay.launch.belonging import choose
from overlay.launch.engine import Told
from overlay.launch.request import check_twice, read_commands
from overlay.size import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from overlay.host.places import Way
    from overlay.image.kind import Image
    from overlay.launch.belonging import Belonging
    from overlay.launch.engine import Engine, Launchers
    from overlay.launch.request import CommandFile, Overlay, Session
    from overlay.settings.config import Config

# Bytes of addresses that an engine takes for every one of its processes, as the runtime of Go
# does: with less than the first it ends at once, and only with the second always well.
LEAST_MEMORY = 1536 << 20
ENOUGH_MEMORY = 2 << 30

GPUS = {"nv": "/dev/nvidiactl", "rocm": "/dev/kfd"}


class Opened:
    """An overlay of a session, looked at and kept open: what it is, and what becomes of it.

    path     as the user typed it
    mode     "rw" or "ro" where they said so, else None
    image    the Image that was found
    written  whether the session writes it
    why      why it is not written, where it was the one to write and that is not what they asked
    """

    __slots__ = ("image", "mode", "path", "why", "written")

    def __init__(
        self,
        overlay: Overlay,
        image: Image,
        *,
        written: bool = False,
        why: str | None = None,
    ) -> None:
        self.path = overlay.path
        self.mode = overlay.mode
        self.image = image
        self.written = written
        self.why = why


class Facts:
    """What gather() found; see there. Nothing in it changes afterwards.

    overlays         an Opened for each overlay, in the order of the layers
    engine           an Engine
    belonging        the Belonging: which base image, and what the overlays set
    cwd              the current directory
    environ          the caller's environment
    uid, gid         theirs
    told             what they tell the engine themselves, as Told
    binds            those of the site's binds whose source exists
    gpus             "nv", "rocm": those that this machine has
    commands         a CommandFile, or None
    command_here     whether the host has the command, where it is a path
    lacking          those of SHELLS that neither the base image nor an overlay seems to have
    scratch          a node-local directory for commands that are not bound as they are
    room             bytes left on the file system of the first overlay, where it may grow; or None
    launchers        how our launchers can come before the engine's helpers, or None
    plain_directory  whether the first is a directory that was not an overlay yet
    data             whether it holds something all the same
    foreign_group    of the first, where it cannot be written: a gid
    unshare          path of unshare(1), where that group is to be had by it
    cwd_in_overlay   whether an overlay has a directory of its name
    cwd_is_mine      whether the caller may write there
    ways             the Ways of PWD and of places.NAMED, by the name of the variable
    bound            those of what is bound under its own name
    locations        those of the user's directories for overlays
    limits           bytes of a file, seconds of processor time that a server may take, and bytes
                     of memory, as addresses, that every process may have
    files            the Ways of places.FILES that no overlay has, by the variable's name
    passwd_home      the home directory that the engine mounts, where it counts
    """

    def __init__(
        self,
        *,
        overlays: list[Opened],
        engine: Engine,
        belonging: Belonging,
        cwd: str,
        environ: Mapping[str, str],
        uid: int,
        gid: int,
        told: Told | None = None,
        binds: Sequence[str] = (),
        gpus: Sequence[str] = (),
        commands: CommandFile | None = None,
        command_here: bool = False,
        lacking: frozenset[str] = frozenset(),
        scratch: str = "/tmp",
        room: int | None = None,
        launchers: Launchers | None = None,
        plain_directory: bool = False,
        data: bool = False,
        foreign_group: int | None = None,
        unshare: str | None = None,
        cwd_in_overlay: bool = False,
        cwd_is_mine: bool = False,
        ways: Mapping[str, Way] | None = None,
        bound: Sequence[Way] = (),
        locations: Sequence[Way] = (),
        passwd_home: str | None = None,
        files: Mapping[str, Way] | None = None,
        limits: tuple[int | None, int | None, int | None] = (None, None, None),
    ) -> None:
        self.overlays = overlays
        self.engine = engine
        self.belonging = belonging
        self.cwd = cwd
        self.environ = environ
        self.uid = uid
        self.gid = gid
        self.told = told or Told()
        self.binds = binds
        self.gpus = gpus
        self.commands = commands
        self.command_here = command_here
        self.lacking = lacking
        self.scratch = scratch
        self.room = room
        self.launchers = launchers
        self.plain_directory = plain_directory
        self.data = data
        self.foreign_group = foreign_group
        self.unshare = unshare
        self.cwd_in_overlay = cwd_in_overlay
        self.cwd_is_mine = cwd_is_mine
        self.ways = ways or {}
        self.bound = bound
        self.locations = locations
        self.limits = limits
        self.files = files or {}
        self.passwd_home = passwd_home

    @property
    def images(self) -> list[Image]:
        """The Images of the overlays, in the order of the layers."""
        return [one.image for one in self.overlays]

    @property
    def base(self) -> str:
        """The path of the base image."""
        return self.belonging.base

    @property
    def writable(self) -> bool:
        """Whether the session writes its first overlay."""
        return self.overlays[0].written

    def over(self, overlays: list[Opened]) -> Facts:
        """Return the same Facts with other overlays: what they will be at the session's start."""
        import copy  # for rehearsals only

        made = copy.copy(self)
        made.overlays = overlays
        if overlays[0].image is not self.overlays[0].image:  # a new one of ours
            made.plain_directory = made.data = False
            made.foreign_group = made.unshare = None
        return made

    def close(self) -> None:
        """Close the overlays, and let go of them."""
        for image in self.images:
            image.close()


def gather(session: Session, config: Config, images: Sequence[Image] = ()) -> Facts:
    """Return the Facts for a session: every question to the machine, none of them a change.

    images  those of its overlays, where they are open already; they stay open in any case
    What is written is decided at once: see decide_writable(). Raises OverlayError for what
    cannot work, USAGE for an overlay that is named twice.
    """
    check_memory()
    if not session.overlays:
        raise nothing_named(f"{session.program} -o OVERLAY")
    if any(one.mode == "rw" for one in session.overlays[1:]):
        raise OverlayError(
            "only the first overlay can be writable",
            status=USAGE,
            hint="name the one to write in first, and the others without :rw",
        )
    found = list(images)
    try:
        for one in session.overlays[len(found) :]:
            found.append(look(one.path, write=not found and one.mode != "ro"))
            found[-1].check_mountable()
        facts = _gather(session, config, list(map(Opened, session.overlays, found)))
        check_twice(found)
        first = facts.overlays[0]
        first.written, first.why = decide_writable(session, facts)
        return facts
    except BaseException:
        for image in found[len(images) :]:
            image.close()
        raise


def _check_bind(bind: str) -> None:
    """Refuse a bind that the engine could not make. Raises OverlayError."""
    source, _colon, rest = bind.partition(":")
    target, _colon, mode = rest.partition(":")
    if not rest and not os.path.isabs(source):
        raise OverlayError(
            f"-b {quote(bind)}: without a colon it has the same name inside, and names inside begin"
            " with /",
            status=USAGE,
            hint=f"-b {quote(os.path.abspath(source))}",
        )
    if not os.path.exists(source):
        raise OverlayError(
            f"there is no {quote(source)} to bind",
            status=MISSING,
            hint="-b SOURCE[:DESTINATION[:ro]]; SOURCE is what is on this machine",
        )
    if rest and not target.startswith("/"):
        place = "ro" if target in ("ro", "rw") else f"/{target}"
        meant = (
            f"{source}:{os.path.abspath(source)}:{target}" if place == "ro" else f"{source}:{place}"
        )
        raise OverlayError(
            f"-b {quote(bind)}: behind the first colon stands the path inside, which begins with /",
            status=USAGE,
            hint=f"-b {quote(meant)}",
        )
    if mode not in ("", "ro", "rw"):
        raise OverlayError(
            f"-b {quote(bind)}: behind the second colon there must be ro or rw",
            status=USAGE,
            hint=f"-b {quote(f'{source}:{target}:ro')}",
        )


def _gather(session: Session, config: Config, opened: list[Opened]) -> Facts:
    environ: Mapping[str, str] = config.environ
    first, found = opened[0].image, [one.image for one in opened]
    commands = (
        read_commands(session.commands, session.program) if session.commands is not None else None
    )
    belonging = choose(session, config, found)
    engine = engines.find(config["engine.commands"], environ)
    cwd = os.getcwd()
    places.check_current(cwd)
    for bind in session.binds:
        # What holds one of these is the engine's to read.
        if not set(bind).intersection(",\\"):
            _check_bind(bind)
    binds = [bind for bind in config.binds if os.path.exists(bind.partition(":")[0])]
    if commands:
        commands.way = places.follow(os.path.join(cwd, commands.path))
    foreign_group = _foreign_group(first, engine, belonging.base)
    detect = config["launch.gpu"] == "auto"
    launchers = engine.launchers(environ)
    return Facts(
        overlays=opened,
        engine=engine,
        belonging=belonging,
        cwd=cwd,
        environ=environ,
        uid=os.getuid(),
        gid=os.getegid(),
        told=engine.told(session.options, environ),
        binds=binds,
        gpus=[name for name, device in GPUS.items() if detect and os.path.exists(device)],
        commands=commands,
        command_here=_is_here(session.command),
        lacking=_lacking(session, config, belonging.base, found),
        scratch=_scratch(commands, config),
        room=_room(first),
        launchers=launchers,
        plain_directory=first.is_plain_directory,
        data=first.is_data,
        foreign_group=foreign_group,
        unshare=process.which("unshare", environ) if foreign_group is not None else None,
        cwd_in_overlay=any(image.holds(cwd) for image in found),
        cwd_is_mine=os.access(cwd, os.W_OK | os.X_OK),
        ways=places.named_directories(environ, cwd),
        bound=_linked(_sources(session, binds)),
        locations=_linked(config.get("scratch.locations") or ()),
        passwd_home=_passwd_home(environ, binds),
        files=places.named_files(environ, lambda path: any(image.holds(path) for image in found)),
        limits=_limits(launchers),
    )


def _is_here(command: Sequence[str] | None) -> bool:
    """Return whether the host has a command, where that is a path."""
    return any("/" in word and os.path.exists(word) for word in (command or ())[:1])


def _lacking(session: Session, config: Config, base: str, found: Sequence[Image]) -> frozenset[str]:
    """Return the shells that seem to be missing inside.

    The site's images have them: their files are not listed, because that takes a program.
    """
    if session.container in (None, *config.images()) and not os.path.isdir(base):
        return frozenset()
    from overlay.launch.shells import lacking  # for images of the user's own

    return lacking(base, found, config.environ)


def _limits(launchers: Launchers | None) -> tuple[int | None, int | None, int | None]:
    """Return the limits of Facts, None where there is none.

    Our launchers set aside what soft limits say; those are for the commands.
    """
    import resource

    hard = launchers is not None
    return (
        limits.get(resource.RLIMIT_FSIZE, hard=hard),
        limits.get(resource.RLIMIT_CPU, hard=hard),
        limits.get(resource.RLIMIT_AS),
    )


def check_memory() -> None:
    """Refuse a limit of this shell under which no engine starts. Raises OverlayError (NOT_ALLOWED)."""
    import resource

    most = limits.get(resource.RLIMIT_AS)
    if most is not None and most < LEAST_MEMORY:
        raise OverlayError(
            f"the engine cannot start here: a program may have {format_size(most)} of memory"
            f" (ulimit -v), and it needs {format_size(ENOUGH_MEMORY)}",
            status=NOT_ALLOWED,
            hint="in a shell without that limit; or set it inside, for the commands alone",
        )


def _sources(session: Session, binds: Iterable[str]) -> Iterator[str]:
    """Yield what is bound under its own name."""
    for bind in (*binds, *session.binds):
        for source, target in places.parse_binds(bind):
            if source == target and source.startswith("/"):
                yield source


def _linked(paths: Iterable[str]) -> list[Way]:
    """Return the Ways of those paths that lead through links."""
    ways = map(places.follow, paths)
    return [way for way in ways if way and way.links]


def _passwd_home(environ: Mapping[str, str], binds: Iterable[str]) -> str | None:
    """Return the home directory that the engine will mount: that of the password database.

    None where HOME is seen anyway: the database may be on a server.
    """
    bound = [target for bind in binds for source, target in places.parse_binds(bind)]
    if places.is_below(environ.get("HOME", ""), bound):
        return None
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None


def _foreign_group(image: Image, engine: Engine, base: str) -> int | None:
    """Return the gid of an overlay's files that an engine without root could not write, or None.

    Its namespace knows one group, the caller's own; what belongs to any other, in an overlay
    that a FUSE server shows, is nobody's, and the kernel lets nobody write that
    (user_namespaces(7)). So it is after newgrp(1), and in directories that hand on their group.
    The kernel's overlayfs, which needs an unpacked base image, knows better.
    """
    if image.group in (None, os.getegid()) or os.getuid() == 0 or engine.is_setuid():
        return None
    if not image.is_file and os.path.isdir(base):
        return None
    return image.group


def _scratch(commands: CommandFile | None, config: Config) -> str:
    """Return a node-local directory, where some commands are to be written to a file of ours."""
    if commands is None or commands.text is None:
        return "/tmp"  # nobody asks
    from overlay.host.scratch import scratch_directory

    return scratch_directory(config)


def _room(image: Image) -> int | None:
    """Return the bytes that an ordinary user has left on the file system of an image.

    None where that has all of its blocks; to ask takes a server on a shared file system.
    """
    if image.status.st_blocks * 512 >= image.status.st_size:
        return None
    from overlay.host.room import free_bytes

    try:
        return free_bytes(image.descriptor)
    except OSError:
        return None


def decide_writable(session: Session, facts: Facts) -> tuple[bool, str | None]:
    """Return (whether the first overlay is to be written, why it is not or None).

    Raises OverlayError: NOT_ALLOWED when the user insists with :rw on what cannot be, DAMAGED
    for a directory with data: the engine would put upper/ and work/ among them, and show upper/.
    """
    if facts.overlays[0].mode == "ro":
        return False, None
    obstacle = _obstacle(session, facts)
    if obstacle is None:
        return True, None
    from overlay.launch.obstacles import told  # words that most sessions do without

    return False, told(obstacle, session, facts)


def _obstacle(session: Session, facts: Facts) -> str | None:
    """Return what keeps the first overlay from being written, a key of OBSTACLES; None: nothing."""
    first = facts.images[0]
    if first.never_writable:
        return "kind"
    if not first.writable:
        return "permission"
    if first.upper not in (None, facts.uid) and facts.uid != 0 and not session.fakeroot:
        return "owner"
    if (
        facts.foreign_group is not None
        and not (first.is_file and facts.unshare)
        and not (session.fakeroot or facts.told.fakeroot)
    ):
        return "group"
    return "data" if facts.data else None
