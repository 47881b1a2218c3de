"""Every command's way in and out: the error boundary, and the only place that prints."""

import os

from overlay import options
from overlay.errors import INTERNAL, INTERRUPTED, MISSING, OverlayError, printable, reason

# Command -> module of overlay.commands; only the one that was called is imported.
COMMANDS = {
    "create-overlay": "create",
    "create-overlay-conda": "create",
    "mount-overlay": "session",
    "run-overlay": "session",
    "check-overlay": "check",
    "resize-overlay": "resize",
    "pack-overlay": "pack",
    "show-overlay": "show",
    "list-overlays": "list",
    "overlay-admin": "admin",
}


class Output:
    """What a command says: results to standard output, all else to standard error."""

    def __init__(self, program, quiet=False, verbose=False):
        self.program = program
        self.quiet = quiet
        self.verbose = verbose

    def result(self, text, exact=False):
        """Print a result of one line or several.

        exact  whether it is printed as it is: lines for a shell, or colours of our own
        """
        text = text if exact else printable(text, keep="\n\t")
        options.write_result(text if text.endswith("\n") else text + "\n")

    def notice(self, text, level="notice"):
        """Print a line for the user, unless he asked for less."""
        if level == "warning" or (not self.quiet and (level != "detail" or self.verbose)):
            # What the site has to say may take several lines.
            self._line(f"{self.program}: {text}", keep="\n" if level == "message" else "")

    def progress(self, text):
        """Show how far a long command is, in place of what it said before; "" takes it away.

        Only a terminal shows it.
        """
        if not self.quiet and os.isatty(2):
            width = os.get_terminal_size(2).columns or 80
            self._write(f"\r{printable(text)[: width - 1]}\x1b[K")

    def error(self, error):
        """Print an OverlayError and its hint."""
        self._line(f"{self.program}: error: {error.what}")
        if error.hint:
            self._line(f"{self.program}: hint: {error.hint}")

    def _line(self, text, keep=""):
        # One write a line: the lines of sixteen tasks must not run into each other.
        self._write(printable(text, keep) + "\n")

    def _write(self, text):
        text = text.encode(errors="surrogateescape")
        try:
            os.write(2, text)
        except OSError:
            pass  # nobody listens; the exit status still tells


def main(program, arguments, environ, root):
    """Run a command and return its exit status.

    program    its name, such as "run-overlay"
    arguments  its command line without the name
    environ    the caller's environment, a dictionary
    root       the tree that holds etc/overlay.ini
    """
    _open_standard_descriptors()
    output = Output(program)
    try:
        from importlib import import_module

        from overlay import config, process

        environ = process.absolute(environ)
        module = import_module(f"overlay.commands.{COMMANDS[program]}")
        chosen = options.parse(program, arguments)
        output.quiet = chosen.quiet
        output.verbose = getattr(chosen, "verbose", False)
        _check_directory()
        for words in config.warnings(environ):
            output.notice(words, "warning")
        return module.main(chosen, environ, root, output)
    except OverlayError as error:
        output.error(error)
        return error.status
    except KeyboardInterrupt:
        output.notice("interrupted", "warning")
        return INTERRUPTED
    except BrokenPipeError:
        return 128 + 13  # the reader of a pipe has gone; that is how `| head` ends
    except Exception as error:
        if environ.get("OVERLAY_DEBUG"):
            raise
        return _bug(output, error)


def _check_directory():
    """Refuse to work in a directory that has been removed: names, and tools, would fail one by one."""
    try:
        os.getcwd()
    except OSError as error:
        raise OverlayError(
            f"the current directory is gone: {reason(error)}", status=MISSING, hint="cd"
        ) from None


def _open_standard_descriptors():
    """See that 0, 1 and 2 are open: else the next file opened, an image, would become one.

    A closed standard output is opened for reading, so that writing to it fails.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free
            os.set_inheritable(descriptor, True)  # what we start needs the three as well


def _bug(output, error):
    """Say where a bug of ours is, in a line that can be sent to those who mend it."""
    here = os.path.dirname(os.path.abspath(__file__))
    place, frame = "unknown", error.__traceback__
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        if file.startswith(here):
            place = f"{os.path.relpath(file, here)}:{frame.tb_lineno}"
        frame = frame.tb_next
    output.error(
        OverlayError(
            f"this is a bug: {type(error).__name__} at {place}: {error}",
            status=INTERNAL,
            hint="send this line, and the command that you typed, to your site's support",
        )
    )
    return INTERNAL
