"""What asks this process to end, as an exception: what was begun is removed first."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import Literal

    from overlay.host.foreground import Handler


class cleaning_up:
    """A context in which TERM and HUP are exceptions, so that what was begun is removed.

    Afterwards the signal has its own effect: the process ends by it. In another such
    context it does nothing; that one ends the process, when it has tidied up as well.
    """

    class Ended(BaseException):
        """A signal that asks us to end arrived."""

        def __init__(self, number: int) -> None:
            super().__init__(number)
            self.number = number

    def __enter__(self) -> None:
        self._before: dict[int, Handler] = {}
        for number in (signal.SIGTERM, signal.SIGHUP):
            handler = signal.getsignal(number)
            within = getattr(handler, "__func__", None) is cleaning_up._raise
            if handler is not signal.SIG_IGN and not within:
                self._before[number] = handler
                signal.signal(number, self._raise)

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise self.Ended(number)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> Literal[False]:
        ended = isinstance(error, self.Ended)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if ended else handler)
        if isinstance(error, self.Ended) and error.number in self._before:
            os.kill(os.getpid(), error.number)
        return False
