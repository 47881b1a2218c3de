"""The doctor on places for overlays: room, locks, quota."""

from __future__ import annotations

import contextlib
import os
import re

from overlay import size
from overlay.doctor import trial
from overlay.doctor.check import OK, PATIENCE, PROBLEM, WARNING, Check, guarded
from overlay.errors import quote
from overlay.host import process
from overlay.host.private import others_rule
from overlay.host.scratch import can_execute, scratch_directory
from overlay.quota.check import find_limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from overlay.doctor.check import Node
    from overlay.host.mounts import Mount
    from overlay.settings.config import Config

_NEARLY_FULL = 1  # percent of a file system

_LOCKS_WHY = "without locks two sessions can write one overlay at once, and that destroys it"

# What to do where locks fail, by the type of the file system.
_LOCKS_ADVICE = {
    "lustre": "mount it with -o flock",
    "nfs": "mount it without nolock, and see that rpc.statd runs here and on the server",
    "nfs4": "mount it without local_lock",
    "beegfs": "set tuneUseGlobalFileLocks = true in beegfs-client.conf",
    "fuse.glusterfs": "load the translator features/locks in the volume",
}


def directories(node: Node) -> Iterator[Check]:
    """Yield the Checks of the file systems of the directories that were named, or of the usual."""
    for directory, wanted in _chosen(node.directories, node.config):
        found = _directory(directory, wanted, node.config, node.environ)
        yield from guarded(quote(directory), found)
    if not node.directories:
        yield from _not_taken(node.config)


def _not_taken(config: Config) -> Iterator[Check]:
    """Yield the Checks of directories for temporary files that are not taken: others rule them."""
    for path in filter(os.path.isdir, config["scratch.local"]):
        why = others_rule(path)
        if why:
            yield Check(
                f"{quote(path)}: others",
                WARNING,
                why,
                "temporary files lie there ([scratch] local) only where nobody else could"
                " exchange them: another directory is taken",
                f"chmod +t {quote(path)}",
            )


def _chosen(named: Iterable[str], config: Config) -> list[tuple[str, str]]:
    """Return (directory, what it is wanted for) of the file systems to try, each once."""
    if named:
        return [(directory, "named") for directory in dict.fromkeys(named)]
    found, seen = [], set()
    for path in config["scratch.locations"]:
        found.append((path, "scratch"))
        if os.path.isdir(path):
            seen.add(os.stat(path).st_dev)
    with contextlib.suppress(OSError):  # it is closed to us, as after su(1)
        if os.stat(os.curdir).st_dev not in seen:
            found.append((os.getcwd(), "here"))
    local = dict.fromkeys((scratch_directory(config), scratch_directory(config, programs=True)))
    return [*found, *((path, "local") for path in local)]


_WANTED = {
    "named": "you have named it",
    "scratch": "users keep overlays there ([scratch] locations)",
    "local": "temporary files lie there ([scratch] local)",
    "here": "overlays in the current directory lie there",
}


def _directory(
    path: str, wanted: str, config: Config, environ: Mapping[str, str]
) -> Iterator[Check]:
    """Yield what the file system of a directory can do."""
    name = quote(path)
    fallocate = process.which("fallocate", environ)

    def allocate(file: str) -> str | None:
        if not fallocate:
            return "the program fallocate is missing"
        result = process.ask([fallocate, "-l", str(trial.SIZE), file], environ, PATIENCE)
        if result.status:
            return (result.errors.strip() or f"status {result.status}").rpartition(": ")[2]
        return None if os.stat(file).st_blocks * 512 >= trial.SIZE else "it reserves nothing"

    found = trial.of(path, allocate)
    if found.written:
        yield Check(
            f"{name}: writing",
            WARNING if wanted == "here" else PROBLEM,
            found.written,
            _WANTED[wanted],
            "make it, with the permissions that users need"
            if not os.path.isdir(path)
            else "name a directory that you may write in"
            if wanted == "named"
            else "give users a directory there that they may write in",
        )
        return
    full = found.room and found.free * 100 < found.room * _NEARLY_FULL
    type = found.mount.type if found.mount else "an unknown file system"
    yield Check(
        f"{name}: writing",
        WARNING if full else OK,
        f"{type}, {size.format_size(found.free)} free",
        _WANTED[wanted],
        "make room",
    )
    if wanted == "local":
        yield _programs(name, path)
        return  # overlays in use do not lie there
    yield _locks(name, type, found)
    if found.flock:
        yield Check(
            f"{name}: locks of directories",
            WARNING,
            found.flock,
            "overlays that are directories are locked with flock(2): two sessions could write one",
            "use image files here",
        )
    yield Check(
        f"{name}: allocation",
        WARNING if found.allocation else OK,
        found.allocation or "blocks can be reserved",
        "a new overlay whose blocks are reserved cannot run into a full disk or quota later",
        "overlays are sparse here, and users are told so; [create] allocation = sparse makes it"
        " the rule",
    )
    yield Check(
        f"{name}: extended attributes",
        WARNING if found.attributes else OK,
        found.attributes or "they are kept",
        "who wrote to an overlay last, and where, is noted there",
        f"mount it with user extended attributes; {type} may need an option for them",
    )
    yield from _quota(name, path, config)


