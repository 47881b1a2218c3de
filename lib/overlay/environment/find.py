"""Environments in a tree: what is there that wants to be activated."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DEEPEST = 4  # directories above an environment, as in /opt/sw/python/env

# The file that users of hand-made overlays keep their activation in.
SCRIPT = "/ext3/env.sh"


def environments(tree: str, place: str = "/") -> Iterator[str]:
    """Yield the paths inside of the environments in a tree of the host.

    place  where its top is inside
    A venv has pyvenv.cfg (PEP 405), a prefix of conda has conda-meta/. What is inside an environment
    belongs to that. Links are not followed.
    """
    if os.path.normpath(place) == "/" and os.path.isfile(tree + SCRIPT):
        yield SCRIPT
    yield from _below(tree, "" if place == "/" else place, _DEEPEST)


def _below(directory: str, place: str, depth: int) -> Iterator[str]:
    try:
        with os.scandir(directory) as found:
            entries = {entry.name: entry for entry in found}
    except OSError:
        return  # what cannot be read is copied by nobody either
    if "bin" in entries and ("pyvenv.cfg" in entries or "conda-meta" in entries):
        yield place or "/"
        return
    if not depth:
        return
    for name, entry in sorted(entries.items()):
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path, f"{place}/{name}", depth - 1)
