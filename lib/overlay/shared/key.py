"""What makes two commands of one session: all of it, as a text, and a name made of that."""

from __future__ import annotations

import os

from overlay.shared.environment import ENGINES_OWN, is_override

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from overlay.shared.scope import Scope

# Jobs may have some of these of their own, such as a private /tmp.
_NAMESPACES = ("mnt", "user", "pid", "net", "ipc", "uts")

# Limits that nobody can raise again: those of who starts a session hold for its servers.
_LIMITS = ("CPU", "FSIZE", "DATA", "AS", "NOFILE")

ORDINARY = "nice 0"  # how a session is scheduled that has nothing of who started it
_CAP_SYS_NICE = 23  # capabilities(7)
_NICE_0 = 20  # what RLIMIT_NICE must be for that: getrlimit(2)


def name_of(text: str) -> str:
    """Return the name of a key, which is compared whole where it counts."""
    try:
        from _blake2 import blake2b  # what hashlib hands on, and loads much beside it for
    except ImportError:
        from hashlib import blake2b
    return blake2b(os.fsencode(text), digest_size=16).hexdigest()


def status_of(status: os.stat_result) -> str:
    """Return what tells a file, and its content, from all others of this machine."""
    return (
        f"{status.st_dev:x} {status.st_ino:x} {status.st_size:x}"
        f" {status.st_mtime_ns:x} {status.st_ctime_ns:x}"
    )


def place_of(status: os.stat_result) -> str:
    """Return what tells a file from all others, whatever is in it."""
    return f"{status.st_dev:x} {status.st_ino:x}"


def of_path(path: str, *, content: bool = True) -> str:
    """Return what a path leads to, so that it is seen to be the same later.

    content  whether as it is now, which of a directory means its names
    """
    try:
        status = os.stat(path)
    except OSError:
        return f"{path}: none"
    return f"{path}: {(status_of if content else place_of)(status)}"


def precedences() -> list[str]:
    """Return the words for how sessions are scheduled that would do for the caller.

    The last is that of one which the caller would start: ORDINARY, unless the kernel lets a
    process that was made nicer not go back.
    """
    nice, policy = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
    if (nice <= 0 and policy != os.SCHED_IDLE) or _may_lower_nice():
        return [ORDINARY]
    return [ORDINARY, f"nice {nice} policy {policy}"]


def _may_lower_nice() -> bool:
    """Return whether this process may run at nice 0 again: setpriority(2)."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    if limit == resource.RLIM_INFINITY or limit >= _NICE_0:
        return True
    with open("/proc/self/status", "rb") as file:
        capabilities = next(line for line in file if line.startswith(b"CapEff:")).split()[1]
    return bool(int(capabilities, 16) >> _CAP_SYS_NICE & 1)


def caller(environ: Mapping[str, str], scope: Scope | str, precedence: str) -> list[str]:
    """Return the lines of a key that say who calls, and where.

    scope       what the session ends with, or its words
    precedence  how it is scheduled: one of precedences()
    """
    import resource

    limits = [resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1] for name in _LIMITS]
    return [
        f"scope {scope if isinstance(scope, str) else scope.words}",
        " ".join(os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES),
        f"host {os.uname().nodename} {_boot()} root {place_of(os.stat('/'))}",
        f"ids {os.geteuid()} {os.getegid()} {sorted(os.getgroups())}",
        f"{precedence} limits {limits}",
        *(
            f"{name}={value}"
            for name, value in sorted(environ.items())
            if name.startswith(ENGINES_OWN) and not is_override(name)
        ),
    ]


def _boot() -> str:
    """Return which run of the machine this is: what is left of another is nobody's any more."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read(36).decode()
    except OSError:
        return ""


def text(parts: Iterable[str]) -> str:
    """Return the text of a key from its lines."""
    return "\n".join(part.replace("\\", "\\\\").replace("\n", "\\n") for part in parts)
