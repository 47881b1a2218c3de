"""Apptainer: its command lines, its variables, its versions, and where it has its helpers.

What it is told is in apptainer(1) and apptainer-exec(1); Singularity takes the same words.
"""

from __future__ import annotations

import os

from overlay.host import process
from overlay.launch.engine import HELPER_PLACES, Engine, Launch, Launchers, Told, is_setuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from overlay.launch.engine import Bind

# What a session may need, and the first version that has it: of the engines' change logs.
# Asked for only when something is wanted of it, because to ask starts a process.
_FAKEROOT = "--fakeroot with an overlay"
_MOUNT = "--mount"
_NEEDS = {
    "apptainer": {_FAKEROOT: (1, 1), _MOUNT: (1, 0)},
    "singularity": {_FAKEROOT: (3, 8), _MOUNT: (3, 9)},
}

# Each program heeds the variables of the other as well.
_PREFIXES = ("APPTAINER", "SINGULARITY")

# Variables and options that do what our own options do, by the setting that these would set aside.
# Home directory, scratch and work directory are binds of the host's by other names.
_VARIABLES = {
    "binds.paths": ("BIND", "BINDPATH", "MOUNT", "HOME", "SCRATCH", "WORKDIR", "FUSESPEC"),
    "launch.gpu": ("NV", "NVCCLI", "ROCM"),
}
_OPTIONS = {
    "binds.paths": ("--bind", "--mount", "--home", "--scratch", "--workdir", "--fusemount"),
    "launch.gpu": ("--nv", "--rocm", "--nvccli"),
}
_BINDING = "BHSW"  # the letters of such options, which may follow those of others: -cB
_WITH_VALUE = "o"  # of others, what follows is no letter of an option

_CONTAINED = ("-c", "--contain", "-C", "--containall")

# Where an engine below some prefix may keep programs of its own.
_LIBEXEC = ("libexec", "{machine}/libexec", "lib", "lib64", "lib/{machine}-linux-gnu")


