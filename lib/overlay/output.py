"""What a command says: results to standard output, all else to standard error."""

from __future__ import annotations

import os

from overlay.errors import DATA_LOST, OverlayError, encoded, printable, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Listener(Protocol):
        """What a session tells of itself: an Output, or an object of a site's own script."""

        def notice(self, text: str, level: str = ...) -> object:
            """Take a line for the user."""

        def error(self, error: OverlayError) -> object:
            """Take an OverlayError that did not end the session."""


class Output:
    """What a command says: results to standard output, all else to standard error."""

    def __init__(self, program: str, quiet: bool = False, verbose: bool = False) -> None:
        self.program = program
        self.quiet = quiet
        self.verbose = verbose

    def result(self, text: str, exact: bool = False) -> None:
        """Print a result of one line or several.

        exact  whether it is printed as it is: lines for a shell, or colours of our own
        """
        text = text if exact else printable(text, keep="\n\t")
        write_result(text if text.endswith("\n") else text + "\n")

    def notice(self, text: str, level: str = "notice") -> None:
        """Print a line for the user, unless they asked for less."""
        if level == "warning" or (not self.quiet and (level != "detail" or self.verbose)):
            # What the site has to say may take several lines.
            self._line(f"{self.program}: {text}", keep="\n" if level == "message" else "")

    def started(self, line: str) -> None:
        """Show a program that is started, as a shell does with -x."""
        self._line(f"+ {line}")

    def progress(self, text: str) -> None:
        """Show how far a long command is, in place of what it said before; "" takes it away.

        Only a terminal shows it.
        """
        if not self.quiet and os.isatty(2):
            width = os.get_terminal_size(2).columns or 80
            self._write(f"\r{printable(text)[: width - 1]}\x1b[K")

    def error(self, error: OverlayError) -> None:
        """Print an OverlayError and its hint."""
        self._line(f"{self.program}: error: {error.what}")
        if error.hint:
            self._line(f"{self.program}: hint: {error.hint}")

    def _line(self, text: str, keep: str = "") -> None:
        # One write a line: the lines of sixteen tasks must not run into each other.
        self._write(printable(text, keep) + "\n")

    def _write(self, text: str) -> None:
        try:
            os.write(2, encoded(text))
        except OSError:
            pass  # nobody listens; the exit status still tells


def write_result(text: str) -> None:
    """Write text to standard output, now and whole.

    Past sys.stdout, which would find out only at the end of Python that nobody can read it.
    Raises OverlayError (DATA_LOST), or BrokenPipeError when the reader has gone.
    """
    data = encoded(text)
    try:
        while data:
            data = data[os.write(1, data) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OverlayError(
            f"all is done, but the result cannot be printed: {reason(error)}", status=DATA_LOST
        ) from None
