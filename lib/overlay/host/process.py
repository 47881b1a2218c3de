"""The only place that starts programs: argument lists, never a shell."""

from __future__ import annotations

import os
import signal
import time

from overlay.errors import UNAVAILABLE, OverlayError, quote, reason
from overlay.host import limits
from overlay.host.path import SYSTEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, BinaryIO, NoReturn

    from overlay.plan import Step

_listener: Callable[[str], object] | None = None

# What asks a program to end.
ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_POLL = 0.02  # seconds between two looks at what a program does
_PATIENCE = 3  # seconds that a program has to heed TERM


def which(name: str, environ: Mapping[str, str]) -> str | None:
    """Return the absolute path of a program, or None.

    Looks along PATH, then in the directories of the system's own tools. A name with a
    slash is taken as it is.
    """
    if "/" in name:
        return name if _executable(name) else None
    for directory in (*environ.get("PATH", "").split(":"), *SYSTEM):
        # An empty or relative part would mean the current directory: a shell looks there,
        # a tool that runs in other people's directories had better not.
        if directory.startswith("/") and _executable(os.path.join(directory, name)):
            return os.path.join(directory, name)
    return None


def _executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def need(name: str, environ: Mapping[str, str]) -> str:
    """Return the absolute path of one of TOOLS. Raises OverlayError (UNAVAILABLE) without it."""
    path = which(name, environ)
    if path is None:
        from overlay.host.tools import TOOLS  # not needed on the launch path

        raise OverlayError(
            f"the program {name} is missing on this machine",
            status=UNAVAILABLE,
            hint=f"ask the site's admin to install {TOOLS[name].package}",
        )
    return path


def on_start(listener: Callable[[str], object] | None) -> None:
    """Let a function hear of every program that this process starts from now on; None: no one.

    It is called with a line for a shell, before the program is started.
    """
    global _listener
    _listener = listener


def tell(
    words: Sequence[str | int],
    variables: Mapping[str, str] | None = None,
    source: BinaryIO | None = None,
) -> None:
    """Tell of a program that is about to be started.

    words      its command line; a number is an open file, and what that is stands at the end
    variables  what it gets beside the environment
    source     the file that it reads as its standard input
    """
    if _listener is None:
        return
    more = [f"{name}={value}" for name, value in sorted((variables or {}).items())]
    named = [f"/proc/self/fd/{word}" if isinstance(word, int) else word for word in words]
    line = " ".join(quote(word) for word in (*(["env", *more] if more else ()), *named))
    if source is not None:
        line += f" < {quote(_path(source.fileno()))}"
    files = [f"{word} is {quote(_path(word))}" for word in words if isinstance(word, int)]
    _listener(f"{line}  # {', '.join(files)}" if files else line)


def _path(file: int) -> str:
    return os.readlink(f"/proc/self/fd/{file}")


class Result:
    """How a program ended: status (negative for a signal), and what it printed."""

    __slots__ = ("errors", "output", "status")

    def __init__(self, status: int, output: str, errors: str) -> None:
        self.status = status
        self.output = output
        self.errors = errors


# "e2image 1.47.0 (5-Feb-2023)", mount(8)'s second line.
_NO_REASON = r"^\w+ \d+\.\d+[.\d]* \(.*\)$|dmesg\(1\) may have more|^[Uu]sage: "

# Before lists of what would have been right, as unsquashfs has of compressors.
_REASON = (
    r"(?i)\b(error|fail\w*|cannot|can.t|could ?n.t|unable|unsupported|denied|no space|no such"
    r"|not found|invalid|corrupt(ed)?|wrong|exceeded)\b"
)


def last_line(*texts: str, otherwise: str = "it failed") -> str:
    """Return the last line of the first of some texts that says why a program failed.

    texts      what a program printed: its errors, and its output where they may stand there
    otherwise  the words for a program that said nothing of the kind
    Lines that name the program only, or where to look, do not say it; what would have been right
    does where there is no other.
    """
    import re  # not needed where all is well

    for text in texts:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        why = [line for line in lines if not re.search(_NO_REASON, line)]
        if why:
            return next((line for line in reversed(why) if re.search(_REASON, line)), why[-1])
    return otherwise


def run(
    arguments: Sequence[str | int],
    environ: Mapping[str, str],
    *,
    variables: Mapping[str, str] | None = None,
    text: str = "",
    most: int | None = None,
    seconds: int | None = None,
    watch: Callable[[], bool] | None = None,
) -> Result:
    """Run a program to its end and return its Result; text, undecodable bytes escaped.

    most     bytes that it may print, None for any number; by more it ends, with -SIGXFSZ
    seconds  of the processor that it may take, None for any number; then it ends, with -SIGXCPU
    watch    asked all the time whether it may go on; else it is ended

    A number among the arguments is an open file: the program gets its name in proc(5), and
    inherits it. So it works on that file whatever its path leads to by now, and the locks
    that we hold on it last as long as the program, if we are killed. The program sees the C
    locale, because its words are read by us, and text as its standard input.
    Raises OverlayError (UNAVAILABLE) when it cannot be started.
    """
    tell(arguments, variables)
    environment = {**environ, "LC_ALL": "C", **(variables or {})}
    with _Files(text) as files:
        status = _run(arguments, environment, files.actions, most, seconds, watch)
        if most is not None and files.printed > most:
            status = -signal.SIGXFSZ  # it was faster than the limit
        return files.result(status)