class Apptainer(Engine):
    """An Apptainer on this machine.

    prefix  of its variables
    """

    name = "apptainer"
    prefix = "APPTAINER"
    failed = 255
    foreign = tuple(
        f"{prefix}_{word}" for prefix in _PREFIXES for word in ("OVERLAY", "OVERLAYIMAGE")
    )
    setting_aside: Mapping[str, Sequence[str]] = {
        setting: tuple(f"{prefix}_{word}" for prefix in _PREFIXES for word in words)
        for setting, words in _VARIABLES.items()
    }

    def arguments(self, launch: Launch) -> list[str]:
        """Return the command line of a session.

        The writable overlay comes on top wherever it stands, and of read-only ones the last
        named: so the order is turned round here. -q, because else it says at times that a
        server of an image was not quick to go, which alarms and means nothing.
        """
        words = [self.path, *(["-q"] if launch.quiet else [])]
        words.append("exec" if launch.command is not None else "shell")
        for one in reversed(launch.overlays):
            words += ["--overlay", _csv(one.path if one.written else one.path + ":ro")]
        for bind in launch.binds:
            words += bind_option(bind)
        words += [f"--{gpu}" for gpu in launch.gpus]
        words += ["--fakeroot"] if launch.fakeroot else []
        words += ["--no-mount", "cwd"] if launch.no_cwd else []
        words += ["--writable-tmpfs"] if launch.layer else []
        return [*words, *launch.options, launch.image, *(launch.command or ())]

    def unpack(self, image: str, tree: str, scratch: str) -> tuple[list[str], dict[str, str]]:
        """Return the command line that unpacks a base image into a new directory."""
        variables = {f"{prefix}_TMPDIR": scratch for prefix in _PREFIXES}
        return [self.path, "build", "--sandbox", tree, image], variables

    def pull(self, source: str, target: str) -> list[str]:
        """Return the command line that fetches a base image, as somebody types it."""
        return [self.name, "pull", target, source]

    def variable(self, name: str) -> str:
        """Return the variable that sets NAME inside, whatever the image says."""
        return f"{self.prefix}ENV_{name}"

    def told(self, options: Sequence[str], environ: Mapping[str, str]) -> Told:
        """Return what the users tell it themselves, by words of its own and by variables."""
        names = {word.partition("=")[0] for word in options}
        without = self._without(options, environ)

        def given(*words: str) -> bool:
            return any(f"{self.prefix}_{word}" in environ for word in words)

        return Told(
            contained=not set(_CONTAINED).isdisjoint(options) or given("CONTAIN", "CONTAINALL"),
            no_cwd="cwd" in without,
            own_home="home" in without
            or not names.isdisjoint(("-H", "--home", "--no-home"))
            or given("HOME", "NO_HOME"),
            fakeroot=not {"--fakeroot", "-f"}.isdisjoint(options) or given("FAKEROOT"),
            layer=any(word.startswith("--writable-tmpfs") for word in options)
            or given("WRITABLE_TMPFS"),
        )

    def _without(self, options: Sequence[str], environ: Mapping[str, str]) -> set[str]:
        """Return what it is told not to mount: --no-mount."""
        lists = [environ.get(f"{self.prefix}_NO_MOUNT", "")]
        for word, following in zip(options, [*options[1:], ""]):
            option, equals, value = word.partition("=")
            if option == "--no-mount":
                lists.append(value if equals else following)
        return {word for text in lists for word in text.split(",")}

    def sets_aside(self, word: str) -> str | None:
        """Return the setting that an option of its own would set aside, None when it does not."""
        if word.startswith("-") and not word.startswith("--"):
            letters = word[1:]
            for letter in _WITH_VALUE:
                letters = letters.partition(letter)[0]
            return None if set(_BINDING).isdisjoint(letters) else "binds.paths"
        option = word.partition("=")[0]
        return next((name for name, options in _OPTIONS.items() if option in options), None)

    def can_bind(self, path: str) -> bool:
        """Return whether every version can bind a path of this name."""
        return not needs_mount((path, path, False))

    def features(self, launch: Launch) -> list[str]:
        """Return what a session needs that not every version has, in words."""
        mount = _MOUNT in launch.options or any(map(needs_mount, launch.binds))
        needed = {_FAKEROOT: launch.fakeroot, _MOUNT: mount}
        return [feature for feature, used in needed.items() if used]

    def needs(self, name: str, feature: str) -> tuple[int, ...]:
        """Return the first version, of the program that calls itself NAME, with a feature."""
        return _NEEDS[name][feature]

    def parse_version(self, output: str) -> tuple[str, tuple[int, ...]] | None:
        """Return (name, numbers) of what --version prints, None when that is not a version.

        A line like "apptainer version 1.4.5" or "singularity-ce version 4.1.0-1".
        """
        words = output.split()
        name = next((name for name in _NEEDS if words and words[0].startswith(name)), None)
        if name is None:
            return None
        digits = words[-1].partition("-")[0].partition("+")[0].split(".")
        if not all(part.isdecimal() for part in digits):
            return None
        return name, tuple(map(int, digits))

    def libexec(self) -> list[str]:
        """Return the directories with programs of its own: its starter, and often helpers.

        Where it looks before PATH; packages for Enterprise Linux have the helpers there.
        """
        prefix = os.path.dirname(os.path.dirname(os.path.realpath(self.path)))
        machine = os.uname().machine
        names = [place.format(machine=machine) for place in _LIBEXEC]
        places = [f"{prefix}/{name}/{self.name}/bin" for name in names]
        return [place for place in places if os.path.isdir(place)]

    def is_setuid(self) -> bool:
        """Return whether it is installed setuid root, and then mounts as root."""
        return any(is_setuid(f"{place}/starter-suid") for place in self.libexec())

    def launchers(self, environ: Mapping[str, str]) -> Launchers | None:
        """Return how our launchers come before its helpers; None: it does not take ours.

        Without a squashfuse_ll it unpacks base images, and a launcher without its program
        would be in the way.
        """
        own = self.libexec()
        if any(is_setuid(f"{place}/starter-suid") for place in own):
            return None  # it looks in places of its own only
        for place in own:
            if os.path.exists(f"{place}/fuse-overlayfs"):
                return Launchers(place, base=os.path.exists(f"{place}/squashfuse_ll"))
        if all(_is_ours_to_start(name, environ) for name in ("fuse-overlayfs", "fuse2fs")):
            return Launchers(base=_is_ours_to_start("squashfuse_ll", environ))
        return None


def _is_ours_to_start(name: str, environ: Mapping[str, str]) -> bool:
    """Return whether a helper along PATH is where our launchers find it."""
    path = process.which(name, environ)
    return path is not None and os.path.dirname(path) in HELPER_PLACES


def bind_option(bind: Bind) -> list[str]:
    """Return the words that bind one path.

    --bind cannot say names with colons; --mount, which newer engines have, quotes like CSV.
    """
    if isinstance(bind, str):
        return ["--bind", bind]
    source, target, read_only = bind
    if needs_mount(bind):
        fields = ["type=bind", f"source={source}", f"destination={target}"]
        fields += ["ro"] if read_only else []
        return [_MOUNT, ",".join(map(_csv, fields))]
    if target == source and not read_only:
        return ["--bind", source]
    return ["--bind", f"{source}:{target}{':ro' if read_only else ''}"]


def needs_mount(bind: Bind) -> bool:
    """Return whether a bind can only be said with --mount."""
    return not isinstance(bind, str) and any(
        char in path for path in bind[:2] for char in ':,"\\\n'
    )


def _csv(value: str) -> str:
    """Return a value as one field of the engine's comma-separated lists."""
    if any(char in value for char in ',"\n'):
        return '"' + value.replace('"', '""') + '"'
    return value


ENGINE = Apptainer
