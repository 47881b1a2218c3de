"""check-overlay: is an overlay sound, and what to do when it is not."""

from __future__ import annotations

from overlay.change.own import own
from overlay.change.packed import check_packed
from overlay.change.repair import repair_copy
from overlay.commands.arguments import Command, add_named, add_verbosity, parse_mixed, take_named
from overlay.errors import DAMAGED, OverlayError, nothing_named, quote
from overlay.host import holders, process
from overlay.host.scratch import scratch_directory
from overlay.image import ext3, lock, record
from overlay.image import image as images
from overlay.safety import guard, repair
from overlay.safety.use import end_servers, in_use
from overlay.settings import config as configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from overlay.commands.arguments import Parser
    from overlay.image.kind import Image
    from overlay.output import Output
    from overlay.settings.config import Config


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Check every overlay that is named; return the first status that is not 0."""
    if not options.overlays:
        raise nothing_named("check-overlay OVERLAY")
    config = configuration.load(environ, root, output.notice)
    status = 0
    for path in options.overlays:
        try:
            output.result(f"{quote(path)}: {_check(path, options, config, environ, output)}")
        except OverlayError as error:
            output.error(error)
            status = status or error.status
    return status


def _check(
    path: str, options: Namespace, config: Config, environ: Mapping[str, str], output: Output
) -> str:
    """Check one overlay and return what to say of it. Raises OverlayError."""
    found = images.look(path, write=True)
    try:
        if options.own:
            found.as_ext3("only what is in an ext3 overlay can be made yours")
        if options.own and not found.writable:
            raise guard.may_not_write(path)
        if found.is_compressed:
            return check_packed(found, scratch_directory(config), environ, deep=options.deep)
        if not found.can_be_unclean:
            return f"a {found.kind}: there is nothing in it that a session could have left unclean"
        if options.recover:
            end_left_behind(found, output)
    finally:
        found.close()
    if not found.writable:
        return _look_only(path, environ)
    whole = guard.open_whole(path)
    try:
        lock.take_repair(whole.descriptor)
        if not (whole.superblock.is_clean or options.repair):
            guard.check_may_repair(whole, config)
        if options.own:
            repair.make_sound(path, whole.descriptor, environ, full=True)
            whole.superblock = ext3.read_superblock(whole.descriptor)
            own(whole, output.notice)
        if options.repair:
            scratch = scratch_directory(config)
            return repair_copy(whole, scratch, environ)
        said = repair.make_sound(path, whole.descriptor, environ, full=True)
        record.end(whole.descriptor)
        return "clean" if said == repair.NOTHING else said
    finally:
        whole.close()


def _look_only(path: str, environ: Mapping[str, str]) -> str:
    """Check an overlay that the caller may only read, while nobody writes it."""
    found = images.look(path)
    try:
        try:
            lock.take(found.descriptor, write=False)
            if lock.holder(found.descriptor, write=False):
                raise lock.Busy(True)
        except lock.Busy as busy:
            raise in_use(found, busy) from None
        program = process.need("e2fsck", environ)
        if repair.is_sound(program, found.descriptor, environ):
            return "clean"
        raise OverlayError(
            f"{quote(path)} is damaged, and it is not yours to repair",
            status=DAMAGED,
            hint=guard.ask_owner(path),
        )
    finally:
        found.close()


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


def _parse(parser: Parser, words: Sequence[str]) -> Namespace:
    return take_named(parse_mixed(parser, words))


def _add_options(parser: Parser) -> None:
    parser.usage = "check-overlay [option ...] OVERLAY ..."
    group = parser.add_argument_group("overlays")
    group.add_argument("overlays", metavar="OVERLAY", nargs="*", help="an overlay")
    add_named(group)
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
    add_verbosity(parser.add_argument_group("output"), dry_run=False)


PROGRAMS = {
    "check-overlay": Command(
        "Check overlays, and repair them.",
        "check-overlay env.ext3\ncheck-overlay --repair env.ext3",
        _add_options,
        _parse,
        in_page=("--overlay",),
    ),
}