class _Files:
    """What stands for the standard input, output and errors of a program: a context.

    Files in memory, not pipes: the program cannot wait for us, nor we for it, and that spares a
    short command the module subprocess.
    """

    __slots__ = ("_files", "actions")

    def __init__(self, text: str = "") -> None:
        """Make them; text is the input."""
        self._files = [os.memfd_create(name) for name in ("input", "output", "errors")]
        self.actions = [
            (os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(self._files)
        ]
        with open(self._files[0], "wb", closefd=False) as words:
            words.write(text.encode())
        os.lseek(self._files[0], 0, os.SEEK_SET)

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_error: object) -> None:
        for file in self._files:
            os.close(file)

    @property
    def printed(self) -> int:
        """How many bytes have come to the standard output."""
        return os.fstat(self._files[1]).st_size

    def result(self, status: int) -> Result:
        """Return the Result of a program that has ended with a status."""
        return Result(status, *map(_all_of, self._files[1:]))


class Beside:
    """A program that runs while we do something else: a context, at whose end it has ended.

    Arguments as of run().
    """

    def __init__(
        self,
        arguments: Sequence[str | int],
        environ: Mapping[str, str],
        *,
        seconds: int | None = None,
    ) -> None:
        self._arguments = arguments
        self._environ = environ
        self._seconds = seconds
        self._child: int | None = None
        self._result: Result | None = None

    def __enter__(self) -> Beside:
        """Start it. Raises OverlayError as run() does."""
        tell(self._arguments)
        environment = {**self._environ, "LC_ALL": "C"}
        self._files = _Files()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            self._child = _spawn(self._arguments, environment, self._files.actions, setsigmask=mask)
            _limit(self._child, "RLIMIT_CPU", self._seconds)
        finally:
            if self._child is None:
                self._files.__exit__()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return self

    def result(self) -> Result:
        """Wait for its end, and return its Result."""
        if self._child is not None:
            status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
            self._child = None
            self._result = self._files.result(status)
        assert self._result is not None
        return self._result

    def __exit__(self, *_error: object) -> None:
        """End it, if it has not ended by itself."""
        if self._child is not None:
            end(self._child)
            self._child = None
        self._files.__exit__()


def _all_of(file: int) -> str:
    """Return what has been written to a file, as text."""
    with open(file, "rb", closefd=False) as written:
        written.seek(0)
        return written.read().decode(errors="backslashreplace")