def _programs(name: str, path: str) -> Check:
    """Return the Check of programs in a directory for temporary files."""
    may = can_execute(path)
    return Check(
        f"{name}: programs",
        OK if may else WARNING,
        "they may be started" if may else "they may not be started: it is mounted noexec",
        "create-overlay -f unpacks the base image and runs it there",
        "name another directory as well in [scratch] local, on a file system without noexec",
    )


def _locks(name: str, type: str, found: trial.Findings) -> Check:
    """Return the Check of the locks of a file system."""
    advice = _LOCKS_ADVICE.get(type, "keep overlays that are written on another file system")
    if found.locks:
        why = "an overlay can stay in use for ever" if "stays" in found.locks else _LOCKS_WHY
        return Check(f"{name}: locks", PROBLEM, found.locks, why, advice)
    local = _locks_stay_here(found.mount) if found.mount else None
    if local:
        return Check(
            f"{name}: locks",
            PROBLEM,
            f"they hold on this node alone: {local}",
            "two nodes can write one overlay at once, and that destroys it",
            advice,
        )
    words = "they hold between two processes"
    if not found.mount or not found.mount.is_local:
        words += " of this node; between two nodes they are not tried"
    return Check(f"{name}: locks", OK, words, _LOCKS_WHY)


def _locks_stay_here(mount: Mount) -> str | None:
    """Return the option of a mount that keeps its locks on this node, or None.

    nfs(5): nolock, local_lock; mount.lustre(8): localflock; beegfs-client.conf:
    tuneUseGlobalFileLocks, which the client shows below /proc/fs/beegfs.
    """
    words = {
        "nfs": ("nolock", "local_lock=all", "local_lock=posix"),
        "nfs4": ("nolock", "local_lock=all", "local_lock=posix"),
        "lustre": ("localflock",),
    }
    for word in words.get(mount.type, ()):
        if word in mount.options:
            return word
    if mount.type == "beegfs":
        for option in mount.options:
            if option.startswith("cfgFile="):
                try:
                    with open(option[len("cfgFile=") :], encoding="utf-8") as file:
                        text = file.read()
                except (OSError, ValueError):
                    continue
                found = re.search(r"^\s*tuneUseGlobalFileLocks\s*=\s*(\w+)", text, re.MULTILINE)
                if not found or found[1].lower() not in ("true", "1", "yes", "on"):
                    return "tuneUseGlobalFileLocks is not set"
    return None


def _quota(name: str, path: str, config: Config) -> Iterator[Check]:
    if config["quota.check"] == "off":
        yield Check(
            f"{name}: quota", OK, "[quota] check is off", "create-overlay asks for it first"
        )
        return
    limits, failures = find_limits(path, config)
    sources = dict.fromkeys(limit.source for limit in limits)
    yield Check(
        f"{name}: quota",
        WARNING if failures else OK,
        "; ".join(failures) or ", ".join(map(str, sources)) or "no limit is known",
        "create-overlay asks for quota and free space before it writes",
        "name a program that knows in [quota] command",
    )
