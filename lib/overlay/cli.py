"""Every command's way in and out: the error boundary, and the only place that prints."""

from __future__ import annotations

import gc
import os

from overlay.errors import INTERNAL, INTERRUPTED, UNAVAILABLE, OverlayError
from overlay.host.path import trusted
from overlay.output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from overlay.commands.arguments import Command, Parser

# Command -> module of overlay.commands; only the one that was called is imported.
COMMANDS = {
    "create-overlay": "create",
    "create-overlay-conda": "create",
    "mount-overlay": "run",
    "run-overlay": "run",
    "check-overlay": "check",
    "resize-overlay": "resize",
    "update-overlay": "update",
    "pack-overlay": "pack",
    "expose-overlay": "expose",
    "show-overlay": "show",
    "list-overlays": "list",
    "overlay-admin": "admin",
}


def load(program: str) -> tuple[ModuleType, Command]:
    """Return the module of a command, and the Command that it is."""
    # importlib would be one more module to import.
    module = __import__(f"overlay.commands.{COMMANDS[program]}", fromlist=["PROGRAMS"])
    return module, module.PROGRAMS[program]


def parser(program: str) -> Parser:
    """Return the Parser of a command."""
    return load(program)[1].parser(program)


def parse(program: str, arguments: Sequence[str]) -> Namespace:
    """Return the parsed options of a command line. Raises OverlayError (USAGE)."""
    return load(program)[1].parse(program, arguments)


def main(program: str, arguments: Sequence[str], environ: Mapping[str, str], root: str) -> int:
    """Run a command and return its exit status.

    program    its name, such as "run-overlay"
    arguments  its command line without the name
    environ    the caller's environment, a dictionary
    root       the tree that holds etc/overlay.ini
    """
    _open_standard_descriptors()
    # What is made until the command begins stays for good: to look through it for what could be
    # freed takes a millisecond of every start.
    gc.disable()
    output = Output(program)
    environ = trusted(environ)
    shown = False
    try:
        if program == "run-overlay" and _may_share(arguments, environ):
            from overlay.shared import short

            short.take(program, arguments, environ, root)  # comes back when it is not known
        from overlay.host import process
        from overlay.settings import config as configuration

        try:
            chosen = parse(program, arguments)
        except OverlayError:
            check = load(program)[1].check
            if check:
                check(environ, root)  # else the next line would be in vain, too
            raise
        chosen.words = [program, *arguments]
        output.quiet = chosen.quiet
        output.verbose = chosen.verbose
        if output.verbose or environ.get("OVERLAY_DEBUG"):
            process.on_start(output.started)
        _check_directory()
        for words in configuration.warnings(environ):
            output.notice(words, "warning")
        shown = getattr(chosen, "dry_run", False)
        if shown:
            _only_show(True)
        gc.freeze()
        gc.enable()
        status: int = load(program)[0].main(chosen, environ, root, output)
        return status
    except OverlayError as error:
        output.error(_from_inside(error, environ) if error.status == UNAVAILABLE else error)
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
    finally:
        gc.enable()
        if shown:
            _only_show(False)


def _only_show(shown: bool) -> None:
    """Say whether what a Plan would do is only shown."""
    from overlay import plan

    plan.only_show(shown)


def _may_share(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Return whether a session is to be shared, as far as that is seen at once.

    Where the settings say so, who has joined one without being asked to has noted it.
    """
    if "--share" in arguments or "--no-share" in arguments:
        return "--share" in arguments
    from overlay.shared import place

    return place.is_unasked(environ)


def _from_inside(error: OverlayError, environ: Mapping[str, str]) -> OverlayError:
    """Return the error for a program that is missing: inside a session that is to be expected."""
    from overlay.launch import engines

    if not engines.is_inside(environ):
        return error
    return OverlayError(
        f"you are inside a session already, and there {error.what}",
        status=error.status,
        hint="leave it first: exit; several overlays are named at once: -o FIRST -o SECOND",
    )


def _check_directory() -> None:
    """Refuse to work in a directory that has been removed: names, and tools, would fail one by one."""
    try:
        os.getcwd()
    except OSError as error:
        from overlay.host import places

        raise places.current_is_gone(error) from None


def _open_standard_descriptors() -> None:
    """See that 0, 1 and 2 are open: else the next file opened, an image, would become one.

    A closed standard output is opened for reading, so that writing to it fails.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free
            os.set_inheritable(descriptor, True)  # what we start needs the three as well


def _bug(output: Output, error: Exception) -> int:
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
