"""What a container engine is to a session: what it is told, and what a family of engines answers.

A family is a class in a module of engines/, and writes its own command lines. Nothing but
these modules knows an engine's options and variables.
"""

from __future__ import annotations

import os
import stat

from overlay.errors import UNAVAILABLE, OverlayError, quote
from overlay.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Union

    from overlay.launch.facts import Opened

    # What is bound: (source, target, read-only), or SOURCE[:TARGET[:ro]] of the user's own.
    Bind = Union[tuple[str, str, bool], str]

# Where the launchers in helpers/ look for the real programs; the same list stands there,
# because an engine may start its helpers with an empty PATH.
HELPER_PLACES = ("/usr/local/bin", "/usr/bin", "/bin")

LAUNCHERS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "helpers")


class Launchers:
    """How our launchers come before the helpers of an engine.

    directory  where the engine has helpers of its own, which ours then cover, in a namespace;
               None: it looks along PATH, where ours come first
    base       whether one for base images is among them
    """

    __slots__ = ("base", "directory")

    def __init__(self, directory: str | None = None, *, base: bool = False) -> None:
        self.directory = directory
        self.base = base

    def path(self, *, writable: bool, stack: bool = False, unsynced: bool = False) -> str:
        """Return the directories of those for a session, with colons between.

        writable  whether what lies on top stays writable
        stack     whether what lies below it is to be put together by the kernel's overlayfs
        unsynced  as of a Session
        """
        names = ["unsynced"] if writable and unsynced else []
        names += ["stack" if stack else "writable"] if writable else ["read-only"]
        names += ["base"] if self.base else []
        return ":".join(os.path.join(LAUNCHERS, name) for name in names)


class Told:
    """What the users tell the engine themselves, by its own options or variables.

    contained   whether the host's directories are kept out
    no_cwd      whether the current directory is not to be mounted
    own_home    whether it is said what the home directory is, or that there is none
    fakeroot    whether to be root inside
    layer       whether an empty layer in memory is asked for
    """

    __slots__ = ("contained", "fakeroot", "layer", "no_cwd", "own_home")

    def __init__(
        self,
        *,
        contained: bool = False,
        no_cwd: bool = False,
        own_home: bool = False,
        fakeroot: bool = False,
        layer: bool = False,
    ) -> None:
        self.contained = contained
        self.no_cwd = no_cwd
        self.own_home = own_home
        self.fakeroot = fakeroot
        self.layer = layer


class Launch:
    """A session as every engine is told it.

    image     path of the base image
    overlays  an Opened each, in the order of the layers, top first
    binds     (source, target, read-only), or specifications of the user's own
    gpus      "nv", "rocm": what GPUs are made usable
    fakeroot  whether to be root inside
    no_cwd    whether the current directory is the container's
    layer     whether an empty layer in memory lies on top
    options   options of the engine from the user, word by word
    command   what runs inside; None for an interactive shell
    quiet     whether the engine keeps to warnings and errors
    """

    __slots__ = (
        "binds",
        "command",
        "fakeroot",
        "gpus",
        "image",
        "layer",
        "no_cwd",
        "options",
        "overlays",
        "quiet",
    )

    def __init__(
        self,
        image: str,
        overlays: Iterable[Opened],
        *,
        binds: Iterable[Bind] = (),
        gpus: Iterable[str] = (),
        fakeroot: bool = False,
        no_cwd: bool = False,
        layer: bool = False,
        options: Iterable[str] = (),
        command: Iterable[str] | None = None,
        quiet: bool = True,
    ) -> None:
        self.image = image
        self.overlays = list(overlays)
        self.binds = list(binds)
        self.gpus = list(gpus)
        self.fakeroot = fakeroot
        self.no_cwd = no_cwd
        self.layer = layer
        self.options = list(options)
        self.command = None if command is None else list(command)
        self.quiet = quiet


