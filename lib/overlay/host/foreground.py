"""A program that people are in: it runs in our process group, and we wait for its end."""

from __future__ import annotations

import os
import signal

from overlay.host import keeper, limits
from overlay.host.process import ENDING, end, not_started, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from types import FrameType
    from typing import BinaryIO, NoReturn, Optional, Union

    from overlay.plan import Step

    Handler = Union[Callable[[int, Optional[FrameType]], object], int, None]

# Left to the terminal, which sends them to all of the process group.
_TERMINAL = (signal.SIGINT, signal.SIGQUIT)

_LASTS = 1  # seconds after which a child is taken for one that lasts

_SI_KERNEL = 0x80  # siginfo.h: sent by the kernel, as a terminal does

_RELAYED = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


def stay(
    step: Step,
    environ: Mapping[str, str],
    copy: BinaryIO | None = None,
    keep: Sequence[int] = (),
    prepare: Callable[[], object] | None = None,
) -> int:
    """Run a Step as a child in our process group; return its status, negative for a signal.

    copy  an open binary file that gets what the child prints, beside our standard error;
          then a signal that asks us to end goes to all that runs inside, and is raised here
          when the child has ended
    keep  descriptors of the overlays; whoever ends the session when we are killed has them
    prepare  called when the child lasts: for what will be needed after it and may be gone then,
          such as modules, which an upgrade replaces
    What a terminal sends (Ctrl-C, Ctrl-Z, a new window size) reaches the child by itself;
    what is sent to this process alone, by kill(1) or a batch system, is handed on.
    Raises OverlayError (UNAVAILABLE) when it cannot be started.
    """
    tell(step.words(environ))
    environment = step.environment(environ)

    def become() -> NoReturn:
        limits.restore()
        os.execve(step.arguments[0], step.arguments, environment)

    return _stay(step.arguments[0], become, keep, _in_foreground(), copy, prepare)


def stay_beside(program: str, become: Callable[[], NoReturn]) -> int:
    """Run a child as stay() does, which somebody else ends when we are killed.

    program  what it is called
    become   what it does, up to its exec; raises OSError
    """
    return _stay(program, become, None, False, None, None)


