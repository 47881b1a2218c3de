"""A session from its locks to its end."""

import os

from overlay.host import process
from overlay.image import markers, record
from overlay.launch.facts import decide_writable, gather
from overlay.launch.launchers import settle_launchers
from overlay.launch.plan import check_fakeroot, make_plan
from overlay.launch.request import check_twice, read_input


def run(request, config, *, wait, output, replace=True, kept=True):
    """Lock, plan and launch a session; return its exit status, negative for a signal.

    wait     seconds to wait for overlays in use; None not at all
    output   where notices go
    replace  whether the engine may take the place of this process, when there is nothing to
             do after it; then this does not return
    kept     whether what is written is to be kept, and so looked after
    """
    from overlay.safety import guard  # what a dry run does without

    environ = config.environ
    facts = gather(request, config, environ)
    try:
        check_twice(facts.images)
        writable, _why = decide_writable(request, facts)
        read_input(facts, output.notice)
        guard.acquire(
            facts.images, writable, config=config, environ=environ, wait=wait, notice=output.notice
        )
        look_inside(request, facts)
        plan = make_plan(request, config, facts)
        for level, text in plan.notices:
            output.notice(text, level)
        for feature in plan.features:
            facts.engine.check(feature, environ)
        return _launch(plan, facts, request.program, output, replace, kept)
    finally:
        for image in facts.images:
            image.close()


def look_inside(request, facts, remember=True):
    """Add to the Facts what the overlays themselves say, once they are locked or only asked.

    remember  whether what was found is noted on the images
    """
    writable, _why = decide_writable(request, facts)
    facts.markers = not writable and any(
        markers.present(image, facts.environ, remember=remember) for image in facts.images
    )
    check_fakeroot(request, facts)
    settle_launchers(request, facts, writable)


def _launch(plan, facts, program, output, replace, kept):
    """Do all of a Plan whose overlays are locked, and return the status of its end."""
    first, environ = facts.images[0], facts.environ
    supervised = plan.writable and first.can_be_unclean and kept
    descriptors = [image.descriptor for image in facts.images]
    try:
        for step in plan.before:
            step.action()
        if replace and not supervised and not plan.after:
            process.become(plan.final, environ, descriptors)
        from overlay.host import foreground  # what the engine in our place does without

        if supervised:
            # Here, because the session may take the place of what it lies on.
            from overlay.safety import finish

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
        status = foreground.stay(plan.final, environ, keep=descriptors)
        if supervised:
            status = finish.finish(
                facts, status, token=token, environ=environ, output=output, program=program
            )
        return status
    finally:
        for step in plan.after:
            step.action()
