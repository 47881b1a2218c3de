"""Environments in a tree: what is there that wants to be activated."""

from __future__ import annotations

import os
import stat

from overlay.image.ext3 import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Optional, TypeVar

    from overlay.image.ext3_image import Ext3Image
    from overlay.image.ext3_read import Reader

    D = TypeVar("D")
    Names = Callable[[D], dict[str, Optional[D]]]

_DEEPEST = 4  # directories above an environment, as in /opt/sw/python/env

# The file that users of hand-made overlays keep their activation in.
SCRIPT = "/ext3/env.sh"

_KIND_DIRECTORY = 2  # of entries of directories in ext3, with the feature filetype


def environments(tree: str, place: str = "/") -> Iterator[str]:
    """Yield the paths inside of the environments in a tree of the host.

    place  where its top is inside
    A venv has pyvenv.cfg (PEP 405), a prefix of conda has conda-meta/. What is inside an environment
    belongs to that. Links are not followed.
    """
    if os.path.normpath(place) == "/" and os.path.isfile(tree + SCRIPT):
        yield SCRIPT
    yield from _below(_of_host, tree, "" if place == "/" else place, _DEEPEST)


def environments_in(image: Ext3Image) -> Iterator[str]:
    """Yield the paths inside of the environments in an ext3 image; none in one that is damaged."""
    reader = image.reader()
    try:
        number, _inode = reader.upper()
        script = reader.lookup(b"upper" + SCRIPT.encode())
        if script and script[1].is_file:
            yield SCRIPT
        seen: set[int] = set()
        yield from _below(lambda one: _of_image(reader, one, seen), number, "", _DEEPEST)
    except (FormatError, OSError):
        return


def can_be_one(path: str) -> bool:
    """Return whether a path of the host can be activated: an environment, or a file for a shell.

    As learn.py sees it inside. Raises OSError.
    """
    if os.path.isdir(path):
        names = os.listdir(path)
        return (
            "bin" in names
            or "conda-meta" in names
            or any(os.path.isfile(os.path.join(path, name, "DESCRIPTION")) for name in names)
        )
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and b"\0" not in os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _below(names: Names[D], directory: D, place: str, depth: int) -> Iterator[str]:
    """Yield the environments below a directory.

    names  gives the names in a directory, each with the directory that it is, or None
    place  the path of the directory inside, empty for /
    """
    found = names(directory)
    if "bin" in found and ("pyvenv.cfg" in found or "conda-meta" in found):
        yield place or "/"
        return
    if not depth:
        return
    for name, below in sorted(found.items()):
        if below is not None:
            yield from _below(names, below, f"{place}/{name}", depth - 1)


def _of_host(directory: str) -> dict[str, str | None]:
    try:
        with os.scandir(directory) as found:
            return {
                entry.name: entry.path if entry.is_dir(follow_symlinks=False) else None
                for entry in found
            }
    except OSError:
        return {}  # what cannot be read is copied by nobody either


def _of_image(reader: Reader, directory: int, seen: set[int]) -> dict[str, int | None]:
    if directory in seen:
        return {}  # it has two names: nobody makes that but to do harm
    seen.add(directory)
    return {
        os.fsdecode(name): number if kind == _KIND_DIRECTORY else None
        for name, number, kind in reader.entries(reader.inode(directory))
        if name not in (b".", b"..")
    }
