"""What a shared session ends with, and so who may share it: a step of a job, or a login."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_DAEMON = "slurmstepd"
_DEEP = 64  # processes above ours that are looked at

# Files of systemd-logind: see logind.conf(5).
_LOGIND = ("/etc/systemd/logind.conf", "/usr/lib/systemd/logind.conf", "/run/systemd/logind.conf")

# Variables that name the job in other batch systems.
_JOBS = ("PBS_JOBID", "LSB_JOBID", "JOB_ID", "FLUX_JOB_ID", "COBALT_JOBID")


class Scope:
    """What a session ends with.

    words   what it is called, in the key
    outer   the same of what outlives it and is as good: the batch step of a step's job; or None
    end     (number, start) of the process with whose end it has to end; None: the kernel or the
            system ends it, or nothing does
    """

    __slots__ = ("end", "outer", "words")

    def __init__(
        self, words: str, outer: str | None = None, end: tuple[int, int] | None = None
    ) -> None:
        self.words = words
        self.outer = outer
        self.end = end

    @property
    def description(self) -> str:
        """What it is, for a person."""
        return self.words


def find(environ: Mapping[str, str]) -> Scope:
    """Return the Scope of this process.

    The environment is not believed in what makes more commands share: sbatch in a step hands
    that step's on.
    """
    groups = _groups()
    daemon = _daemon()
    found = _of_groups(groups) or (daemon and _of_title(daemon[2]))
    end = daemon[:2] if daemon else None
    if found:
        job, step = found
        # Several nodes of a test's may be one machine.
        node = environ.get("SLURMD_NODENAME", "")
        outer = None if step == "batch" else f"job {job} step batch {node}".rstrip()
        return Scope(f"job {job} step {step} {node}".rstrip(), outer, end)
    login = _login(groups)
    own = next((path for path in groups if path != "/" and "user.slice" not in path), "")
    jobs = [f"{name}={environ[name]}" for name in _JOBS if name in environ]
    return Scope(" ".join(filter(None, (login or "user", *jobs, own))), end=end)


def _groups() -> list[str]:
    """Return the control groups of this process that tell jobs apart: cgroups(7)."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    split = [line.split(":", 2) for line in lines if line.count(":") >= 2]
    # Of the controllers of version 1 only those that batch systems make groups in.
    wanted = ("", "freezer", "name=systemd", "memory", "cpuset")
    return [path for _number, name, path in split if set(name.split(",")).intersection(wanted)]


def _of_groups(groups: list[str]) -> tuple[str, str] | None:
    """Return (job, step) that Slurm names control groups after."""
    for path in groups:
        parts = path.split("/")
        for job, step in zip(parts, parts[1:]):
            number = job[len("job_") :]
            if job.startswith("job_") and number.isdecimal() and step.startswith("step_"):
                return number, step[len("step_") :]
    return None


def _daemon() -> tuple[int, int, str] | None:
    """Return (number, start, title) of the slurmstepd above us; None when there is none."""
    pid = os.getppid()
    for _level in range(_DEEP):
        if pid <= 1:
            return None
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                head, _close, rest = file.read().rpartition(b")")
            fields = rest.split()
            if os.fsdecode(head.partition(b"(")[2]) == _DAEMON:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    return pid, int(fields[19]), os.fsdecode(file.read())
        except OSError:
            return None
        pid = int(fields[1])
    return None


def _of_title(title: str) -> tuple[str, str] | None:
    """Return (job, step) that a slurmstepd calls itself after: slurmstepd: [JOB.STEP]."""
    job, _dot, step = title.partition("[")[2].partition("]")[0].partition(".")
    return (job, step) if job.isdecimal() and step else None


def _login(groups: list[str]) -> str | None:
    """Return the name of the login session that nothing of the user's outlives, None otherwise."""
    for path in groups:
        last = path.rpartition("/")[2]
        if last.startswith("session-") and last.endswith(".scope") and _kills():
            return f"login {last}"
    return None


def _kills() -> bool:
    """Return whether systemd-logind ends what a login has left when that ends."""
    for name in _LOGIND:
        names = [name]
        try:
            names += [os.path.join(f"{name}.d", one) for one in sorted(os.listdir(f"{name}.d"))]
        except OSError:
            pass
        for path in names:
            try:
                with open(path, encoding="utf-8", errors="replace") as file:
                    lines = [line.strip().replace(" ", "").lower() for line in file]
            except OSError:
                continue
            if any(
                line in ("killuserprocesses=yes", "killuserprocesses=true", "killuserprocesses=1")
                for line in lines
            ):
                return True
    return False
