"""The doctor on the programs of the system that are started."""

import re

from overlay.doctor.check import OK, PATIENCE, PROBLEM, WARNING, Check, known_bad
from overlay.doctor.engine import or_warning
from overlay.errors import OverlayError, quote
from overlay.host import process


class Tool:
    """A program of the system.

    package   what brings it
    why       what it is needed for
    missing   the state without it
    option    what makes it say its version
    word      what stands before the number in what it says, a regular expression
    """

    def __init__(self, name, package, why, missing, option="--version", word=None):
        self.name = name
        self.package = package
        self.why = why
        self.missing = missing
        self.option = option
        self.word = word or name

    def version(self, path, environ):
        """Return its version as text, "unknown" when it does not say one, None when it fails."""
        try:
            said = process.ask([path, self.option], environ, PATIENCE)
        except (OverlayError, TimeoutError):
            return None
        pattern = rf"(?:{self.word})\b.{{0,40}}?(\d+(?:\.\d+)+)"
        found = re.search(pattern, said.output + said.errors)
        return found[1] if found else "unknown" if said.status >= 0 and said.status < 126 else None


# What the engine starts; an engine that is installed setuid root can do without.
_HELPERS = (
    Tool("fuse2fs", "fuse2fs", "the engine mounts ext3 overlays with it", PROBLEM, "-V"),
    Tool("fuse-overlayfs", "fuse-overlayfs", "it lays a writable overlay over the base image", PROBLEM),
    Tool("squashfuse_ll", "squashfuse", "base images and squashfs overlays are mounted with it",
         PROBLEM, word="squashfuse"),
)  # fmt: skip

_TOOLS = (
    Tool("mke2fs", "e2fsprogs", "create-overlay makes overlays with it", PROBLEM, "-V"),
    Tool("e2fsck", "e2fsprogs", "an overlay that a killed session left unclean is repaired with it;"
         " without it nothing is mounted that is not clean", PROBLEM, "-V"),
    Tool("debugfs", "e2fsprogs", "deletions are tidied up, and files rescued, with it", WARNING, "-V"),
    Tool("resize2fs", "e2fsprogs", "overlays grow with it", WARNING, "-V"),
    Tool("fallocate", "util-linux", "create-overlay reserves disk blocks with it", PROBLEM,
         word="util-linux"),
    Tool("unshare", "util-linux", "the content of overlays is read with it, without mounting them"
         " for a session", PROBLEM, word="util-linux"),
    Tool("mksquashfs", "squashfs-tools", "overlays are packed with it", WARNING, "-version"),
    Tool("unsquashfs", "squashfs-tools", "squashfs files are listed and unpacked with it", WARNING,
         "-version"),
    Tool("zstd", "zstd", "create-overlay --from FILE.tar.zst", WARNING, word="Zstandard|zstd"),
)  # fmt: skip


def programs(environ, engine):
    """Yield the Checks of the programs that the engine and we start."""
    for tool in _HELPERS:
        path = engine.helper(tool.name, environ)
        if path is None and tool.name == "squashfuse_ll":
            path = engine.helper("squashfuse", environ)
        yield _program(tool, path, environ, or_warning(engine))
    for tool in _TOOLS:
        yield _program(tool, process.which(tool.name, environ), environ, tool.missing)


def _program(tool, path, environ, missing):
    """Return the Check of one program."""
    if path is None:
        return Check(tool.name, missing, "it is missing", tool.why, f"install {tool.package}")
    version = tool.version(path, environ)
    if version is None:
        advice = f"see what it says: {quote(path)} {tool.option}; install {tool.package} anew"
        return Check(tool.name, missing, f"{quote(path)} does not run", tool.why, advice)
    bad = known_bad(tool.name, version)
    words = f"{version}, {quote(path)}"
    return (
        Check(tool.name, bad[0], words, bad[1], bad[2])
        if bad
        else Check(tool.name, OK, words, tool.why)
    )
