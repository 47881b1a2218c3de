"""A session from its locks to its end."""

from __future__ import annotations

import os

from overlay.errors import quote
from overlay.host import process
from overlay.host.limits import NoSoftLimits
from overlay.image import markers, record
from overlay.launch.facts import gather
from overlay.launch.learned import learn
from overlay.launch.plan import NOT_APART, make_plan
from overlay.launch.request import NOT_FOUND, read_input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

    from overlay.launch.facts import Facts
    from overlay.launch.learned import Learned
    from overlay.launch.plan import SessionPlan
    from overlay.launch.request import Session
    from overlay.output import Listener, Output
    from overlay.plan import Plan, Step
    from overlay.settings.config import Config


def rehearse(
    request: Session,
    config: Config,
    moved: Callable[[Facts], Facts] | None = None,
    *,
    kept: bool = True,
) -> SessionPlan:
    """Return the plan of a session; nothing is locked, noted or started.

    kept   as run() has it
    moved  what makes of the Facts those of the session's start; None: they are the same
    """
    found = gather(request, config)
    try:
        facts = moved(found) if moved else found
        learned = learn(request, facts, remember=False)
        return make_plan(request, config, facts, learned, kept=kept)
    finally:
        found.close()


def show(plan: Plan, output: Output) -> None:
    """Print what a Plan would do, with what it says before."""
    for level, text in plan.notices:
        output.notice(text, level)
    output.result(plan.shell(), exact=True)


def run(
    request: Session,
    config: Config,
    *,
    wait: float | None,
    output: Listener,
    replace: bool = True,
    kept: bool = True,
    log: BinaryIO | None = None,
) -> int:
    """Lock, plan and launch a session; return its exit status, negative for a signal.

    wait     seconds to wait for overlays in use; None not at all
    output   where notices go
    replace  whether the engine may take the place of this process, when there is nothing to
             do after it; then this does not return
    kept     whether what is written is to be kept, and so looked after
    log      what gets all that is printed inside, beside our standard error; then a session
             that writes is not replaced
    """
    from overlay.safety import guard  # what a dry run does without

    facts = gather(request, config)
    images = facts.images
    try:
        commands = read_input(facts.commands, output.notice)
        with NoSoftLimits():
            guard.acquire(
                images,
                facts.writable,
                config=config,
                wait=wait,
                notice=output.notice,
            )
        if images != facts.images:  # another file has taken the place of one meanwhile
            facts = gather(request, config, images)
        learned = learn(request, facts, commands=commands)
        token = f"{os.getpid()}.{os.times().elapsed}"
        plan = make_plan(request, config, facts, learned, kept=kept, token=token)
        for level, text in plan.notices:
            output.notice(text, level)
        for feature in plan.features:
            facts.engine.check(feature, facts.environ)
        if plan.supervised:
            return plan.do(
                lambda _final: _supervise(plan.final, request, facts, learned, token, output, log)
            )
        alone = replace and not plan.after
        return plan.do(lambda _final: _start(plan.final, facts, learned, output, replace=alone))
    finally:
        for image in images:
            image.close()


def _start(
    final: Step,
    facts: Facts,
    learned: Learned,
    output: Listener,
    *,
    replace: bool,
    log: BinaryIO | None = None,
    prepare: Callable[[], object] | None = None,
) -> int:
    """Start the final Step of a session, all before it done; return its status.

    replace  whether it takes the place of this process; then this does not return
    prepare  called when it lasts, as foreground.stay() has it
    """
    descriptors = [image.descriptor for image in facts.images]
    if learned.stack:
        learned.stack.hand_over()
    if learned.shared:
        from overlay.launch import shield  # of sessions in a group only

        handed = shield.hand_over()
    if replace:
        process.become(final, facts.environ, descriptors)
    from overlay.host import foreground  # what the engine in our place does without

    status = foreground.stay(final, facts.environ, log, descriptors, prepare)
    if learned.shared and handed:
        shield.take_back()
    refused = learned.stack and learned.stack.take_back()
    if refused:
        output.notice(NOT_APART.format(refused), "warning")
    return status


def _supervise(
    final: Step,
    session: Session,
    facts: Facts,
    learned: Learned,
    token: str,
    output: Listener,
    log: BinaryIO | None = None,
) -> int:
    """Start the final Step of a session that writes an image, and look after it.

    token  what its processes are known by afterwards
    """
    # Here, because the session may take the place of what it lies on.
    from overlay.safety import finish

    first, *below = facts.images[0].as_ext3(), *facts.images[1:]
    record.begin(
        first.descriptor,
        facts.environ,
        host=os.uname().nodename,
        stack=markers.stack_name(facts.base, [one.path for one in below]),
        others=markers.last_second_of_others(first),
        image=facts.base,
    )
    status = _start(
        final, facts, learned, output, replace=False, log=log, prepare=_hold if log else _prepare
    )
    if status == NOT_FOUND and session.commands is not None:
        _tell_of_environments(facts, output)
    with NoSoftLimits():
        return finish.finish(
            first,
            status,
            base=facts.base,
            below=below,
            full_is_told=learned.launchers is not None,
            token=token,
            failed=facts.engine.failed,
            environ=facts.environ,
            output=output,
            program=session.program,
        )


def _prepare() -> None:
    """Import what may come after a session that lasts."""
    from overlay.environment import find, note  # noqa: F401
    from overlay.safety import finish

    finish.prepare()


def _hold() -> None:
    """Import what may come after an update that lasts."""
    from overlay.host import upgrade

    _prepare()
    upgrade.hold()


def _tell_of_environments(facts: Facts, output: Listener) -> None:
    """Name the environments in the overlays that are not ready, when a command was not found."""
    from overlay.environment import find, note

    for image in facts.images:
        if not image.is_file or image.is_compressed:
            continue
        ready = {path for one in note.read(image) for path in one.directories}
        for path in find.environments_in(image.as_ext3()):
            if path != find.SCRIPT and path not in ready:
                line = f"export PATH={quote(path + '/bin')}:$PATH"
                output.notice(
                    f"not on PATH: {quote(path)} in {quote(image.path)}; for that: {line}"
                )
