"""A directory of exposed programs: what is written into it, and removed from it."""

from __future__ import annotations

import json
import os

from overlay.errors import CANNOT_CREATE, MISSING, OverlayError, cannot, quote, reason
from overlay.expose import texts
from overlay.expose.texts import MARK
from overlay.safety import generated
from overlay.shared.key import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

# Names all that was written, so that all of it can be removed.
LIST = ".exposed"


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
    words: Sequence[str], found: Mapping[str, str], *, directory: str, name: str
) -> tuple[dict[str, str], list[str]]:
    """Return the same of a kernel of Jupyter, as its documentation of kernel specs has them.

    found      path inside of each kernel.json -> what is in it
    directory  absolute, of the kernel; name: as Jupyter is to call it
    Raises OverlayError (MISSING) when there is none inside, or none that is meant.
    """
    path, specification = _choose(found, name)
    place = os.path.dirname(path).partition("/share/jupyter/")[0]
    inside = [str(word) for word in specification["argv"]]
    if "/" not in inside[0]:
        inside[0] = os.path.join(place, "bin", inside[0])
    if inside[-1] != "{connection_file}":
        inside = _last(inside, path)
    start = os.path.join(directory, "start")
    document = {
        "metadata": {"about": MARK, **_object(specification.get("metadata"))},
        "argv": [start, "{connection_file}"],
        "display_name": f"{specification.get('display_name', name)} ({name})",
        "language": specification.get("language", "python"),
        "interrupt_mode": specification.get("interrupt_mode", "signal"),
    }
    variables = [f"{key}={value}" for key, value in _object(specification.get("env")).items()]
    if variables:
        inside = ["/usr/bin/env", *variables, *inside]
    written = {
        start: texts.kernel_start(words, inside[:-1]),
        os.path.join(directory, "kernel.json"): json.dumps(document, indent=1) + "\n",
    }
    return written, [start]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _choose(found: Mapping[str, str], name: str) -> tuple[str, dict[str, Any]]:
    """Return (path, what it says) of the kernel inside that is meant."""
    known: dict[str, tuple[str, dict[str, Any]]] = {}
    for path, text in found.items():
        try:
            said = json.loads(text)
        except ValueError:
            continue
        if isinstance(said, dict) and isinstance(said.get("argv"), list) and said["argv"]:
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


def _last(words: Sequence[str], path: str) -> list[str]:
    """Return the words with the connection file as the last one, where that is the same."""
    if "{connection_file}" not in words:
        raise OverlayError(
            f"the kernel {quote(path)} takes no connection file", status=MISSING, hint=None
        )
    place = words.index("{connection_file}")
    option = words[place - 1 : place] if words[place - 1].startswith("-") else []
    before = words[: place - len(option)]
    return [*before, *words[place + 1 :], *option, "{connection_file}"]


def put(written: Mapping[str, str], programs: Iterable[str], directory: str) -> None:
    """Write all into a directory; what an earlier time has left there and is no more, is removed.

    Raises OverlayError (CANNOT_CREATE); nothing is written then when a file is in the way that is
    somebody else's.
    """
    place = os.path.join(directory, LIST)
    before = _listed(directory)
    names = sorted(os.path.relpath(path, directory) for path in written)
    for path in written:
        _make(os.path.dirname(path))
    generated.write(
        {**written, place: "".join(f"{line}\n" for line in (f"# {MARK}", *names))},
        MARK,
        "DIR",
        programs=programs,
    )
    for name in set(before) - set(names):
        _remove(directory, name)


def _make(directory: str) -> None:
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise cannot(directory, reason(error)) from None


def _listed(directory: str) -> list[str]:
    """Return the names, below a directory, of what was written into it."""
    path = os.path.join(directory, LIST)
    if not generated.is_ours(path, MARK):
        return []
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()[1:]
    return [
        line for line in lines if line and not line.startswith("/") and ".." not in line.split("/")
    ]


def remove(directory: str) -> int:
    """Remove from a directory what was written into it, and return how many files that were.

    Raises OverlayError (MISSING) when nothing was.
    """
    names = _listed(directory) if os.path.isdir(directory) else []
    if not names:
        raise OverlayError(
            f"nothing was exposed in {quote(directory)}",
            status=MISSING,
            hint="expose-overlay --remove DIR: the directory that was named when it was exposed",
        )
    count = sum(_remove(directory, name) for name in names)
    _remove(directory, LIST)
    return count


def _remove(directory: str, name: str) -> bool:
    """Remove a file of ours, and directories that are then empty; return whether it was there."""
    path = os.path.join(directory, name)
    try:
        if os.path.islink(path) or not generated.is_ours(path, MARK):
            return False
        os.unlink(path)
    except OSError as error:
        raise OverlayError(
            f"cannot remove {quote(path)}: {reason(error)}", status=CANNOT_CREATE
        ) from None
    while name:
        name = os.path.dirname(name)
        try:
            os.rmdir(os.path.join(directory, name))
        except OSError:
            break  # it is not empty
    return True
