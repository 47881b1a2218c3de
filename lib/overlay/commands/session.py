"""mount-overlay and run-overlay: a shell, a file of commands, or one command, in overlays."""

import os

from overlay import config as configuration
from overlay import process, session
from overlay.errors import USAGE, OverlayError


def main(options, environ, root, output):
    """Launch what the options ask for. Returns only for --dry-run."""
    commands, command = getattr(options, "file", None), getattr(options, "command", None)
    if output.program == "run-overlay":
        _check_commands(commands, command)
    request = session.Session(
        [session.parse_overlay(text) for text in options.overlays],
        container=options.container,
        binds=options.binds,
        gpus=[name for name in ("nv", "rocm") if getattr(options, name)],
        fakeroot=options.fakeroot,
        options=options.engine_options,
        commands=commands,
        command=command,
        program=output.program,
    )
    config = configuration.load(environ, root)
    facts = session.gather(request, config, environ)
    plan = session.plan(request, config, facts)
    for level, text in plan.notices:
        output.notice(text, level)
    if options.dry_run:
        output.result(plan.shell())
        return 0
    for feature in session.needed_features(request, plan.final):
        facts.engine.check(feature, environ)
    return process.launch(plan, environ)


def _check_commands(commands, command):
    if commands is not None and command is not None:
        raise OverlayError(
            "there are both a file of commands (-f) and a command (after --)",
            status=USAGE,
            hint="give one of them",
        )
    if commands is None and not command:
        raise OverlayError(
            "there is nothing to run",
            status=USAGE,
            hint="run-overlay -o OVERLAY -f FILE, or run-overlay -o OVERLAY -- COMMAND;"
            " for a shell: mount-overlay -o OVERLAY",
        )
    if commands == "":
        raise OverlayError("the name of the command file is empty", status=USAGE)
    if commands and os.sep not in commands and commands.endswith(".ext3"):
        raise OverlayError(
            f"{commands} is an overlay, not a file of commands",
            status=USAGE,
            hint=f"run-overlay -o {commands} -f FILE",
        )
