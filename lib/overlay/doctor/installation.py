"""The doctor on the system, and on our own installation: Python, precompiled files, modulefile."""

from __future__ import annotations

import os
import platform
import re
import sys

from overlay import __version__
from overlay.doctor.check import OK, PATIENCE, PROBLEM, WARNING, Check
from overlay.errors import quote
from overlay.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from overlay.doctor.check import Node


def system(node: Node) -> Iterator[Check]:
    """Yield the Checks of versions: ours, the kernel's, the distribution's."""
    yield Check("overlay", OK, __version__, "these commands")
    here = os.uname()
    yield Check("kernel", OK, f"{here.sysname} {here.release} {here.machine}", "mounts and locks")
    yield Check("distribution", OK, _distribution(), "the packages that hints name")
    if os.getuid() == 0:
        yield Check(
            "user",
            WARNING,
            "root",
            "root may do what users may not: some of what follows does not hold for them",
            "run overlay-admin doctor as an ordinary user",
        )
    if "SLURM_JOB_ID" in node.environ:
        yield Check(
            "batch job", OK, f"Slurm {node.environ['SLURM_JOB_ID']}", "limits of the job hold"
        )


def _distribution() -> str:
    """Return the name of the distribution, from os-release(5)."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found = re.search(r'^PRETTY_NAME="?([^"\n]*)', file.read(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return found[1]
    return "unknown"


def python(_node: Node) -> Iterator[Check]:
    """Yield the Checks of Python, and of our precompiled files."""
    version = platform.python_version()
    yield Check(
        "Python", OK, f"{version}, {quote(sys.executable or 'unknown')}", "the commands run in it"
    )
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    missing: list[str] = []
    stale: list[str] = []
    for path in _sources(package):
        state = _compiled(path)
        if state:
            (missing if state == "missing" else stale).append(os.path.relpath(path, package))
    why = "without them every start of every command compiles anew"
    name = "precompiled files"
    if stale:
        yield Check(
            name,
            PROBLEM,
            f"{_some(stale)}: not the same as the source, and taken in its place",
            "what was changed in the source has no effect",
            "make install again",
        )
    elif missing and not _can_write(package):
        yield Check(
            name, WARNING, f"{_some(missing)}: none", why, "make install again, with this Python"
        )
    else:
        yield Check(name, OK, "they are there" if not missing else "made as they are needed", why)


def _sources(package: str) -> Iterator[str]:
    for directory, _directories, names in os.walk(package):
        yield from (os.path.join(directory, name) for name in sorted(names) if name.endswith(".py"))


def _compiled(path: str) -> str | None:
    """Return None when a module's bytecode is fit for use, else "missing" or "stale".

    The header of a .pyc file, PEP 552: magic number, flags, then the hash of the source, or
    its time and size. Bit 0 of the flags is set for a hash, bit 1 when it is compared.
    """
    from importlib import util

    try:
        with open(util.cache_from_source(path), "rb") as file:
            head = file.read(16)
        flags = int.from_bytes(head[4:8], "little")
        if len(head) < 16 or head[:4] != util.MAGIC_NUMBER:
            return "missing"
        with open(path, "rb") as file:
            source = file.read()
    except OSError:
        return "missing"
    if flags & 1:
        same = head[8:] == util.source_hash(source)
        return None if same else "missing" if flags & 2 else "stale"
    status = os.stat(path)
    recorded = (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
    same = head[8:] == b"".join(number.to_bytes(4, "little") for number in recorded)
    return None if same else "missing"


def _can_write(package: str) -> bool:
    return os.access(package, os.W_OK) and not sys.dont_write_bytecode


def _some(names: Sequence[str]) -> str:
    """Return a few names, and how many more there are."""
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def modulefile(node: Node) -> Iterator[Check]:
    """See that the modulefile of this version leads to this tree; ask the module system here.

    It finds the tree from its own place, so an installation must not be taken apart.
    """
    environ, root = node.environ, node.root
    why = "module load overlay puts the commands on PATH"
    top = os.path.dirname(root)
    # A package of the distribution has its tree in lib/overlay, and the modulefile in share.
    share = os.path.join(os.path.dirname(os.path.dirname(top)), "share")
    packaged = [(share, __version__)] if top.endswith("/lib/overlay") else []
    # An installation's modulefile has the name of the version.
    known = [(top, __version__), (root, "clone"), *packaged]
    found = [(place, name) for place, name in known if _has_modulefile(place, name)]
    if not found:
        yield _without_modulefile(root, why)
        return
    place, name = found[0]
    directory = os.path.join(place, "modulefiles")
    below = os.path.join(top if place == share else place, name)
    tree = below if os.path.isdir(os.path.join(below, "bin")) else place
    if not os.path.exists(tree) or not os.path.samefile(tree, root):
        yield Check("modulefile", PROBLEM, f"it leads to {quote(tree)}", why, "make install again")
        return
    program = environ.get("LMOD_CMD") or environ.get("MODULES_CMD")
    if not program or not os.access(program, os.X_OK):
        yield Check(
            "modulefile", OK, f"module use {quote(directory)}; no module system to try it in", why
        )
        return
    loaded = ("_ModuleTable", "__LMOD", "__MODULES", "LOADEDMODULES", "_LMFILES_")
    clean = {name: value for name, value in environ.items() if not name.startswith(loaded)}
    parts = [directory, *filter(None, environ.get("MODULEPATH", "").split(":"))]
    clean["MODULEPATH"] = ":".join(dict.fromkeys(parts))
    result = process.ask([program, "bash", "load", f"overlay/{name}"], clean, PATIENCE)
    if os.path.join(tree, "bin") in result.output:
        yield Check("modulefile", OK, f"module use {quote(directory)}; it loads", why)
        return
    lines = [line.strip() for line in result.errors.splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line.lower()), " ".join(lines[:1]))
    said = said or "it does not load"
    yield Check(
        "modulefile", PROBLEM, said, why, "see [engine] module, and what the module system says"
    )


def _without_modulefile(root: str, why: str) -> Check:
    """Return the Check of a tree without a modulefile of ours, as some tools leave it."""
    if os.path.isdir(os.path.join(root, "easybuild")):
        return Check("modulefile", OK, "the one that EasyBuild has written", why)
    if not os.path.isdir(os.path.join(root, "lib", "overlay")):
        return Check("modulefile", OK, "none; pip has installed this, and makes none", why)
    return Check("modulefile", WARNING, "there is none for this tree", why, "make install")


def _has_modulefile(place: str, name: str) -> bool:
    """Return whether there is a modulefile of a name, for either module system, below a place."""
    path = os.path.join(place, "modulefiles", "overlay", name)
    return os.path.exists(path) or os.path.exists(f"{path}.lua")
