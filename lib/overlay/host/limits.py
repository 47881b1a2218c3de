"""Limits of the shell (ulimit): the soft ones are for the user's commands, not for our own work."""

from __future__ import annotations

from overlay.size import format_size

HINT = "in a shell without that limit: the same command"

_KINDS = ("RLIMIT_FSIZE", "RLIMIT_CPU", "RLIMIT_AS")

_before: dict[int, tuple[int, int]] = {}  # limits of this process that are set aside: (soft, hard)


def set_soft_aside() -> None:
    """Let no soft limit hold for this process, and for the tools that it starts."""
    import resource  # not needed where nothing is limited

    for kind in (getattr(resource, name) for name in _KINDS):
        soft, hard = resource.getrlimit(kind)
        if soft != hard:
            resource.setrlimit(kind, (hard, hard))
            _before.setdefault(kind, (soft, hard))


def restore() -> None:
    """Let those hold again that were set aside: for the engine, and the commands in it."""
    if _before:
        import resource

        for kind in list(_before):
            resource.setrlimit(kind, _before.pop(kind))


class NoSoftLimits:
    """A context in which they are set aside."""

    def __enter__(self) -> None:
        self._outer = bool(_before)
        set_soft_aside()

    def __exit__(self, *_error: object) -> None:
        if not self._outer:
            restore()


def get(kind: int, *, hard: bool = False) -> int | None:
    """Return a limit, as it was before it was set aside; None where there is none.

    kind  resource.RLIMIT_FSIZE and so on; bytes or seconds
    """
    import resource

    found = _before.get(kind, resource.getrlimit(kind))[1 if hard else 0]
    return None if found == resource.RLIM_INFINITY else found


def of_files() -> str | None:
    """Return the limit on the size of files that holds for our work, in words; None without one."""
    import resource

    most = get(resource.RLIMIT_FSIZE, hard=bool(_before))
    return None if most is None else f"files may have {format_size(most)} here (ulimit -f)"


def ended(status: int, errors: str = "") -> str | None:
    """Return which limit has ended a program, in words; None when it was none.

    status  of the program, negative for a signal, or of a shell that has started it
    errors  what it has printed, where that is known
    """
    import resource
    import signal

    number = -status if status < 0 else status - 128
    if number == signal.SIGXFSZ or "File too large" in errors:
        return of_files()
    seconds = get(resource.RLIMIT_CPU, hard=bool(_before))
    if seconds is not None and number in (signal.SIGXCPU, signal.SIGKILL):
        return f"a program may take {seconds} s of processor time here (ulimit -t)"
    memory = get(resource.RLIMIT_AS, hard=bool(_before))
    if status and memory is not None:
        return f"a program may have {format_size(memory)} of memory here (ulimit -v)"
    return None
