"""resize-overlay: more room, more files, or less."""

import os

from overlay import size
from overlay.change import resize
from overlay.commands.arguments import (
    Command,
    add_json,
    add_named,
    add_sizes,
    add_verbosity,
    parse_mixed,
    take_named,
)
from overlay.create.policy import check_policy, check_room
from overlay.create.request import Creation
from overlay.errors import NOT_ALLOWED, USAGE, OverlayError, quote
from overlay.host import process
from overlay.image import ext3, ext3_size
from overlay.safety import guard, repair
from overlay.settings import config as configuration


def main(options, environ, root, output):
    """Resize one overlay, and say what it is now."""
    if options.size is None and options.files is None:
        raise OverlayError(
            "neither a new size nor a new number of files is given",
            status=USAGE,
            hint=f"resize-overlay {quote(options.overlay)} -s +5G",
        )
    config = configuration.load(environ, root, output.notice)
    process.need("e2fsck", environ)
    whole = guard.open_whole(options.overlay)
    try:
        if not whole.superblock.is_clean:
            guard.check_may_repair(whole, config)
        # One that was cut short is undone before anything is reckoned from it.
        repair.check(whole.path, whole.descriptor, environ)
        whole.superblock = ext3.read_superblock(whole.descriptor)
        whole.status = os.fstat(whole.descriptor)
        superblock = whole.superblock
        now = whole.status.st_size
        if now - superblock.size > superblock.blocks_per_group * superblock.block_size:
            now = superblock.size  # a resize that was cut short has left the file longer
        files_now = superblock.inodes_count - ext3.RESERVED_INODES
        wanted = _amount("-s", options.size, size.parse_size, now)
        files = _amount("-n", options.files, size.parse_count, files_now)
        _check(whole, wanted, files if options.files else None, config, environ, output)
        if options.files is not None and files != files_now:
            new = resize.rebuild(whole, wanted, files, config, environ, output.notice)
        elif wanted > now:
            resize.grow(whole, wanted, environ, output.notice)
            new = whole.superblock
        elif wanted < now:
            new = resize.shrink(whole, wanted, config, environ, output.notice)
        else:
            new = superblock
            output.notice(f"{quote(options.overlay)} has that size already")
    finally:
        whole.close()
    _say(options, wanted, new, output)
    return 0


def _amount(option, text, parse, now):
    """Return an amount from the command line; with a + before it, that much more than now."""
    if text is None:
        return now
    try:
        return now + parse(text[1:]) if text.startswith("+") else parse(text)
    except ValueError as error:
        raise OverlayError(
            f"{option}: {error}", status=USAGE, hint="resize-overlay --help"
        ) from None


def _check(whole, wanted, files, config, environ, output):
    """Hold the new size against the site's policy and what ext3 can be."""
    if not whole.upper_is_mine:
        raise OverlayError(
            f"what is inside {quote(whole.path)} belongs to another user (uid {whole.upper})",
            status=NOT_ALLOWED,
            hint=f"when it is a copy of yours: check-overlay --own {quote(whole.path)}",
        )
    if wanted > ext3_size.LARGEST:
        raise OverlayError(
            f"{size.format_size(wanted)} is more than an ext3 image can be"
            f" ({size.format_size(ext3_size.LARGEST)})",
            status=USAGE,
        )
    # A number of files that is not asked for is not held against the policy: it follows the
    # size, and a new overlay has some more than it promises.
    held = files if files is not None else config["create.max_files"] or 1
    if files is None and config["create.min_files"]:
        held = max(held, config["create.min_files"])
    request = Creation(wanted, held)
    check_policy(request, config)
    allocated = whole.status.st_blocks * 512
    if files is None and wanted > whole.status.st_size:
        # Only what comes to it must still be allowed.
        request.size -= whole.status.st_size
        request.sparse = allocated < whole.status.st_size
        try:
            check_room(request, os.path.realpath(whole.path), config, environ, output.notice)
        except OverlayError as error:
            error.hint = "choose a smaller size, or make room"
            raise


def _say(options, wanted, new, output):
    files = new.free_inodes_count
    if options.json:
        import json

        output.result(
            json.dumps(
                {
                    "path": options.overlay,
                    "size": wanted,
                    "data_available": new.available_bytes,
                    "files_available": files,
                }
            )
        )
    elif not options.quiet:
        output.result(
            f"{quote(options.overlay)}: {size.format_size(wanted)}, room for"
            f" {size.format_size(new.available_bytes)} of data and {size.format_files(files)}"
        )


def _parse(parser, words):
    """Take one overlay, named with -o or without; words that are a size are told apart."""
    options = take_named(parse_mixed(parser, words))
    if not options.overlays:
        parser.error("the following arguments are required: OVERLAY")
    options.overlay = options.overlays.pop(0)
    if options.overlays:
        parser.error(f"unrecognized arguments: {' '.join(options.overlays)}")
    return options


def _add_options(parser):
    parser.usage = "resize-overlay OVERLAY [-s [+]SIZE] [-n [+]FILES] [option ...]"
    group = parser.add_argument_group("the overlay")
    add_named(group)
    group.add_argument(
        "overlays", metavar="OVERLAY", nargs="*", help="an ext3 overlay that nobody uses"
    )
    add_sizes(
        group,
        "its new size: MiB, or as in 20G; +5G: 5 GiB more. Larger is quick, and brings more"
        " files; smaller is made on a copy",
        "how many files: thousands, or as in 2M; +500K: so many more. All is written anew",
    )
    group = parser.add_argument_group("output")
    add_json(group)
    add_verbosity(group, verbose=False, dry_run=False)


PROGRAMS = {
    "resize-overlay": Command(
        "Give an overlay more room or more files, or less.",
        "resize-overlay env.ext3 -s +5G\nresize-overlay env.ext3 -n 2M",
        _add_options,
        _parse,
        in_page=("--overlay",),
    ),
}
