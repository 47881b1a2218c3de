"""update-overlay: change an environment on a copy, which takes its place when all went well."""

from __future__ import annotations

import os

from overlay.change import back, update
from overlay.commands.arguments import (
    Command,
    Once,
    add_activate,
    add_binds,
    add_container,
    add_overlays,
    add_sizes,
    add_verbosity,
    add_wait,
    check_one,
    parse_overlay,
)
from overlay.commands.resize import wanted_by
from overlay.errors import USAGE, OverlayError, quote
from overlay.host.limits import set_soft_aside
from overlay.launch.request import Session, check_commands, read_commands
from overlay.settings import config as configuration
from overlay.settings.values import parse_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from overlay.commands.arguments import Parser
    from overlay.output import Output
    from overlay.settings.config import Config


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Update one overlay, or undo the last update, and say what came of it."""
    try:
        return _main(options, environ, root, output)
    except OverlayError as error:
        if error.hint:  # in a hint that can be typed the overlay stands that was named
            named = f"update-overlay {quote(options.overlay)}"
            error.hint = error.hint.replace("update-overlay OVERLAY", named)
        raise


def _main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    set_soft_aside()
    config = configuration.load(environ, root, output.notice)
    if options.undo:
        _check_alone(options)
        kept = back.undo(options.overlay, output)
        if not options.quiet:
            output.result(f"{quote(options.overlay)} is what it was before; again: --undo")
        return 0 if kept else 1
    if options.forget:
        _check_alone(options)
        gone = back.forget(options.overlay)
        if not options.quiet:
            output.result("removed " + " ".join(quote(os.path.relpath(name)) for name in gone))
        return 0
    check_one(options.file, options.command)
    check_commands(options.file)
    if options.file is not None:
        read_commands(options.file, output.program)  # before anything is copied
    _hold(options, config)
    session = Session(
        [],
        container=options.container,
        binds=options.binds,
        gpus=[name for name in ("nv", "rocm") if getattr(options, name)],
        fakeroot=options.fakeroot,
        commands=options.file,
        command=_command(options),
        program=output.program,
        verbose=options.verbose,
    )
    size, files = options.size, options.files
    more = (size and size.from_now, files and files.from_now)
    work = update.Updating(options.overlay, config, output, options.wait, more)
    try:
        outcome = work.do(
            session,
            versions=options.versions or config["update.versions"],
            words=options.words,
            activate=options.activate,
        )
    finally:
        work.close()
    if not options.quiet:
        output.result(_said(options.overlay, outcome))
    return 0


def _said(overlay: str, outcome: update.Outcome) -> str:
    """Return what is said at the end of an update."""
    path = quote(overlay)
    if not outcome.changed:
        return f"nothing was changed in {path}: it stays as it is"
    if outcome.before is None:
        return f"updated {path}\n  before  not kept: this file system cannot give it another name"
    before = outcome.before if os.path.isabs(overlay) else os.path.relpath(outcome.before)
    return (
        f"updated {path}\n  before  {quote(before)}\nnext: to go back: update-overlay --undo {path}"
    )


def _command(options: Namespace) -> list[str] | None:
    """Return the command to run: nothing at all where only other things change."""
    others = options.size or options.files or options.activate is not None
    if options.command is None and options.file is None and others:
        return ["true"]
    command: list[str] | None = options.command
    return command


def _check_alone(options: Namespace) -> None:
    """Refuse what cannot be undone and done at once."""
    others = options.size or options.files or options.versions or options.activate is not None
    if options.file or options.command or others:
        option = "--undo" if options.undo else "--forget"
        raise OverlayError(
            f"{option} is about the versions before, and does nothing else",
            status=USAGE,
            hint=f"update-overlay {option} {quote(options.overlay)}",
        )


def _hold(options: Namespace, config: Config) -> None:
    """Refuse options that would set aside what the site has locked."""
    config.hold("images.default", "-c", options.container)
    config.hold("binds.paths", "-b", options.binds)
    config.hold("launch.gpu", "--nv", options.nv and "nv")
    config.hold("launch.gpu", "--rocm", options.rocm and "rocm")
    config.hold("update.versions", "--versions", options.versions)


def _versions(text: str) -> int:
    """Return how many versions are kept. Raises OverlayError (USAGE)."""
    try:
        return parse_number(text)
    except ValueError:
        raise OverlayError(
            f"--versions: {quote(text)} is not a number from 1 to 1000",
            status=USAGE,
            hint="to keep the last three: --versions 3",
        ) from None


def _parse(parser: Parser, words: Sequence[str]) -> Namespace:
    """Take what stands behind the first "--" as the command, and one overlay before it."""
    command = None
    behind = list(words[list(words).index("--") :]) if "--" in words else []
    if behind:
        words, command = words[: -len(behind)], behind[1:]
    options = parse_overlay(parser, words, "-f FILE", behind)
    named = [options.overlay, *options.overlays]
    numbers = [word for word in named if word.isdecimal() and not os.path.exists(word)]
    if (options.undo or options.forget) and numbers:
        option = "--undo" if options.undo else "--forget"
        raise OverlayError(
            f"{option} takes no number, but an overlay",
            status=USAGE,
            hint=f"update-overlay {option}"
            f" {quote(next((word for word in named if word not in numbers), 'OVERLAY'))}",
        )
    if options.overlays:
        raise _words_alone(options.overlay, options.overlays, words, command)
    if command == []:
        raise OverlayError(
            "there is no command behind --",
            status=USAGE,
            hint=f"for a shell in the copy: update-overlay {quote(options.overlay)}",
        )
    options.command = command
    return options


def _words_alone(
    overlay: str, rest: Sequence[str], words: Sequence[str], command: Sequence[str] | None
) -> OverlayError:
    """Return the error for words that are neither an option's nor behind --.

    words, command  what stands before and behind --
    """
    from overlay.commands import meant

    line = meant.Line("update-overlay", words, command, rest)
    return OverlayError(
        f"what is run in the copy stands behind -f or --: {' '.join(map(quote, rest))}",
        status=USAGE,
        hint=meant.update(line, overlay),
    )


def _add_options(parser: Parser) -> None:
    parser.usage = (
        "update-overlay OVERLAY [option ...] [-f FILE | -- COMMAND [ARG ...]]\n"
        "       update-overlay --undo | --forget OVERLAY"
    )
    group = parser.add_argument_group("the overlay")
    add_overlays(group, "an overlay of yours, packed or not; others may read it")
    group.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        action=Once,
        help="run the bash commands of FILE; without: a shell",
    )
    about = group.add_mutually_exclusive_group()
    about.add_argument("--undo", action="store_true", help="put the version before back")
    about.add_argument("--forget", action="store_true", help="remove the versions before")
    group.add_argument(
        "--versions",
        metavar="N",
        type=_versions,
        help="how many versions before are kept (default: the site's, 1)",
    )
    add_sizes(
        group,
        parser.prog,
        "give it another size as well: 20G, or +5G",
        "and another number of files: 2M, or +500K",
        wanted_by,
    )
    add_activate(group, "make this environment ready: /opt/env inside")
    add_wait(group, "wait until nobody writes it")
    group = parser.add_argument_group("inside")
    add_container(group)
    add_binds(group)
    group.add_argument("--nv", action="store_true", help="make NVIDIA GPUs usable")
    group.add_argument("--rocm", action="store_true", help="make AMD GPUs usable")
    group.add_argument("--fakeroot", action="store_true", help="be root inside")
    add_verbosity(parser.add_argument_group("output"), dry_run=False)


PROGRAMS = {
    "update-overlay": Command(
        "Change an overlay on a copy, which takes its place when all went well.",
        "update-overlay env.ext3 -- pip install networkx\nupdate-overlay env.ext3 -f more.txt -s +2G",
        _add_options,
        _parse,
        in_page=(
            "--overlay",
            "--no-activate",
            "--nv",
            "--rocm",
            "--fakeroot",
            "--quiet",
            "--verbose",
        ),
    ),
}
