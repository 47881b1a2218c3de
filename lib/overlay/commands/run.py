"""mount-overlay and run-overlay: a shell, a file of commands, or one command, in overlays."""

from __future__ import annotations

from overlay.commands.arguments import (
    Command,
    Once,
    add_binds,
    add_container,
    add_sizes,
    add_verbosity,
    add_wait,
    check_one,
)
from overlay.errors import USAGE, OverlayError, nothing_named, quote
from overlay.launch import engines
from overlay.launch.request import Session, check_commands, parse_overlay, read_commands
from overlay.launch.run import rehearse, run, show
from overlay.settings import config as configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from overlay.commands.arguments import Group, Parser
    from overlay.output import Output
    from overlay.settings.config import Config


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Launch what the options ask for, and return the exit status."""
    try:
        return _main(options, environ, root, output)
    except OverlayError as error:
        if error.hint and options.overlays:  # in a hint that can be typed those stand that were
            named = " ".join(f"-o {quote(name)}" for name in options.overlays)
            error.hint = error.hint.replace("-o OVERLAY", named)
        raise


def _main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    commands, command = getattr(options, "file", None), getattr(options, "command", None)
    if output.program == "run-overlay":
        _check_commands(options, commands, command)
    if not options.overlays:
        raise nothing_named(
            " ".join(map(quote, [output.program, "-o", "OVERLAY", *options.words[1:]]))
        )
    request = Session(
        [parse_overlay(text) for text in options.overlays],
        container=options.container,
        binds=options.binds,
        gpus=[name for name in ("nv", "rocm") if getattr(options, name)],
        fakeroot=options.fakeroot,
        options=options.engine_options,
        commands=commands,
        command=command,
        program=output.program,
        verbose=options.verbose,
    )
    config = configuration.load(environ, root, output.notice)
    _hold(options, config)
    if options.size is not None or options.files is not None or getattr(options, "keep", None):
        from overlay.commands.mistakes import check_layer

        check_layer(options, output.program)
    if options.stage or options.discard_writes or getattr(options, "per_task", False):
        from overlay.jobs.session import run_in_job

        shared = is_shared(options, config)
        return run_in_job(options, request, config, output, shared=shared)
    if not options.dry_run:
        status = _run(options, request, config, root, output)
        from overlay.host import foreground  # which it needs by now, or we are not here any more

        return foreground.end_like(status)
    show(rehearse(request, config), output)
    return 0


def _run(options: Namespace, request: Session, config: Config, root: str, output: Output) -> int:
    """Run a session, one that is shared or one of its own; return its status."""
    if not is_shared(options, config):
        return run(request, config, wait=options.wait, output=output)
    from overlay.shared import session

    program, *words = options.words
    way = session.Way(words, root) if program == "run-overlay" else None
    return session.run(
        request,
        config,
        wait=options.wait,
        output=output,
        way=way,
        write=bool(options.share),
    )


def is_shared(options: Namespace, config: Config) -> bool:
    """Return whether a session is to be shared: the command line says so, or else the setting."""
    if options.share is None:
        return bool(config["launch.share"] == "read")
    config.hold("launch.share", "--share", options.share and "read")
    config.hold("launch.share", "--no-share", None if options.share else "no")
    return bool(options.share)


def _hold(options: Namespace, config: Config) -> None:
    """Refuse options that would set aside what the site has locked."""
    config.hold("images.default", "-c", options.container)
    config.hold("binds.paths", "-b", options.binds)
    config.hold("launch.gpu", "--nv", options.nv and "nv")
    config.hold("launch.gpu", "--rocm", options.rocm and "rocm")
    if options.engine_options:
        engine = engines.find(config["engine.commands"], config.environ)
        for word in options.engine_options:
            name = engine.sets_aside(word)
            if name:
                config.hold(name, f"--engine-option={quote(word)}", word)
    config.hold("jobs.size", "-s", options.size)
    config.hold("jobs.files", "-n", options.files)


def _check_commands(options: Namespace, commands: str | None, command: list[str] | None) -> None:
    check_one(commands, command)
    if commands is None and not command and options.container and " " in options.container:
        raise OverlayError(
            "-c names the base image, and there is nothing to run",
            status=USAGE,
            hint=f"one command: run-overlay -o OVERLAY -- {options.container}",
        )
    if commands is None and not command:
        raise OverlayError(
            "there is nothing to run",
            status=USAGE,
            hint="for a shell: mount-overlay -o OVERLAY; for a file of commands: run-overlay"
            " -o OVERLAY -f FILE; for one: run-overlay -o OVERLAY -- COMMAND",
        )
    check_commands(commands)
    if commands and not options.overlays:
        read_commands(commands)  # it may be the overlay that is meant


def _add_session_options(parser: Parser) -> None:
    group = parser.add_argument_group("overlays and base image")
    group.add_argument(
        "-o",
        "--overlay",
        metavar="NAME[:ro]",
        action="append",
        dest="overlays",
        default=[],
        help="an overlay; the first is on top, written unless :ro",
    )
    add_container(group)
    add_wait(group, "wait until overlays that are in use are free")
    group = parser.add_argument_group("inside")
    add_binds(group)
    group.add_argument("--nv", action="store_true", help="make NVIDIA GPUs usable")
    group.add_argument("--rocm", action="store_true", help="make AMD GPUs usable")
    group.add_argument("--fakeroot", action="store_true", help="be root inside")
    group.add_argument(
        "--engine-option",
        metavar="OPT",
        action="append",
        dest="engine_options",
        default=[],
        help="hand a word to the engine as it is",
    )


def _add_job_options(parser: Parser) -> tuple[Group, Group]:
    """Add the options for copies and layers on a disk of the node.

    Returns the group, and in it that of the options which exclude each other.
    """
    group = parser.add_argument_group("in jobs")
    shared = group.add_mutually_exclusive_group()
    shared.add_argument(
        "--share",
        action="store_true",
        default=None,
        help="share one session with others on this node",
    )
    shared.add_argument(
        "--no-share",
        action="store_false",
        dest="share",
        help="a session of its own, where the site shares them",
    )
    group.add_argument(
        "--stage",
        action="store_true",
        help="copy read-only overlays to a disk of the node first",
    )
    layer = group.add_mutually_exclusive_group()
    layer.add_argument(
        "--discard-writes",
        action="store_true",
        help="write into a new layer, thrown away at the end",
    )
    return group, layer


def _add_mount_options(parser: Parser) -> None:
    parser.usage = "mount-overlay -o NAME[:ro] [-o NAME ...] [option ...]"
    _add_session_options(parser)
    group, _layer = _add_job_options(parser)
    add_sizes(
        group,
        parser.prog,
        "for --discard-writes: the size of the layer, as 500M or 20G",
        "for --discard-writes: how many files it can hold, as 700K",
    )
    add_verbosity(parser.add_argument_group("output"))


def _add_run_options(parser: Parser) -> None:
    group = parser.add_argument_group("commands")
    group.add_argument(
        "-f",
        "--file",
        metavar="FILE",
        action=Once,
        help="run the bash commands of FILE; - for standard input",
    )
    # What stands behind -- is taken off before argparse sees it; this is for --help.
    parser.usage = (
        "run-overlay -o NAME[:ro] [-o NAME ...] [option ...] -f FILE\n"
        "       run-overlay -o NAME[:ro] [-o NAME ...] [option ...] -- COMMAND [ARG ...]"
    )
    _add_session_options(parser)
    jobs, layer = _add_job_options(parser)
    layer.add_argument(
        "--per-task",
        action="store_true",
        help="write into a new layer of this task's own",
    )
    jobs.add_argument(
        "--keep",
        metavar="DIR",
        help="with --per-task: keep that layer, in DIR",
    )
    add_sizes(
        jobs,
        parser.prog,
        "for the new layer: its size, as 500M or 20G",
        "for the new layer: how many files, as 700K",
    )
    add_verbosity(parser.add_argument_group("output"))


def _parse_run(parser: Parser, words: Sequence[str]) -> Namespace:
    """Take what stands behind the first "--" as the command, options included."""
    command = None
    if "--" in words:
        place = words.index("--")
        words, command = words[:place], words[place + 1 :]
    words = list(words)
    if "--quick" in words:  # of exposed programs, which nobody types: see shared.quick
        place = words.index("--quick")
        del words[place : place + 2]
    options = parser.parse_args(words)
    options.command = command
    return options


_IN_PAGE = ("--rocm", "--engine-option")

PROGRAMS = {
    "mount-overlay": Command(
        "Open a shell in which overlays are laid over the site's base image.",
        "mount-overlay -o env.ext3\nmount-overlay -o work.ext3 -o env.ext3:ro",
        _add_mount_options,
        in_page=(*_IN_PAGE, "--no-share", "--size", "--files"),
    ),
    "run-overlay": Command(
        "Run a file of commands, or one command, in overlays.",
        "run-overlay -o results.ext3 -o env.ext3 -f commands.txt\n"
        "run-overlay -o env.ext3:ro -- /opt/env/bin/python script.py --option",
        _add_run_options,
        _parse_run,
        in_page=(*_IN_PAGE, "--no-share", "--nv", "--fakeroot", "--quiet", "--verbose"),
    ),
}
