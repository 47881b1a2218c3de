"""Which of the programs of an environment become commands."""

from __future__ import annotations

import os
import re

from overlay.errors import MISSING, OverlayError, quote
from overlay.host.tools import TOOLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# What an environment is made for, whatever the host has.
_ALWAYS = re.compile(r"(python|pip)[0-9.]*|R|Rscript")

# They change a shell, and cannot do that from outside.
_FOR_SHELLS = re.compile(r"(de)?activate(\..*)?|Activate\.ps1|conda-(de)?activate")

# What sessions are started with: exposed, it would start one to start one. The engines of a site
# are asked of its settings.
_FOR_SESSIONS = {
    *(name for name in TOOLS if name not in ("cp", "find", "unshare", "zstd")),
    *("apptainer", "singularity", "starter", "starter-suid"),
    *("fusermount", "fusermount3", "newgidmap", "newuidmap", "nvidia-container-cli"),
}
_OURS = re.compile(r"[a-z]+-overlays?(-conda)?|overlay-admin")

# A name that needs no quoting anywhere.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")

# Where the host's programs are that must not be hidden by an environment's.
_HOSTS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")


def programs(
    found: Mapping[str, str],
    places: Sequence[str],
    *,
    named: Iterable[str] = (),
    all_: bool = False,
    engines: Iterable[str] = (),
    hosts: Sequence[str] = _HOSTS,
) -> dict[str, str]:
    """Return the programs that become commands, name -> path inside.

    found   path -> first line of a script, or ""
    places  the directories they lie in, those first that PATH has first
    named   names that are wanted beside those that are chosen by themselves; when there are
            any, no others are taken
    all_    whether all are
    engines names or paths of the engines of the site
    hosts   directories of the host whose programs are not hidden
    Without either: Python, pip and R, scripts of the environment's interpreters, and what the host
    has not. What sessions are started with is never taken.
    Raises OverlayError (MISSING) for a name that is not there.
    """
    never = _FOR_SESSIONS.union(map(os.path.basename, engines))
    paths: dict[str, str] = {}
    for place in places:
        for path in found:
            directory, name = os.path.split(path)
            if directory == place and _NAME.fullmatch(name) and not _FOR_SHELLS.fullmatch(name):
                if name not in never and not _OURS.fullmatch(name):
                    paths.setdefault(name, path)
    wanted = list(named)
    if wanted:
        for name in wanted:
            if name in never or _OURS.fullmatch(name):
                raise OverlayError(
                    f"{quote(name)} cannot be exposed: sessions are started with it",
                    status=MISSING,
                    hint=f"run it inside: run-overlay -o OVERLAY:ro -- {quote(name)}",
                )
            if name not in paths:
                raise OverlayError(
                    f"there is no program {quote(name)} in {', '.join(map(quote, places))}",
                    status=MISSING,
                    hint="see what is there: run-overlay -o OVERLAY:ro -- ls " + quote(places[0]),
                )
        return {name: paths[name] for name in wanted}
    if all_:
        return paths
    return {
        name: path
        for name, path in paths.items()
        if _ALWAYS.fullmatch(name)
        or found[path].lstrip("#! ").startswith(tuple(f"{place}/" for place in places))
        or not any(os.path.lexists(os.path.join(host, name)) for host in hosts)
    }
