"""check-overlay: is an overlay sound, and what to do when it is not."""

from __future__ import annotations

from overlay.change import steps
from overlay.change.own import own
from overlay.change.packed import checking as checking_packed
from overlay.change.repair import Repair
from overlay.commands.arguments import (
    Command,
    add_overlays,
    add_verbosity,
    parse_overlays,
    unnamed,
)
from overlay.errors import DAMAGED, OverlayError, quote
from overlay.host import ending, holders, process
from overlay.host.limits import set_soft_aside
from overlay.host.scratch import scratch_directory
from overlay.image import image as images
from overlay.image import lock, record
from overlay.launch.obstacles import only_data
from overlay.plan import Plan, Step
from overlay.safety import guard, repair
from overlay.safety.use import end_servers, in_use
from overlay.settings import config as configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping

    from overlay.commands.arguments import Parser
    from overlay.image.ext3_image import Ext3Image
    from overlay.image.kind import Image
    from overlay.output import Output
    from overlay.settings.config import Config


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Check every overlay that is named; return the first status that is not 0."""
    if not options.overlays:
        raise unnamed("check-overlay", options.words[1:])
    set_soft_aside()
    config = configuration.load(environ, root, output.notice)
    status = 0
    for path in options.overlays:
        try:
            _check(path, options, config, output)
        except OverlayError as error:
            output.error(error)
            status = status or error.status
    return status


def _check(path: str, options: Namespace, config: Config, output: Output) -> None:
    """Check one overlay and print what there is to say of it. Raises OverlayError."""
    found = images.look(path, write=True)
    try:
        if options.own:
            found.as_ext3("only what is in an ext3 overlay can be made yours")
        if options.own and not found.writable:
            raise guard.may_not_write(path)
        if found.is_data:
            raise only_data(path, found, config.environ)
        recovering = (
            [_recovering(found, output)] if options.recover and found.can_be_unclean else []
        )
        if options.dry_run:
            plan = Plan(before=[*recovering, _plan(found, options, config, output)])
            output.result(plan.shell(), exact=True)
            return
        for step in recovering:
            step.do()
        locked = found if found.is_compressed or not found.can_be_unclean else _locked(found)
        try:
            guard.read_ahead(locked, output.notice, tables=True)
            with ending.cleaning_up():
                said: str = _plan(locked, options, config, output).do()
        finally:
            locked.close()
        output.result(f"{quote(path)}: {said}")
    finally:
        found.close()


def _locked(found: Image) -> Image:
    """Return an ext3 image that was looked at, locked: whole where the caller may repair it."""
    path = found.path
    found.close()
    if not found.writable:
        return _locked_for_reading(path)
    whole = guard.open_whole(path)
    try:
        lock.take_repair(whole.descriptor)
    except BaseException:
        whole.close()
        raise
    return whole


def _plan(found: Image, options: Namespace, config: Config, output: Output) -> Plan:
    """Return all that is done with an overlay; its final Step returns what to say of it.

    found  the overlay; locked, where it is done
    """
    environ, scratch = config.environ, scratch_directory(config)
    if found.is_compressed:
        return checking_packed(found, scratch, environ, deep=options.deep)
    if not found.can_be_unclean:
        what = f"a {found.kind}: there is nothing in it that a session could have left unclean"
        return Plan(Step(action=lambda: what, why=what))
    whole = found.as_ext3()
    e2fsck = process.need("e2fsck", environ)
    look = [e2fsck, "-fn", whole.path]
    if not whole.writable:
        return Plan(Step(look, action=lambda: _look_only(whole, e2fsck, environ)))
    if not (whole.superblock.is_clean or options.repair):
        guard.check_may_repair(whole, config)
    before = []
    if options.own:
        before = [
            steps.checking(whole, environ, output.notice),
            Step(action=lambda: own(whole, output.notice), why="all inside becomes yours"),
        ]
    if options.repair:
        return Repair(whole, scratch, environ).plan(before)
    why = "what can be repaired without a loss is repaired"
    return Plan(Step(look, action=lambda: _make_sound(whole, environ), why=why), before=before)


def _make_sound(whole: Ext3Image, environ: Mapping[str, str]) -> str:
    """Repair what needs no decision, and return what to say of it."""
    said = repair.make_sound(whole.path, whole.descriptor, environ, full=True)
    record.end(whole.descriptor)
    return "clean" if said == repair.NOTHING else said


def _locked_for_reading(path: str) -> Image:
    """Return an overlay that the caller may only read, while nobody writes it."""
    found = images.look(path)
    try:
        lock.take(found.descriptor, write=False)
        if lock.holder(found.descriptor, write=False):
            raise lock.Busy(True)
    except lock.Busy as busy:
        error = in_use(found, busy)
        found.close()
        raise error from None
    return found


def _look_only(whole: Ext3Image, e2fsck: str, environ: Mapping[str, str]) -> str:
    """Check an overlay that the caller may only read."""
    if repair.is_sound(e2fsck, whole.descriptor, environ):
        return "clean"
    raise OverlayError(
        f"{quote(whole.path)} is damaged, and it is not yours to repair",
        status=DAMAGED,
        hint=guard.ask_owner(whole.path),
    )


def _recovering(found: Image, output: Output) -> Step:
    """Return the Step that ends what a killed session has left behind."""
    return Step(
        action=lambda: end_left_behind(found, output),
        why="what a killed session has left behind is ended, and may write before what it holds",
    )


def end_left_behind(found: Image, output: Output) -> None:
    """End the servers that a killed session left behind, so that nothing they hold is lost.

    The server of the image goes first: on TERM it writes everything and marks the image
    clean. Raises OverlayError (IN_USE) when somebody is still inside, or they do not end.
    """
    guard.wait_for_end(found)
    processes, left_behind = holders.users(found.identity)
    if not processes:
        return
    if not left_behind:
        writer = lock.holder(found.descriptor, write=True) == "writer"
        raise in_use(found, lock.Busy(writer))
    servers = end_servers(found, processes)
    output.notice(
        f"{quote(found.path)}: ended what a killed session left behind"
        f" ({', '.join(f'{server.name} {server.pid}' for server in servers)})"
    )


def _add_options(parser: Parser) -> None:
    parser.usage = "check-overlay [option ...] OVERLAY ..."
    group = parser.add_argument_group("overlays")
    add_overlays(group)
    group.add_argument(
        "--repair",
        action="store_true",
        help="repair what needs decisions, on a copy that replaces it when it is sound",
    )
    group.add_argument(
        "--recover",
        action="store_true",
        help="first end the processes that a killed session has left behind",
    )
    group.add_argument(
        "--deep",
        action="store_true",
        help="read the content of all files in a packed overlay, too",
    )
    group.add_argument(
        "--own",
        action="store_true",
        help="make all inside yours, in a copy of somebody's overlay",
    )
    add_verbosity(parser.add_argument_group("output"))


PROGRAMS = {
    "check-overlay": Command(
        "Check overlays, and repair them.",
        "check-overlay env.ext3\ncheck-overlay --repair env.ext3",
        _add_options,
        parse_overlays,
        in_page=("--overlay",),
    ),
}
