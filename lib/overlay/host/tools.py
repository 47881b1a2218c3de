"""TOOLS, the one table of the system's programs that are started."""

from __future__ import annotations


class Tool:
    """A program of the system.

    package    what brings it
    why        what it is for, and what would go wrong without it
    essential  whether overlays cannot be made or used without it
    option     what makes it say its version; None for one that does not say it
    word       what stands before the number in what it says, a regular expression
    """

    __slots__ = ("essential", "name", "option", "package", "why", "word")

    def __init__(
        self,
        name: str,
        package: str,
        why: str,
        *,
        essential: bool = False,
        option: str | None = "--version",
        word: str | None = None,
    ) -> None:
        self.name = name
        self.package = package
        self.why = why
        self.essential = essential
        self.option = option
        self.word = word or name


_E2FSPROGS, _UTIL_LINUX, _SQUASHFS_TOOLS = "e2fsprogs", "util-linux", "squashfs-tools"
_SQUASHFUSE = "squashfuse"
_MOUNTED = "base images and squashfs overlays are mounted with it"

TOOLS = {
    tool.name: tool
    for tool in (
        Tool(
            "fuse2fs",
            "fuse2fs",
            "the engine mounts ext3 overlays with it",
            essential=True,
            option="-V",
        ),
        Tool(
            "fuse-overlayfs",
            "fuse-overlayfs",
            "it lays a writable overlay over the base image",
            essential=True,
        ),
        Tool("squashfuse_ll", _SQUASHFUSE, _MOUNTED, essential=True, word=_SQUASHFUSE),
        Tool("squashfuse", _SQUASHFUSE, _MOUNTED, essential=True),
        Tool(
            "mke2fs",
            _E2FSPROGS,
            "create-overlay makes overlays with it",
            essential=True,
            option="-V",
        ),
        Tool(
            "e2fsck",
            _E2FSPROGS,
            "an overlay that a killed session left unclean is repaired with it; without it"
            " nothing is mounted that is not clean",
            essential=True,
            option="-V",
        ),
        Tool(
            "e2undo",
            _E2FSPROGS,
            "a repair or a resize that was interrupted is taken back with it",
            option=None,
        ),
        Tool(
            "e2image",
            _E2FSPROGS,
            "before a repair, the tables of an overlay are copied with it",
            essential=True,
            option="-V",
        ),
        Tool(
            "debugfs",
            _E2FSPROGS,
            "deletions are tidied up, and files rescued, with it",
            option="-V",
        ),
        Tool("resize2fs", _E2FSPROGS, "overlays grow with it", option="-V"),
        Tool(
            "fallocate",
            _UTIL_LINUX,
            "create-overlay reserves disk blocks with it",
            essential=True,
            word=_UTIL_LINUX,
        ),
        Tool(
            "unshare",
            _UTIL_LINUX,
            "the content of overlays is read with it, without mounting them for a session",
            essential=True,
            word=_UTIL_LINUX,
        ),
        Tool("mksquashfs", _SQUASHFS_TOOLS, "overlays are packed with it", option="-version"),
        Tool(
            "unsquashfs",
            _SQUASHFS_TOOLS,
            "squashfs files are listed and unpacked with it",
            option="-version",
        ),
        Tool(
            "cp",
            "coreutils",
            "directories and damaged overlays are copied with it",
            word="coreutils",
        ),
        Tool(
            "find",
            "findutils",
            "directories are measured with it, for create-overlay --from",
            word="findutils",
        ),
        Tool("zstd", "zstd", "create-overlay --from FILE.tar.zst", word="Zstandard|zstd"),
    )
}
