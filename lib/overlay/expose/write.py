"""A directory of exposed programs: what is written into it, and removed from it."""

from __future__ import annotations

import json
import os

from overlay.errors import (
    MISSING,
    OverlayError,
    cannot,
    printable,
    quote,
    reason,
)
from overlay.expose import listed, texts
from overlay.expose.texts import MARK
from overlay.host.path import EXPOSED
from overlay.safety import generated
from overlay.shared.key import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

_WIDEST = 200  # characters of what a kernel is called


def commands(
    words: Sequence[str],
    programs: Mapping[str, str],
    *,
    directory: str,
    about: texts.About,
    ids: Sequence[str],
) -> tuple[dict[str, str], list[str]]:
    """Return (texts by their paths, paths of the programs among them).

    words      start a session, up to the options
    programs   name -> path inside
    directory  absolute
    about      what the module says of itself
    ids        by which a session is known to have all of the overlays; empty where it could not be
    """
    bin_ = os.path.join(directory, "bin")
    start = os.path.join(directory, texts.START)
    noted = name_of("\n".join((directory, *words)))
    words = [*words, "--quick", noted, "--"]
    scripts = {
        os.path.join(bin_, program): texts.command(
            words, path, name=noted, directory=directory, overlays=about.overlays, ids=ids
        )
        for program, path in programs.items()
    }
    modules = os.path.join(directory, "modulefiles", about.name)
    written = {
        **scripts,
        start: texts.start(),
        modules: texts.tcl(about, bin_),
        f"{modules}.lua": texts.lua(about, bin_),
    }
    return written, list(scripts)


def kernel(
    words: Sequence[str],
    found: Mapping[str, str],
    programs: Iterable[str],
    *,
    directory: str,
    name: str,
) -> tuple[dict[str, str], list[str]]:
    """Return the same of a kernel of Jupyter, as its documentation of kernel specs has them.

    words      start a session, up to the options
    found      path inside of each kernel.json -> what is in it
    programs   paths of what there is inside
    directory  absolute, of the kernel; name: as Jupyter is to call it
    Raises OverlayError (MISSING) when there is none inside, or none that is meant.
    """
    path, said = _choose(found, name)
    place, _share, _rest = path.partition("/share/jupyter/")
    inside = [
        word.replace("{resource_dir}", os.path.dirname(path)).replace("{prefix}", place)
        for word in said["argv"]
    ]
    if "/" not in inside[0] and os.path.join(place, "bin", inside[0]) in programs:
        inside[0] = os.path.join(place, "bin", inside[0])
    if not any(texts.CONNECTION in word for word in inside):
        raise OverlayError(
            f"the kernel {quote(path)} takes no connection file", status=MISSING, hint=None
        )
    start = os.path.join(directory, "start")
    # What is inside may be somebody else's: of it only what is known, and nothing that could rule a
    # terminal, or choose how Jupyter itself starts the kernel (metadata, kernel_provisioner).
    metadata = {"about": MARK, "debugger": _object(said.get("metadata")).get("debugger") is True}
    document = {
        "metadata": metadata,
        "argv": [start, texts.CONNECTION],
        "display_name": f"{_words(said.get('display_name'), name)} ({name})",
        "language": _words(said.get("language"), "python"),
        "interrupt_mode": "message" if said.get("interrupt_mode") == "message" else "signal",
    }
    variables = [
        f"{key}={value}"
        for key, value in _object(said.get("env")).items()
        if key.isidentifier() and isinstance(value, str) and _is_word(value)
    ]
    if variables:
        inside = ["/usr/bin/env", *variables, *inside]
    written = {
        start: texts.kernel_start(words, inside),
        os.path.join(directory, "kernel.json"): json.dumps(document, indent=1) + "\n",
    }
    return written, [start]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(value: object, without: str) -> str:
    """Return what is shown to people."""
    return printable(value)[:_WIDEST] if isinstance(value, str) and value else without


def _is_word(value: object) -> bool:
    """Return whether a value can be a word of a command line."""
    try:
        return isinstance(value, str) and b"\0" not in value.encode()
    except UnicodeEncodeError:  # JSON can name half of a pair
        return False


def _choose(found: Mapping[str, str], name: str) -> tuple[str, dict[str, Any]]:
    """Return (path, what it says) of the kernel inside that is meant."""
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    for path, text in found.items():
        try:
            said = _object(json.loads(text))
        except (ValueError, RecursionError):
            continue
        words = said.get("argv")
        if isinstance(words, list) and words and all(map(_is_word, words)):
            known.setdefault(os.path.basename(os.path.dirname(path)), (path, said))
    for one in (name, *(known if len(known) == 1 else ()), "python3"):
        if one in known:
            return known[one]
    if known:
        raise OverlayError(
            f"there are several kernels inside: {', '.join(map(quote, sorted(known)))}",
            status=MISSING,
            hint=f"name one of them: --kernel {quote(min(known))}",
        )
    raise OverlayError(
        "there is no kernel of Jupyter in what the overlays make ready",
        status=MISSING,
        hint="install one: update-overlay OVERLAY -- pip install ipykernel",
    )


def put(written: Mapping[str, str], programs: Iterable[str], directory: str) -> list[str]:
    """Write all into a directory; what an earlier time has left there and is no more, is removed.

    Returns the names, relative to the directory, of what was removed.
    Raises OverlayError (CANNOT_CREATE); nothing is written then when a file is in the way that is
    somebody else's.
    """
    before = listed.read(directory)
    names = sorted(os.path.relpath(path, directory) for path in written)
    for name in names:
        _make(directory, os.path.dirname(name))
    generated.write(
        {**written, os.path.join(directory, EXPOSED): listed.text(names)},
        MARK,
        "DIR",
        programs=programs,
    )
    gone = sorted(set(before) - set(names))
    return [name for name in gone if listed.remove_one(directory, name)]


def _make(directory: str, below: str) -> None:
    """Make a directory, and those below it; a link of somebody else's is not followed."""
    path = directory
    try:
        os.makedirs(path, exist_ok=True)
        for part in filter(None, below.split("/")):
            path = os.path.join(path, part)
            if os.path.islink(path) and os.lstat(path).st_uid not in (os.geteuid(), 0):
                raise cannot(path, "it is a link that somebody else has made")
            os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise cannot(path, reason(error)) from None
