"""The quick way into a shared session: what a shell needs that joins without any Python.

Whoever has joined for an exposed program (expose-overlay) writes what the next start hangs on, as
lines for sh(1), into a file of the user's directory; expose/start, which every exposed program
reads, looks whether it still holds and enters with nsenter(1). Where something cannot be seen by
a shell, nothing is noted, and the next start comes through Python again.

What is not as on the other ways: the bounding set of capabilities(7) stays as it is, because
only a process with capabilities could lower it. No_new_privs is set, so that nothing comes of it.
"""

from __future__ import annotations

import os
import shlex

from overlay.shared import place
from overlay.shared.key import name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from overlay.shared.record import Record

FORMAT = "1"

# Of the caller's, each makes a session another one, or is handled in a way of its own.
_STRICT = ("OVERLAY_", "APPTAINER", "SINGULARITY")
_COMPARED = ("HOME", "LOGNAME", "SLURM_TMPDIR", "TMPDIR", "USER", "XDG_CONFIG_HOME")
_NOT_HANDED_ON = ("LD_LIBRARY_PATH", "PS1")

_LIMITS = ("CPU", "FSIZE", "DATA", "AS")  # with one of these a session is for few
_TOOLS = ("nsenter", "setpriv", "flock")
_TOOL_PLACES = ("/usr/bin", "/bin")


def note(
    directory: int,
    name: str,
    record: Record,
    *,
    lease: str,
    environ: Mapping[str, str],
    made: Mapping[str, str],
    unset: Iterable[str],
    variables: Mapping[str, str | None],
    overlays: Sequence[str],
    files: Iterable[str],
    below: Iterable[str],
) -> None:
    """Note how a session is entered, where a shell can see that it is the right one.

    directory  the user's, open
    name       of what is noted: that of a directory of exposed programs
    lease      path of the lease of the session
    environ    the caller's environment; made: that which it has got inside
    unset      names, and beginnings with a *, of variables that are not handed on
    variables  name -> value of those that must be the same, None for one that is not set
    overlays   their paths; files: those of settings and the base image, which must not change
    below      directories of the host that are seen under their own names
    """
    text = _text(
        record,
        lease=lease,
        environ=environ,
        made=made,
        unset=unset,
        variables=variables,
        overlays=overlays,
        files=files,
        below=below,
    )
    if text is not None:
        place.put(directory, place.quick_name(name), os.fsencode(text))


def _text(
    record: Record,
    *,
    lease: str,
    environ: Mapping[str, str],
    made: Mapping[str, str],
    unset: Iterable[str],
    variables: Mapping[str, str | None],
    overlays: Sequence[str],
    files: Iterable[str],
    below: Iterable[str],
) -> str | None:
    """Return the lines, None where a shell could not see whether they hold."""
    tools = [_tool(name) for name in _TOOLS]
    held = _held_by(record.keeper, overlays)
    group = _read("/proc/self/cgroup")
    strict = [name for name in environ if name.startswith(_STRICT)]
    outside_of_groups = "SLURM_JOB_ID" in environ and "/job_" not in group
    if (
        None in tools
        or held is None
        or outside_of_groups
        or _is_limited()
        or "PROMPT_COMMAND" in environ
        or any(name.startswith(("APPTAINERENV_", "SINGULARITYENV_")) for name in strict)
        or any(name.startswith("LD_") for name in record.environment if name != "LD_LIBRARY_PATH")
        or not all(map(_is_name, (*strict, *made)))
    ):
        return None
    compared = {name: environ.get(name) for name in (*strict, *_COMPARED)} | dict(variables)
    compared.pop("PWD", None)
    compared.pop("PATH", None)
    lines = [
        f"# {name_of(record.key)}",  # by which it is found to be of no use any more
        f"overlay_format={FORMAT}",
        f"overlay_pid={record.pid} overlay_ticks={record.ticks} overlay_keeper={record.keeper}",
        f"overlay_lease={shlex.quote(lease)}",
        f"overlay_group={shlex.quote(group.rstrip())}",
        f"overlay_nice={os.getpriority(os.PRIO_PROCESS, 0)}",
        *(f"overlay_{name}={shlex.quote(path or '')}" for name, path in zip(_TOOLS, tools)),
        "overlay_same() {",
        *(
            f"    [ {shlex.quote(path)} -ef /proc/{record.keeper}/fd/{number} ] || return 1"
            for path, number in held
        ),
        *(f'    [ {shlex.quote(path)} -nt "$1" ] && return 1' for path in files),
        *(f"    {_compare(name, value)}" for name, value in sorted(compared.items())),
        "    return 0",
        "}",
        f"overlay_strict={len(strict)}",
        "overlay_is_seen() {",
        f"    case $1/ in {_cases(below)}) return 0 ;; esac",
        "    return 1",
        "}",
        "overlay_is_left_out() {",
        f"    case $1 in {'|'.join([*unset, *_NOT_HANDED_ON])}) return 0 ;; esac",
        "    return 1",
        "}",
        "overlay_set() {",
        *(f"    {line}" for line in _settings(record, environ, made)),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _settings(record: Record, environ: Mapping[str, str], made: Mapping[str, str]) -> Iterable[str]:
    """Yield the lines that set what is other inside than outside."""
    host = environ.get("PATH", "")
    for name in sorted({*record.environment, *made}):
        value = made.get(name)
        if name == "PWD" or (value == environ.get(name) and name not in record.environment):
            continue
        if name in record.environment and not record.environment[name]:
            yield f'[ "${{{name}-}}" ] && unset {name} || export {name}='
        elif name == "USER_PATH" and host and value and host in value:
            before, _host, after = value.partition(host)
            yield f'export USER_PATH={shlex.quote(before)}"$PATH"{shlex.quote(after)}'
        elif value is not None and name != "PATH":
            yield f"export {name}={shlex.quote(value)}"
    # The last: USER_PATH has the host's.
    yield f"export PATH={shlex.quote(made['PATH'])}"


def _compare(name: str, value: str | None) -> str:
    """Return a line that goes back when a variable is not as it was."""
    if value is None:
        return f'[ -z "${{{name}+x}}" ] || return 1'
    return f'[ "${{{name}-}}" = {shlex.quote(value)} ] || return 1'


def _cases(paths: Iterable[str]) -> str:
    return "|".join(f"{shlex.quote(path.rstrip('/'))}/*" for path in dict.fromkeys(paths))


def _held_by(keeper: int, overlays: Sequence[str]) -> list[tuple[str, int]] | None:
    """Return (path, number of the keeper's descriptor) of each overlay; None when one is not held."""
    known = {}
    try:
        for name in os.listdir(f"/proc/{keeper}/fd"):
            status = os.stat(f"/proc/{keeper}/fd/{name}")
            known[status.st_dev, status.st_ino] = int(name)
        found = []
        for path in overlays:
            status = os.stat(path)
            found.append((os.path.abspath(path), known[status.st_dev, status.st_ino]))
    except (OSError, KeyError):
        return None
    return found


def _tool(name: str) -> str | None:
    for directory in _TOOL_PLACES:
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK):
            return path
    return None


def _is_limited() -> bool:
    import resource

    limits = (getattr(resource, f"RLIMIT_{name}") for name in _LIMITS)
    return any(resource.getrlimit(limit)[1] != resource.RLIM_INFINITY for limit in limits)


def _is_name(name: str) -> bool:
    return name.isascii() and name.isidentifier()


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
