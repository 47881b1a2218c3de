"""resize-overlay: more room, more files, or less."""

from __future__ import annotations

import os

from overlay import __version__, size
from overlay.change import carry, resize
from overlay.change.steps import SMALLER
from overlay.commands.arguments import (
    Command,
    add_json,
    add_overlays,
    add_sizes,
    add_verbosity,
    parse_overlay,
)
from overlay.create.policy import check_policy, check_room, room_for
from overlay.create.request import check_largest
from overlay.environment import history
from overlay.errors import NOT_ALLOWED, USAGE, OverlayError, quote
from overlay.host import process
from overlay.host.limits import set_soft_aside
from overlay.host.scratch import scratch_directory
from overlay.image import ext3
from overlay.safety import guard, repair
from overlay.settings import config as configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Mapping, Sequence

    from overlay.commands.arguments import Parser
    from overlay.image.ext3_image import Ext3Image
    from overlay.output import Output
    from overlay.settings.config import Config


class Wanted:
    """An amount that is asked for: so much, or so much more than there is now."""

    __slots__ = ("_amount", "_is_more")

    def __init__(self, amount: int, is_more: bool) -> None:
        self._amount = amount
        self._is_more = is_more

    def from_now(self, now: int) -> int:
        """Return the amount that there is to be, from what there is."""
        return now + self._amount if self._is_more else self._amount


def wanted_by(parse: Callable[[str], int]) -> Callable[[str], Wanted]:
    """Return what makes a Wanted of a text, from what parses an amount; + is so much more."""
    return lambda text: Wanted(parse(text.removeprefix("+") or text), text.startswith("+"))


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Resize one overlay, and say what it is now."""
    if options.size is None and options.files is None:
        raise OverlayError(
            "neither a new size nor a new number of files is given",
            status=USAGE,
            hint=f"resize-overlay {quote(options.overlay)} -s +5G",
        )
    set_soft_aside()
    config = configuration.load(environ, root, output.notice)
    process.need("e2fsck", environ)
    whole = guard.open_whole(options.overlay)
    try:
        if not options.dry_run:
            guard.read_ahead(whole, output.notice, tables=True)
            # One that was cut short is undone before anything is reckoned from it.
            _repair(whole, config, output)
        elif not whole.superblock.is_clean:
            output.notice(guard.repaired_first(options.overlay), "warning")
        now, files_now = resize.now(whole)
        wanted = options.size.from_now(now) if options.size else now
        files = options.files.from_now(files_now) if options.files else None
        _check(whole, wanted, files, config, output)
        new_files = files_now if files is None else files
        work = resize.resizing(whole, wanted, new_files, config, output.notice, output.progress)
        if work is None:
            output.notice(f"{quote(options.overlay)} has that size already")
        if options.dry_run:
            if work:
                output.result(work.plan().shell(), exact=True)
            return 0
        new = work.do() if work else whole.superblock
    finally:
        whole.close()
    if work:
        _note(options, config, output)
    _say(options, wanted, new, output)
    return 0


def _note(options: Namespace, config: Config, output: Output) -> None:
    """Add an entry to the history of what was resized; that it has none is not an error."""
    entry = history.entry("resize", __version__, command=options.words)
    whole = None
    try:
        whole = guard.open_whole(options.overlay)
        noted = carry.add_entry(whole, entry, scratch_directory(config), config.environ)
        why = None if noted else "it is full"
    except OverlayError as error:
        why = error.what
    finally:
        if whole is not None:
            whole.close()
    if why is not None:
        output.notice(f"its history says nothing of this: {why}")


def _repair(whole: Ext3Image, config: Config, output: Output) -> None:
    """Do what a session would do first with an image that is not clean."""
    if not whole.superblock.is_clean:
        guard.check_may_repair(whole, config)
    said = repair.make_sound(whole.path, whole.descriptor, config.environ)
    repair.tell(whole.path, said, output.notice)
    whole.superblock = ext3.read_superblock(whole.descriptor)
    whole.status = os.fstat(whole.descriptor)


def _check(
    whole: Ext3Image, wanted: int, files: int | None, config: Config, output: Output
) -> None:
    """Hold the new size against the site's policy and what ext3 can be.

    files  the new number of files; None where none is asked for: it follows the size, and is
           not held against the policy
    """
    if not whole.upper_is_mine:
        why, hint = whole.whose_inside()
        what = f"{quote(whole.path)} cannot be resized: {why}"
        raise OverlayError(what, status=NOT_ALLOWED, hint=hint)
    check_largest(wanted)
    check_policy(config, size=wanted, files=files)
    more = wanted - whole.status.st_size
    if files is None and more > 0:
        # Only what comes to it must still be allowed.
        sparse = whole.status.st_blocks * 512 < whole.status.st_size
        try:
            room = room_for(os.path.realpath(whole.path), config)
            check_room(room, output.notice, size=more, sparse=sparse)
        except OverlayError as error:
            error.hint = SMALLER
            raise


def _say(options: Namespace, wanted: int, new: ext3.Superblock, output: Output) -> None:
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


def _parse(parser: Parser, words: Sequence[str]) -> Namespace:
    """Take one overlay, named with -o or without; words that are a size are told apart."""
    options = parse_overlay(parser, words, "-s +5G")
    if options.overlays:
        parser.error(f"unrecognized arguments: {' '.join(options.overlays)}")
    return options


def _add_options(parser: Parser) -> None:
    parser.usage = "resize-overlay OVERLAY [-s [+]SIZE] [-n [+]FILES] [option ...]"
    group = parser.add_argument_group("the overlay")
    add_overlays(group, "an ext3 overlay that nobody uses")
    add_sizes(
        group,
        parser.prog,
        "its new size: MiB, or as in 20G; +5G: 5 GiB more. Larger is quick, and brings more"
        " files; smaller is made on a copy",
        "how many files: thousands, or as in 2M; +500K: so many more. All is written anew",
        wanted_by,
    )
    group = parser.add_argument_group("output")
    add_json(group)
    add_verbosity(group)


PROGRAMS = {
    "resize-overlay": Command(
        "Give an overlay more room or more files, or less.",
        "resize-overlay env.ext3 -s +5G\nresize-overlay env.ext3 -n 2M",
        _add_options,
        _parse,
        in_page=("--overlay",),
    ),
}
