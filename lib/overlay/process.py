"""The only place that starts programs: argument lists, never a shell."""

import os
import signal

from overlay.errors import UNAVAILABLE, OverlayError, quote, reason

# Where tools like mke2fs lie, although an ordinary user's PATH may not say so.
_SYSTEM = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")


def which(name, environ):
    """Return the absolute path of a program, or None.

    Looks along PATH, then in the directories of the system's own tools. A name with a
    slash is taken as it is.
    """
    if "/" in name:
        return name if _executable(name) else None
    for directory in (*environ.get("PATH", "").split(":"), *_SYSTEM):
        # An empty or relative part would mean the current directory: a shell looks there,
        # a tool that runs in other people's directories had better not.
        if directory.startswith("/") and _executable(os.path.join(directory, name)):
            return os.path.join(directory, name)
    return None


def _executable(path):
    return os.path.isfile(path) and os.access(path, os.X_OK)


def need(name, package, environ):
    """Return the absolute path of a tool. Raises OverlayError (UNAVAILABLE) without it."""
    path = which(name, environ)
    if path is None:
        raise OverlayError(
            f"the program {name} is missing on this machine",
            status=UNAVAILABLE,
            hint=f"ask the site's admin to install {package}",
        )
    return path


class Result:
    """How a program ended: status (negative for a signal), and what it printed."""

    __slots__ = ("errors", "output", "status")

    def __init__(self, status, output, errors):
        self.status = status
        self.output = output
        self.errors = errors


def run(arguments, environ, *, variables=None):
    """Run a program to its end and return its Result; text, undecodable bytes escaped.

    The program sees the C locale, because its words are read by us, and no standard input.
    Raises OverlayError (UNAVAILABLE) when it cannot be started.
    """
    import subprocess

    environment = {**environ, "LC_ALL": "C", **(variables or {})}
    try:
        done = subprocess.run(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            check=False,
        )
    except OSError as error:
        raise _not_started(arguments[0], error) from None
    return Result(done.returncode, done.stdout, done.stderr)


def become(step, environ):
    """Replace this process by the program of a Step. Does not return.

    Terminal, signals and exit status are from here on the program's own.
    """
    _restore_signals()
    try:
        os.execve(step.arguments[0], step.arguments, step.environment(environ))
    except OSError as error:
        raise _not_started(step.arguments[0], error) from None


def _restore_signals():
    """Give up what Python changed at its start: `yes | head` inside must end by SIGPIPE."""
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def _not_started(program, error):
    return OverlayError(f"cannot start {quote(program)}: {reason(error)}", status=UNAVAILABLE)


def launch(plan, environ):
    """Do all of a Plan and return the exit status of its final Step.

    With nothing to do afterwards the engine takes our place, and this does not return.
    """
    for step in plan.before:
        step.action()
    if not plan.after:
        become(plan.final, environ)
    try:
        return stay(plan.final, environ)
    finally:
        for step in plan.after:
            step.action()


def stay(step, environ):
    """Run a Step as a child in our process group and return its exit status as a shell's.

    What the terminal sends reaches the child by itself; TERM and HUP are handed on.
    """
    program = step.arguments[0]
    ours = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)
    defaults = [*ours, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGHUP]
    defaults = [number for number in defaults if signal.getsignal(number) is not signal.SIG_IGN or number in (signal.SIGPIPE, signal.SIGXFSZ)]
    try:
        child = os.posix_spawn(
            program, step.arguments, step.environment(environ), setsigdef=defaults
        )
    except OSError as error:
        raise _not_started(program, error) from None
    for number in ours:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    _pid, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


class cleaning_up:
    """A context in which TERM and HUP are exceptions, so that what was begun is removed.

    Afterwards the signal has its own effect: the process ends by it.
    """

    class Ended(BaseException):
        """A signal that asks us to end arrived."""

        def __init__(self, number):
            super().__init__(number)
            self.number = number

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._raise)

    def _raise(self, number, _frame):
        signal.signal(number, signal.SIG_IGN)
        raise self.Ended(number)

    def __exit__(self, kind, error, _traceback):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if kind is self.Ended:
            os.kill(os.getpid(), error.number)
        return False