def _stay(
    program: str,
    become: Callable[[], NoReturn],
    keep: Sequence[int] | None,
    in_foreground: bool,
    copy: BinaryIO | None,
    prepare: Callable[[], object] | None,
) -> int:
    """Do what stay() does.

    program        what the child is called
    become         what it does, up to its exec; raises OSError
    keep           see stay(); None: somebody else ends the child when we are killed
    in_foreground  whether the child is an engine that keeps a terminal's signals for itself
    copy, prepare  see stay()
    """
    before = handlers()
    # What the caller ignores, as nohup and a shell in the background do, is ignored inside.
    heard = {number for number, handler in before.items() if handler is not signal.SIG_IGN}
    defaults = [*heard, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ]
    reading = writing = child = guard = copier = None
    # Taken one by one, with who has sent them: a handler would not hear of that.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*before, signal.SIGCHLD})
    try:
        if keep is not None:
            guard = keeper.Keeper(keep, in_foreground)
        if copy is not None:
            reading, writing = os.pipe()
        child = _start(program, become, defaults, writing, guard)
        if copy is not None and reading is not None and writing is not None:
            os.close(writing)
            writing = None
            copier = _Copier(reading, copy, child, in_foreground)
        status, asked = _wait(child, heard, in_foreground, copy is not None, prepare)
        if copier is not None:
            copier.finish()
    except BaseException:
        if child is not None:
            end(child)
        set_handlers(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise
    finally:
        for descriptor in (reading, writing):
            if descriptor is not None:
                os.close(descriptor)
        if guard is not None:
            guard.dismiss()
    # There is nobody left to hand signals on to. After a session its overlay is still to be
    # looked at; what else follows may be ended.
    set_handlers(before if copy is not None else dict.fromkeys(heard, signal.SIG_IGN))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if copy is not None and asked:
        signal.raise_signal(signal.SIGINT if asked in _TERMINAL else asked)
    return os.waitstatus_to_exitcode(status)


def _wait(
    child: int,
    heard: Collection[int],
    in_foreground: bool,
    everybody: bool,
    prepare: Callable[[], object] | None,
) -> tuple[int, int | None]:
    """Wait for the end of a child, handing on what is sent to us; blocked, all of it.

    heard      signals that are not ignored
    everybody  whether what asks us to end goes to all that runs inside, as from a terminal
    prepare    as stay() has it
    Return the child's status, as of waitpid(2), and the first signal that asked us to end.
    """
    asked = None
    while True:
        numbers = {*heard, signal.SIGCHLD}
        found = signal.sigtimedwait(numbers, _LASTS) if prepare else signal.sigwaitinfo(numbers)
        if found is None:
            if prepare:
                prepare()
            prepare = None
            continue
        number = signal.Signals(found.si_signo)
        if number == signal.SIGCHLD:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return status, asked
            continue
        asks = number in {*_TERMINAL, *ENDING}
        asked = asked or (number if asks else None)
        if number in _TERMINAL and found.si_code == _SI_KERNEL:
            continue  # the terminal has sent it to the child as well
        if not (everybody and asks and keeper.tell_all(child, number)):
            keeper.relay(child, number, in_foreground)


def _start(
    program: str,
    become: Callable[[], NoReturn],
    defaults: Iterable[int],
    output: int | None,
    guard: keeper.Keeper | None,
) -> int:
    """Start the child for stay() and return its number. Signals are blocked.

    defaults  signals that it does not ignore
    output    the descriptor for what it prints, None for ours
    guard     the Keeper, which is told of it before it runs: posix_spawn(3) would leave a
              moment in which we could be killed and nobody knew of it
    Raises OverlayError (UNAVAILABLE) when it cannot be started.
    """
    reading, writing = os.pipe()
    still_open = [reading, writing]
    try:
        child = os.fork()
        if child == 0:
            try:
                if guard is not None:
                    guard.watch(os.getpid())
                for number in defaults:
                    signal.signal(number, signal.SIG_DFL)
                if output is not None:
                    os.dup2(output, 1)
                    os.dup2(output, 2)
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                become()
            except OSError as error:
                os.write(writing, str(error.errno).encode())
            finally:
                os._exit(127)
        os.close(still_open.pop())
        failed = os.read(reading, 16)  # nothing, when exec has closed it
        if failed:
            os.waitpid(child, 0)
            raise OSError(int(failed), os.strerror(int(failed)))
        return child
    except OSError as error:
        raise not_started(program, error) from None
    finally:
        for descriptor in still_open:
            os.close(descriptor)


def handlers() -> dict[int, Handler]:
    """Return what this process does on the signals that stay() takes care of, by number."""
    return {number: signal.getsignal(number) for number in (*_TERMINAL, *_RELAYED)}


def set_handlers(known: Mapping[int, Handler]) -> None:
    """Make it so again; None is a handler that is not Python's, and was not changed."""
    for number, handler in known.items():
        if handler is not None:
            signal.signal(number, handler)


class _Copier:
    """Hands on what a child prints through a pipe, to standard error and to a file.

    A thread does it until the child has ended: what it has left in the background may keep
    the pipe open. Where the file cannot be written any more, the session is ended.
    """

    def __init__(self, reading: int, copy: BinaryIO, child: int, in_foreground: bool) -> None:
        import threading  # not needed on the launch path

        self._error: OSError | None = None
        self._in_foreground = in_foreground
        self._thread = threading.Thread(target=self._run, args=(reading, copy, child))
        self._thread.start()

    def finish(self) -> None:
        """Wait until all is copied, when the child has ended. Raises OSError of the file."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, reading: int, copy: BinaryIO, child: int) -> None:
        try:
            _copy_all(reading, copy, child)
        except OSError as error:
            self._error = error
            keeper.end(child, self._in_foreground)


def _copy_all(reading: int, copy: BinaryIO, child: int) -> None:
    """Copy what comes through a pipe, until its end or that of a child."""
    import select

    poll = select.poll()
    poll.register(reading, select.POLLIN)
    ended = os.pidfd_open(child)
    poll.register(ended, select.POLLIN)
    try:
        while True:
            ready = dict(poll.poll())
            data = os.read(reading, 1 << 16) if reading in ready else b""
            if not data and (reading in ready or ended in ready):
                return
            copy.write(data)
            copy.flush()
            try:
                os.write(2, data)
            except OSError:
                pass  # nobody looks; the file has it
    finally:
        os.close(ended)


def _in_foreground() -> bool:
    """Return whether our process group is now the foreground one of a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def end_like(status: int) -> int:
    """Return an exit status, or end by the signal that a negative one stands for.

    A shell and a batch system then see of us what they would have seen of the engine.
    """
    if status >= 0:
        return status
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core would be of this process
    if -status not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-status, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
    os.kill(os.getpid(), -status)
    return 128 - status
