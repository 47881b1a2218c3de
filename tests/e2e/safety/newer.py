"""Servers newer than the machine's own: those in WORK/newer of tools/setup."""

import os
import shutil

from support import ROOT

_WORK = os.environ.get("OVERLAY_WORK", "/opt/overlay-work")
# fuse2fs 1.47.4 or newer, fuse-overlayfs 1.14 or newer.
NEWER = {name: f"{_WORK}/newer/{name}/usr/bin/{name}" for name in ("fuse2fs", "fuse-overlayfs")}


def words_with(programs, directory):
    """Return a function from the name of a program to its words, in a tree with such servers.

    programs   names, of NEWER
    directory  in which the tree is made
    Our launchers look for an engine's own helpers in a directory beside them.
    """
    for name in ("bin", "etc", "lib"):
        shutil.copytree(ROOT / name, directory / name, symlinks=True)
    for kind in ("read-only", "writable", "stack"):
        place = directory / "lib" / "overlay" / "helpers" / kind / "engine"
        place.mkdir()
        for program in programs:
            (place / program).symlink_to(NEWER[program])
    return lambda name: [str(directory / "bin" / name)]
