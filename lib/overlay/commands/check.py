"""check-overlay: is an overlay sound, and what to do when it is not."""

import os

from overlay.change.own import own
from overlay.change.packed import check_packed
from overlay.change.repair import repaired
from overlay.commands.arguments import Command, add_named, add_verbosity, parse_mixed, take_named
from overlay.errors import CANNOT_CREATE, DAMAGED, NOT_ALLOWED, USAGE, OverlayError, quote, reason
from overlay.host import holders, process
from overlay.host.scratch import scratch_directory
from overlay.image import ext3, lock, record
from overlay.image import image as images
from overlay.safety import guard, repair, replace, salvage
from overlay.safety.use import end_servers, in_use
from overlay.settings import config as configuration


def main(options, environ, root, output):
    """Check every overlay that is named; return the first status that is not 0."""
    if not options.overlays:
        raise OverlayError("no overlay is named", status=USAGE, hint="check-overlay OVERLAY")
    config = configuration.load(environ, root, output.notice)
    worst = 0
    for path in options.overlays:
        try:
            output.result(f"{quote(path)}: {_check(path, options, config, environ, output)}")
        except OverlayError as error:
            output.error(error)
            worst = worst or error.status
    return worst


def _check(path, options, config, environ, output):
    """Check one overlay and return what to say of it. Raises OverlayError."""
    found = images.look(path, write=True)
    try:
        if options.own and not found.writable:
            raise OverlayError(f"you may not write {quote(path)}", status=NOT_ALLOWED)
        if found.is_compressed:
            return check_packed(found, scratch_directory(config), environ, deep=options.deep)
        if not found.can_be_unclean:
            return f"a {found.kind}: there is nothing in it that a session could have left unclean"
        if options.recover:
            recover(found, output)
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
            repair.check(path, whole.descriptor, environ, full=True)
            whole.superblock = ext3.read_superblock(whole.descriptor)
            own(whole, output.notice)
        if options.repair:
            scratch = scratch_directory(config)
            return repair_copy(whole, scratch, environ)
        said = repair.check(path, whole.descriptor, environ, full=True)
        record.end(whole.descriptor)
        return "clean" if said == "no damage found" else said
    finally:
        whole.close()


def _look_only(path, environ):
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
            hint=f"ask its owner to type: check-overlay {quote(path)}",
        )
    finally:
        found.close()


def recover(found, output):
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


def repair_copy(whole, scratch, environ):
    """Repair a copy of an image with e2fsck -y, and put it in the place of the original.

    whole  the Image, locked against everybody
    The original stays as it is unless the copy is sound. Returns what was done, in words.
    Raises OverlayError (DAMAGED, CANNOT_CREATE).
    """
    path = os.path.realpath(whole.path)
    e2fsck = process.need("e2fsck", environ)
    replace.check_names(path, os.fstat(whole.descriptor))
    repair.recover(path, whole.descriptor, environ)
    replace.remove_stale(os.path.dirname(path), scratch)
    if ext3.read_superblock(whole.descriptor).is_clean and repair.is_sound(
        e2fsck, whole.descriptor, environ
    ):
        repair.check_layout(path, whole.descriptor)
        return "clean"
    before = salvage.lost_and_found(whole.descriptor)
    names = salvage.names(whole.descriptor)
    with process.cleaning_up():
        try:
            with replace.unfinished(path) as new:
                descriptor = new.descriptor
                replace.copy(path, whole.descriptor, descriptor, environ)
                status = os.fstat(whole.descriptor)
                if status.st_blocks * 512 >= status.st_size:
                    replace.reserve(path, descriptor, status.st_size, environ, None, "repair")
                salvage.spare(e2fsck, descriptor, environ)
                ext3.set_dir_nlink(descriptor, whole.superblock, True)
                first = process.run([e2fsck, "-f", "-y", descriptor], environ)
                ext3.set_dir_nlink(descriptor, whole.superblock, False)
                salvage.save_work(descriptor, environ)
                _see_that_it_is_taken(path, first.status, e2fsck, descriptor, environ)
                found = salvage.lost_and_found(descriptor) - before
                found = salvage.describe(descriptor, found)
                gone = salvage.gone(names, salvage.names(descriptor))
                lost = any(one.had_content for one in gone)
                kept = salvage.keep(path, environ) if lost else None
                new.over(whole.descriptor)
        except OSError as error:
            raise OverlayError(
                f"cannot repair {quote(path)}: {reason(error)}; it is left as it is",
                status=CANNOT_CREATE,
            ) from None
    return repaired(path, found, gone, kept)


def _see_that_it_is_taken(path, status, e2fsck, descriptor, environ):
    """Raise OverlayError (DAMAGED) unless a session would take a repaired image.

    status  of the repair, as e2fsck gave it
    """
    why = f"e2fsck {status}"
    if repair.is_sound(e2fsck, descriptor, environ):
        repair.check_layout(path, descriptor)
        superblock = ext3.read_superblock(descriptor)
        if not superblock.is_ext3:
            why = "it would be no ext3 image any more"
        elif ext3.Reader(descriptor, superblock).lookup(b"upper") is None:
            why = "its directory upper, which has all that is in it, would have no name any more"
        else:
            return
    raise OverlayError(
        f"{quote(path)} cannot be repaired ({why}); it is left as it is",
        status=DAMAGED,
        hint="restore it from a copy, or save what can be read:"
        f" /sbin/debugfs -R 'rdump /upper DIRECTORY' {quote(path)}",
    )


def _parse(parser, words):
    return take_named(parse_mixed(parser, words))


def _add_options(parser):
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
    add_verbosity(parser.add_argument_group("output"), verbose=False, dry_run=False)


PROGRAMS = {
    "check-overlay": Command(
        "Check overlays, and repair them.",
        "check-overlay env.ext3\ncheck-overlay --repair env.ext3",
        _add_options,
        _parse,
        in_page=("--overlay",),
    ),
}
