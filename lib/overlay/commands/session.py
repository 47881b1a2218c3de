"""mount-overlay and run-overlay: a shell, a file of commands, or one command, in overlays."""

import os

from overlay import config as configuration
from overlay import finish, guard, markers, process, record, session
from overlay.errors import USAGE, OverlayError, quote


def main(options, environ, root, output):
    """Launch what the options ask for, and return the exit status."""
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
        verbose=options.verbose,
    )
    config = configuration.load(environ, root, output.notice)
    _hold(options, config)
    if options.stage or options.discard_writes or getattr(options, "per_task", False):
        from overlay.commands import job

        return job.main(options, request, config, output)
    if options.size is not None or options.files is not None or getattr(options, "keep", None):
        tasks = output.program == "run-overlay"
        raise OverlayError(
            f"{'-s, -n and --keep' if tasks else '-s and -n'} are for a layer that is made for the"
            f" session alone: {'--per-task' if tasks else '--discard-writes'}",
            status=USAGE,
            hint="to make an overlay: create-overlay; to give one another size: resize-overlay",
        )
    if not options.dry_run:
        return process.end_like(run(request, config, wait=options.wait, output=output))
    facts = session.gather(request, config, environ)
    look_inside(request, facts, remember=False)
    plan = session.plan(request, config, facts)
    for level, text in plan.notices:
        output.notice(text, level)
    output.result(plan.shell(), exact=True)
    return 0


# Words for the engine that say what our own options do, by the setting that these would set aside.
_SAME = {"binds.paths": ("--bind", "-B", "--mount"), "launch.gpu": ("--nv", "--rocm", "--nvccli")}


def _hold(options, config):
    """Refuse options that would set aside what the site has locked."""
    config.hold("images.default", "-c", options.container)
    config.hold("binds.paths", "-b", options.binds)
    config.hold("launch.gpu", "--nv", options.nv and "nv")
    config.hold("launch.gpu", "--rocm", options.rocm and "rocm")
    for word in options.engine_options:
        for name, words in _SAME.items():
            if word.partition("=")[0] in words or (name == "binds.paths" and word[:2] == "-B"):
                config.hold(name, f"--engine-option={quote(word)}", word)
    config.hold("jobs.size", "-s", options.size)
    config.hold("jobs.files", "-n", options.files)


def run(request, config, *, wait, output, replace=True, kept=True):
    """Lock, plan and launch a session; return its exit status, negative for a signal.

    wait     seconds to wait for overlays in use; None not at all
    output   where notices go
    replace  whether the engine may take the place of this process, when there is nothing to
             do after it; then this does not return
    kept     whether what is written is to be kept, and so looked after
    """
    environ = config.environ
    facts = session.gather(request, config, environ)
    try:
        session.check_twice(facts.images)
        writable, _why = session.decide_writable(request, facts)
        session.read_input(facts, output.notice)
        guard.acquire(
            facts.images, writable, config=config, environ=environ, wait=wait, notice=output.notice
        )
        look_inside(request, facts)
        plan = session.plan(request, config, facts)
        for level, text in plan.notices:
            output.notice(text, level)
        for feature in session.needed_features(request, plan.final):
            facts.engine.check(feature, environ)
        return _launch(plan, facts, request.program, output, replace, kept)
    finally:
        for image in facts.images:
            image.close()


def look_inside(request, facts, remember=True):
    """Add to the Facts what the overlays themselves say, once they are locked or only asked.

    remember  whether what was found is noted on the images
    """
    writable, _why = session.decide_writable(request, facts)
    facts.markers = not writable and any(
        markers.present(image, facts.environ, remember=remember) for image in facts.images
    )
    session.check_fakeroot(request, facts)
    session.settle_launchers(request, facts, writable)


def _launch(plan, facts, program, output, replace, kept):
    """Do all of a Plan whose overlays are locked, and return the status of its end."""
    first, environ = facts.images[0], facts.environ
    supervised = plan.writable and first.kind == "ext3" and kept
    descriptors = [image.descriptor for image in facts.images]
    try:
        for step in plan.before:
            step.action()
        if replace and not supervised and not plan.after:
            process.become(plan.final, environ, descriptors)
        if supervised:
            stack = markers.stack_name(facts.base, [one.path for one in facts.images[1:]])
            record.begin(
                first.descriptor,
                environ,
                host=os.uname().nodename,
                stack=stack,
                others=markers.last_second_of_others(first),
            )
        token = f"{os.getpid()}.{os.times().elapsed}"
        if supervised:
            plan.final.variables[facts.engine.variable("OVERLAY_SESSION")] = token
        status = process.stay(plan.final, environ, keep=descriptors)
        if supervised:
            status = finish.finish(
                facts, status, token=token, environ=environ, output=output, program=program
            )
        return status
    finally:
        for step in plan.after:
            step.action()


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
