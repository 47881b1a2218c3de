"""Environments that name the place where they were made, and run what is there when moved.

A venv writes its own path into every script of bin (`#!/old/env/bin/python`) and into
activate; conda writes its prefix into many more files. The python of a venv is a link to the one
that has made it.
"""

from __future__ import annotations

import os
import re
import stat

from overlay.errors import quote
from overlay.host.places import is_below
from overlay.size import format_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MARKS = {"venv": "pyvenv.cfg", "conda": "conda-meta"}
_DEEPEST = 2  # directories below a source in which environments are looked for

# The interpreter of a script, also behind the line of sh that long paths get.
_INTERPRETER = re.compile(rb"""^(?:#!|#!/bin/sh\n'''exec' "?)(/[^\n"]*)/bin/python[\d.]*["\s]""")
_HEAD = 1 << 16  # bytes of a script that are looked at
_NOT_OWN = ("", "/usr", "/usr/local")  # where the base image has its python
_OF_BASE = ("/usr", "/bin")  # the same, with all below
_MOST_LINKS = 8


def find(tree: str, dest: str, dests: Iterable[str] = ()) -> list[str]:
    """Return a sentence for each environment that was moved, or whose python is elsewhere.

    tree   a directory of the host with what will be at dest inside
    dests  where other things that come with it will be
    """
    found = []
    for environment, kind in _environments(tree, _DEEPEST):
        inside = os.path.normpath(os.path.join(dest, os.path.relpath(environment, tree)))
        old, count = _names(os.path.join(environment, "bin"), inside)
        if count:
            found.append(_sentence(kind, inside, old, count))
        python = _python(environment)
        if python and not (is_below(python, [*_OF_BASE, *dests]) or _is_in(python, tree, dest)):
            found.append(
                f"the python of {quote(inside)} is {quote(python)}, which is not in the overlay: it"
                f" runs only where that is seen, on this machine or another; {_anew(inside)}"
            )
    return found


def _sentence(kind: str, inside: str, old: str, count: int) -> str:
    if kind == "venv":
        way = _anew(inside)
    else:
        way = (
            f"pack it first: conda-pack -p {quote(old)} -o env.tar.gz; then --from"
            f" {quote('env.tar.gz:' + inside)}, and inside {quote(inside + '/bin/conda-unpack')}"
        )
    names = "names" if count == 1 else "name"
    return (
        f"{format_files(count)} of {quote(inside + '/bin')} {names} the place where the environment"
        f" was made, {quote(old)}, and will not run what is in the overlay; {way}"
    )


def _anew(inside: str) -> str:
    """Return how a venv is made in the place where it is going to be."""
    return f"make it anew there: create-overlay -f FILE, with python3 -m venv {quote(inside)}"


def _python(environment: str) -> str | None:
    """Return the path to which the python of an environment is a link; None of one of its own."""
    path = os.path.join(environment, "bin", "python")
    for _link in range(_MOST_LINKS):
        try:
            path = os.path.join(os.path.dirname(path), os.readlink(path))
        except OSError:
            return None
        if not is_below(os.path.normpath(path), [environment]):
            return os.path.normpath(path)
    return None


def _is_in(path: str, tree: str, dest: str) -> bool:
    """Return whether a path inside is that of something in a tree, which will be at dest."""
    below = os.path.relpath(path, dest)
    return not below.startswith("..") and os.path.lexists(os.path.join(tree, below))


def _environments(tree: str, deep: int) -> Iterator[tuple[str, str]]:
    """Yield (directory, kind) of the environments in a tree, its top included."""
    for kind, mark in _MARKS.items():
        if os.path.lexists(os.path.join(tree, mark)):
            yield tree, kind
            return
    if not deep:
        return
    try:
        with os.scandir(tree) as entries:
            below = sorted(one.path for one in entries if one.is_dir(follow_symlinks=False))
    except OSError:
        return  # closed: told where it is read
    for path in below:
        yield from _environments(path, deep - 1)


def _names(directory: str, inside: str) -> tuple[str, int]:
    """Return the place that most scripts of a directory name, and how many files do.

    inside  the place where the environment is going to be, which is not counted
    """
    heads = [head for head in map(_head, _files(directory)) if head]
    places: dict[bytes, int] = {}
    for head in heads:
        match = _INTERPRETER.match(head)
        place = match[1] if match else b""
        if os.fsdecode(place) not in (*_NOT_OWN, inside):
            places[place] = places.get(place, 0) + 1
    if not places:
        return "", 0
    old = max(places, key=lambda place: places[place])
    return os.fsdecode(old), sum(old in head for head in heads)


def _files(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [one.path for one in entries if one.is_file(follow_symlinks=False)]
    except OSError:
        return []


def _head(path: str) -> bytes:
    """Return what a file begins with; nothing of what cannot be read, or is not a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return os.read(descriptor, _HEAD) if regular else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)