def _run(
    arguments: Sequence[str | int],
    environment: Mapping[str, str],
    actions: Sequence[Any],
    most: int | None = None,
    seconds: int | None = None,
    watch: Callable[[], bool] | None = None,
) -> int:
    """Run a program to its end and return its status; when we are to end, so is it.

    most     bytes that a file may have which it writes, None for any number
    seconds  of the processor that it may take, None for any number
    watch    asked all the time whether it may go on
    Signals wait until it can be ended: none may leave it running behind our back.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        child = _spawn(arguments, environment, actions, setsigmask=mask)
        try:
            _limit(child, "RLIMIT_FSIZE", most)
            _limit(child, "RLIMIT_CPU", seconds)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if watch is not None:
                _watched(child, watch)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except BaseException:
            end(child)
            raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _watched(child: int, watch: Callable[[], bool]) -> None:
    """Wait for the end of a program, and end it when it may not go on."""
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if not watch():
            os.kill(child, signal.SIGKILL)
            return
        time.sleep(_POLL)


def _limit(child: int, name: str, most: int | None) -> None:
    """Limit what a program that has just been started may take of something; None does nothing.

    name  of the limit, in getrlimit(2)
    """
    if most is None:
        return
    import resource

    try:
        number = getattr(resource, name)
        soft, hard = resource.prlimit(child, number)
        soft = most if soft == resource.RLIM_INFINITY else min(most, soft)
        resource.prlimit(child, number, (soft, hard))
        if name == "RLIMIT_CPU":  # its end would leave a core file
            resource.prlimit(child, resource.RLIMIT_CORE, (0, 0))
    except OSError:
        pass  # it has ended already


def _spawn(
    arguments: Sequence[str | int],
    environment: Mapping[str, str],
    actions: Sequence[Any],
    **options: Any,
) -> int:
    """Start a program with what Python has changed of the signals as it was; return its number.

    Raises OverlayError (UNAVAILABLE) when it cannot be started.
    """
    options.setdefault("setsigdef", (signal.SIGPIPE, signal.SIGXFSZ))
    files = [word for word in arguments if isinstance(word, int)]
    words = [f"/proc/self/fd/{word}" if isinstance(word, int) else word for word in arguments]
    try:
        for file in files:
            os.set_inheritable(file, True)
        return os.posix_spawn(words[0], words, environment, file_actions=actions, **options)
    except OSError as error:
        raise not_started(words[0], error) from None
    finally:
        for file in files:
            os.set_inheritable(file, False)


def end(child: int) -> None:
    """End a program, by TERM, and by KILL if it does not heed that; wait for it."""
    try:
        os.kill(child, signal.SIGTERM)
        for _time in range(int(_PATIENCE / 0.02)):
            if os.waitpid(child, os.WNOHANG)[0]:
                return
            time.sleep(0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # it had ended already, by the same Ctrl-C


def ask(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    seconds: float | None,
    *,
    told: tuple[float, Callable[[], object]] | None = None,
) -> Result:
    """Run a program that may hang, such as one that asks a server; return its Result.

    told  (seconds, what is called when it has not ended by then)
    It gets the C locale, no input, and a process group of its own, which is killed when it
    has not ended in time. Raises TimeoutError, and OverlayError as run() does.
    """
    import subprocess

    tell(arguments)
    try:
        child = subprocess.Popen(
            arguments,
            env={**environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,
        )
    except OSError as error:
        raise not_started(arguments[0], error) from None
    try:
        try:
            output, errors = child.communicate(timeout=seconds if told is None else told[0])
        except subprocess.TimeoutExpired:
            if told is None:
                raise
            told[1]()
            # What was read until now is not lost.
            output, errors = child.communicate(timeout=seconds)
        return Result(child.returncode, output, errors)
    except BaseException as error:
        os.killpg(child.pid, signal.SIGKILL)
        for pipe in filter(None, (child.stdout, child.stderr)):
            pipe.close()
        try:
            child.wait(0.5)
        except subprocess.TimeoutExpired:
            pass  # a system call that nothing ends, on a dead server: not waited for
        if isinstance(error, subprocess.TimeoutExpired):
            raise TimeoutError from None
        raise


def pour(
    arguments: Sequence[str], environ: Mapping[str, str], source: BinaryIO
) -> subprocess.Popen[bytes]:
    """Start a program that reads an open file, and return it with a pipe of what it prints.

    Its errors are not shown. Raises OverlayError as run() does.
    """
    import subprocess

    tell(arguments, source=source)
    try:
        return subprocess.Popen(
            arguments,
            env=environ,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise not_started(arguments[0], error) from None


def show(arguments: Sequence[str | int], environ: Mapping[str, str]) -> int:
    """Run a program whose output goes to our standard error; return its exit status.

    For what shows its own progress on a terminal; elsewhere only its errors are shown.
    """
    tell(arguments)
    quiet = [] if os.isatty(2) else [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    return _run(arguments, environ, quiet or [(os.POSIX_SPAWN_DUP2, 2, 1)])


def succeeds(arguments: Sequence[str | int], environ: Mapping[str, str]) -> bool:
    """Run a program that says nothing, and return whether it ends well.

    What run() does with less work, for the launch path. Raises OverlayError (UNAVAILABLE).
    """
    tell(arguments)
    actions = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    return _run(arguments, environ, actions) == 0


def become(step: Step, environ: Mapping[str, str], keep: Iterable[int] = ()) -> NoReturn:
    """Replace this process by the program of a Step. Does not return.

    Terminal, signals and exit status are from here on the program's own. Beside it waits a
    process of ours for the case that it is killed.
    keep  descriptors that stay open in it, and the locks that they hold
    """
    tell(step.words(environ))
    limits.restore()
    _restore_signals()
    for descriptor in (*keep, *_leave_keeper()):
        os.set_inheritable(descriptor, True)
    try:
        os.execve(step.arguments[0], step.arguments, step.environment(environ))
    except OSError as error:
        raise not_started(step.arguments[0], error) from None


def _leave_keeper() -> tuple[int, ...]:
    """Leave a child that ends what is left when the engine, which we become, is killed.

    Return the descriptor that the engine is to inherit, where there is such a child.
    """
    reading, writing = os.pipe()
    engine = os.getpid()
    try:
        if os.fork() == 0:
            try:
                os.close(writing)
                from overlay.host import keeper  # the engine does not wait for it

                keeper.stand_by(engine, reading)
            finally:
                os._exit(0)
        return (writing,)
    except OSError:
        os.close(writing)
        return ()  # no process is left to the user: the engine will say so
    finally:
        os.close(reading)


def _restore_signals() -> None:
    """Give up what Python changed at its start: `yes | head` inside must end by SIGPIPE."""
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def not_started(program: str | int, error: OSError) -> OverlayError:
    """Return what to say of a program that cannot be started."""
    return OverlayError(f"cannot start {quote(program)}: {reason(error)}", status=UNAVAILABLE)
