"""Container engines: which one is here, what it can do, and how its command line is written.

Differences between engines are rows of ENGINES. Versions are asked for only when something
was requested that not every version has, because asking starts a process.
"""

import os
import stat

from overlay.errors import UNAVAILABLE, OverlayError, quote
from overlay.host import process

# What a request may need, and the first version of each engine that has it.
# Sources: the engines' change logs; apptainer(1), singularity(1).
ENGINES = {
    "apptainer": {
        "prefix": "APPTAINER",
        "needs": {"--fakeroot with an overlay": (1, 1), "--mount": (1, 0)},
    },
    "singularity": {
        "prefix": "SINGULARITY",
        "needs": {"--fakeroot with an overlay": (3, 8), "--mount": (3, 9)},
    },
}

# Where the launchers in helpers/ look for the real programs; the same list stands there,
# because the engine starts its helpers with an empty PATH.
HELPER_PLACES = ("/usr/local/bin", "/usr/bin", "/bin")

PATH = "PATH"  # how launchers come before helpers: see Engine.takes_launchers()

# Where an engine below some prefix may keep programs of its own.
_LIBEXEC = ("libexec", "{machine}/libexec", "lib", "lib64", "lib/{machine}-linux-gnu")

LAUNCHERS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "helpers")

# Settings of both engines that would add overlays behind the user's back.
FOREIGN = tuple(
    f"{row['prefix']}_{word}" for row in ENGINES.values() for word in ("OVERLAY", "OVERLAYIMAGE")
)

# Settings of both engines that would set aside a locked one of ours, by that.
SETTING_ASIDE = {
    setting: tuple(f"{row['prefix']}_{word}" for row in ENGINES.values() for word in words)
    for setting, words in {
        "binds.paths": ("BIND", "BINDPATH", "MOUNT"),
        "launch.gpu": ("NV", "NVCCLI", "ROCM"),
    }.items()
}


class Engine:
    """A container engine on this machine.

    path  absolute path of its program
    name  the row of ENGINES that it follows
    """

    __slots__ = ("name", "path")

    def __init__(self, path, name):
        self.path = path
        self.name = name

    @property
    def prefix(self):
        """The prefix of its environment variables: APPTAINER or SINGULARITY."""
        return ENGINES[self.name]["prefix"]

    def variable(self, name):
        """Return the variable that sets NAME inside, whatever the image says."""
        return f"{self.prefix}ENV_{name}"

    def version(self, environ):
        """Return (name, numbers) that the program gives for itself, such as ("apptainer", (1, 4, 5)).

        Starts a process. Raises OverlayError (UNAVAILABLE) when no version comes of it.
        """
        result = process.run([self.path, "--version"], environ)
        return parse_version(self.path, result.output)

    def libexec(self):
        """Return the directories with programs of its own: its starter, and often helpers.

        Where it looks before PATH; packages for Enterprise Linux have the helpers there.
        """
        prefix = os.path.dirname(os.path.dirname(os.path.realpath(self.path)))
        machine = os.uname().machine
        names = [place.format(machine=machine) for place in _LIBEXEC]
        places = [f"{prefix}/{name}/{self.name}/bin" for name in names]
        return [place for place in places if os.path.isdir(place)]

    def is_setuid(self):
        """Return whether it is installed setuid root, and then mounts as root."""
        return any(is_setuid(f"{place}/starter-suid") for place in self.libexec())

    def takes_launchers(self, environ):
        """Return how our launchers come to stand before its helpers.

        PATH when it looks along PATH; the directory of its own helpers, which takes a
        namespace (see enter()), when it has such; None when it does not take ours.
        """
        own = self.libexec()
        if self.is_setuid():
            return None  # it looks in places of its own only
        for place in own:
            if os.path.exists(f"{place}/fuse-overlayfs"):
                return place
        found = [process.which(name, environ) for name in ("fuse-overlayfs", "fuse2fs")]
        return (
            PATH if all(path and os.path.dirname(path) in HELPER_PLACES for path in found) else None
        )

    def has_squashfuse(self, place, environ):
        """Return whether it serves base images with a squashfuse_ll that our launcher finds.

        place  what takes_launchers() returned, not None
        Without one it unpacks them, and a launcher without its program would be in the way.
        """
        if place != PATH:
            return os.path.exists(f"{place}/squashfuse_ll")
        path = process.which("squashfuse_ll", environ)
        return bool(path) and os.path.dirname(path) in HELPER_PLACES

    def check(self, feature, environ):
        """Raise OverlayError (UNAVAILABLE) when the engine is too old for a feature."""
        name, version = self.version(environ)
        needed = ENGINES[name]["needs"][feature]
        if version < needed:
            raise OverlayError(
                f"{feature} needs {name} {'.'.join(map(str, needed))} or newer;"
                f" {quote(self.path)} is {'.'.join(map(str, version))}",
                status=UNAVAILABLE,
                hint="load a newer engine; see: module avail",
            )