class Engine:
    """A container engine on this machine; what raises NotImplementedError, its family answers.

    path           absolute path of its program
    name           what its family is called
    failed         what it ends with when it fails itself, in order
    foreign        variables that would add overlays behind the user's back
    setting_aside  variables that would set aside what a site has locked, by the setting
    """

    name = ""
    failed = 1
    foreign: tuple[str, ...] = ()
    setting_aside: Mapping[str, Sequence[str]] = {}

    def __init__(self, path: str) -> None:
        self.path = path

    def arguments(self, launch: Launch) -> list[str]:
        """Return the command line of a session."""
        raise NotImplementedError

    def unpack(self, image: str, tree: str, scratch: str) -> tuple[list[str], dict[str, str]]:
        """Return the command line that unpacks a base image into a new directory.

        scratch  a directory for the engine's own temporary files
        The second are the variables for it.
        """
        raise NotImplementedError

    def pull(self, source: str, target: str) -> list[str]:
        """Return the command line that fetches a base image from a place such as docker://debian.

        For a hint: as somebody types it.
        """
        raise NotImplementedError

    def variable(self, name: str) -> str:
        """Return the variable that sets NAME inside, whatever the image says."""
        raise NotImplementedError

    def told(self, options: Sequence[str], environ: Mapping[str, str]) -> Told:
        """Return what the users tell it themselves, by words of its own and by variables."""
        raise NotImplementedError

    def sets_aside(self, word: str) -> str | None:
        """Return the setting that an option of its own would set aside, None when it does not."""
        raise NotImplementedError

    def can_bind(self, path: str) -> bool:
        """Return whether every version can bind a path of this name."""
        raise NotImplementedError

    def features(self, launch: Launch) -> list[str]:
        """Return what a session needs that not every version has, in words."""
        raise NotImplementedError

    def needs(self, name: str, feature: str) -> tuple[int, ...]:
        """Return the first version, of the program that calls itself NAME, with a feature."""
        raise NotImplementedError

    def parse_version(self, output: str) -> tuple[str, tuple[int, ...]] | None:
        """Return (name, numbers) of what --version prints, None when that is not a version."""
        raise NotImplementedError

    def is_setuid(self) -> bool:
        """Return whether it is installed setuid root, and then mounts as root."""
        return False

    def libexec(self) -> list[str]:
        """Return the directories with programs of its own, in which it looks before PATH."""
        return []

    def launchers(self, environ: Mapping[str, str]) -> Launchers | None:
        """Return how our launchers come before its helpers; None: it does not take ours.

        When in doubt it is None: the look after the session takes their place.
        """
        return None

    def version(self, environ: Mapping[str, str]) -> tuple[str, tuple[int, ...]]:
        """Return (name, numbers) that the program gives for itself, such as ("apptainer", (1, 4, 5)).

        Starts a process. Raises OverlayError (UNAVAILABLE) when no version comes of it.
        """
        version = self.parse_version(process.run([self.path, "--version"], environ).output)
        if version is None:
            raise OverlayError(
                f"{quote(self.path)} does not say which version it is",
                status=UNAVAILABLE,
                hint=f"try it by hand: {quote(self.path)} --version",
            )
        return version

    def check(self, feature: str, environ: Mapping[str, str]) -> None:
        """Raise OverlayError (UNAVAILABLE) when the engine is too old for a feature."""
        name, version = self.version(environ)
        needed = self.needs(name, feature)
        if version < needed:
            raise OverlayError(
                f"{feature} needs {name} {'.'.join(map(str, needed))} or newer;"
                f" {quote(self.path)} is {'.'.join(map(str, version))}",
                status=UNAVAILABLE,
                hint="load a newer engine; see: module avail",
            )


def is_setuid(path: str) -> bool:
    """Return whether a program runs as root, whoever starts it."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return status.st_uid == 0 and bool(status.st_mode & stat.S_ISUID)


def enter(arguments: Iterable[str], directory: str, launchers: str) -> list[str]:
    """Return the command line of an engine that finds our launchers before its own helpers.

    directory  where it has its helpers
    launchers  the directories of ours, with colons between
    It runs in a user and mount namespace, in which ours cover its.
    """
    return [os.path.join(LAUNCHERS, "namespace", "enter"), directory, launchers, *arguments]


def in_group(arguments: Iterable[str], unshare: str, uid: int, gid: int) -> list[str]:
    """Return a command line that runs in a namespace where the caller's group is called gid.

    unshare   path of that program
    uid, gid  numbers; that of the user stays
    """
    return [unshare, "--user", f"--map-user={uid}", f"--map-group={gid}", *arguments]