def is_setuid(path):
    """Return whether a program runs as root, whoever starts it."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return status.st_uid == 0 and bool(status.st_mode & stat.S_ISUID)


def enter(arguments, directory, launchers):
    """Return the command line of an engine that finds our launchers before its own helpers.

    directory  where it has its helpers
    launchers  the directories of ours, with colons between
    It runs in a user and mount namespace, in which ours cover its.
    """
    return [os.path.join(LAUNCHERS, "namespace", "enter"), directory, launchers, *arguments]


def in_group(arguments, unshare, uid, gid):
    """Return a command line that runs in a namespace where the caller's group is called gid.

    unshare   path of that program
    uid, gid  numbers; that of the user stays
    """
    return [unshare, "--user", f"--map-user={uid}", f"--map-group={gid}", *arguments]


def parse_version(path, output):
    """Return (name, numbers) of a line like "apptainer version 1.4.5" or "singularity-ce version 4.1.0-1"."""
    words = output.split()
    name = next((name for name in ENGINES if words and words[0].startswith(name)), None)
    digits = words[-1].partition("-")[0].partition("+")[0].split(".") if name else []
    if not digits or not all(part.isdecimal() for part in digits):
        raise OverlayError(
            f"{quote(path)} does not say which version it is",
            status=UNAVAILABLE,
            hint=f"try it by hand: {quote(path)} --version",
        )
    return name, tuple(map(int, digits))


def find(commands, environ):
    """Return the first Engine of a list of names or paths.

    Raises OverlayError (UNAVAILABLE) when none is here.
    """
    for command in commands:
        path = process.which(command, environ)
        if path:
            real = os.path.basename(os.path.realpath(path))
            for name in (real, os.path.basename(path)):
                if name in ENGINES:
                    return Engine(os.path.abspath(path), name)
            return Engine(os.path.abspath(path), "apptainer")
    raise OverlayError(
        f"no container engine found; looked for {', '.join(map(quote, commands)) or 'none'}",
        status=UNAVAILABLE,
        hint="load one, for example: module load apptainer",
    )


class Launch:
    """A session in the engine's terms.

    image     path of the base image
    overlays  (path, writable) in the order of the layers, top first
    binds     bind specifications, (source, target, read-only) or words of the user's own
    flags     further options of the engine, word by word
    command   what runs inside; None for an interactive shell
    quiet     whether the engine keeps to warnings and errors: else it says at times that a
              server of an image was not quick to go, which alarms and means nothing
    """

    __slots__ = ("binds", "command", "flags", "image", "overlays", "quiet")

    def __init__(self, image, overlays, *, binds=(), flags=(), command=None, quiet=True):
        self.image = image
        self.overlays = overlays
        self.binds = binds
        self.flags = flags
        self.command = command
        self.quiet = quiet

    def arguments(self, engine):
        """Return the engine's command line.

        The engines put the writable overlay on top wherever it stands, and of read-only
        ones the last named on top: so the order is turned round here.
        """
        words = [engine.path, *(["-q"] if self.quiet else [])]
        words.append("exec" if self.command is not None else "shell")
        for path, writable in reversed(self.overlays):
            words += ["--overlay", _csv(path if writable else path + ":ro")]
        for bind in self.binds:
            words += bind_option(bind)
        words += [*self.flags, self.image]
        return words + list(self.command or ())


def bind_option(bind):
    """Return the words that bind one path.

    --bind cannot say names with colons; --mount, which newer engines have, quotes like CSV.
    """
    if isinstance(bind, str):
        return ["--bind", bind]
    source, target, read_only = bind
    if needs_mount(bind):
        fields = ["type=bind", f"source={source}", f"destination={target}"]
        fields += ["ro"] if read_only else []
        return ["--mount", ",".join(map(_csv, fields))]
    if target == source and not read_only:
        return ["--bind", source]
    return ["--bind", f"{source}:{target}{':ro' if read_only else ''}"]


def needs_mount(bind):
    """Return whether a bind can only be said with --mount."""
    return not isinstance(bind, str) and any(
        char in path for path in bind[:2] for char in ':,"\\\n'
    )


def _csv(value):
    """Return a value as one field of the engine's comma-separated lists."""
    if any(char in value for char in ',"\n'):
        return '"' + value.replace('"', '""') + '"'
    return value
