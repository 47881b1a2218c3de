"""pack-overlay: freeze overlays into one compressed read-only file."""

from __future__ import annotations

import os

from overlay.change import pack
from overlay.commands.arguments import Command, Once, add_verbosity, unnamed
from overlay.create.request import check_ending, check_names_file
from overlay.environment import history
from overlay.errors import (
    CANNOT_CREATE,
    IN_USE,
    USAGE,
    OverlayError,
    quote,
    reason,
)
from overlay.host.limits import set_soft_aside
from overlay.host.scratch import scratch_directory
from overlay.image import ext3, lock
from overlay.image import image as images
from overlay.image.kind import damaged
from overlay.image.squashfs_image import SquashfsImage
from overlay.launch.request import check_twice, parse_overlay
from overlay.plan import Plan, Step
from overlay.safety import guard, replace
from overlay.safety.existing import if_not_needed, replaceable
from overlay.settings import config as configuration
from overlay.settings.table import COMPRESSIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from overlay.commands.arguments import Parser
    from overlay.image.ext3_image import Ext3Image
    from overlay.image.kind import Image
    from overlay.output import Output


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Pack what the options ask for."""
    set_soft_aside()
    config = configuration.load(environ, root, output.notice)
    config.hold("pack.compression", "--compression", options.compression)
    if not options.overlays:
        raise unnamed("pack-overlay", options.words[1:])
    path = _path(options)
    found = _look(options)
    existing = None
    try:
        _check(found, path)
        place = replace.place(path) if os.path.lexists(path) else None
        if place and not options.force:
            raise OverlayError(
                f"{quote(path)} exists already",
                status=CANNOT_CREATE,
                hint="choose another name with -o; --force replaces it",
            )
        if place:
            existing = replaceable(place)
            if existing.identity in [one.identity for one in found]:
                raise OverlayError(
                    f"{quote(path)} is what is to be packed",
                    status=USAGE,
                    hint=replace.OTHER_NAME,
                )
        if options.dry_run:
            _tell_of_repairs(found, output)
        else:
            guard.acquire(found, False, config=config, notice=output.notice, session=False)
        layers = [one.as_ext3() for one in found]
        packing = pack.Packing(
            layers,
            path,
            compression=options.compression or config["pack.compression"],
            everybody=options.open,
            verify=options.verify,
            existing=existing,
            progress=not options.quiet,
            scratch=scratch_directory(config),
            environ=environ,
            notice=output.notice,
        )
        if options.open:
            for layer in layers:
                for name in _closed(layer):
                    output.notice(f"will be readable for everybody: {quote(os.fsdecode(name))}")
            if any(map(history.read, layers)):
                how = "how it was made, show-overlay --json"
                output.notice(f"will be readable for everybody: {how}")
        removing = _removing(found, output) if options.remove else None
        if options.dry_run:
            output.result(Plan(removing, before=[packing.plan()]).shell(), exact=True)
            return 0
        length = packing.do()
        if not options.quiet:
            output.result(pack.summary(path, length, found))
        if removing:
            removing.do()
    finally:
        for one in (*found, *filter(None, [existing])):
            one.close()
    return 0


def _tell_of_repairs(found: Sequence[Image], output: Output) -> None:
    for one in found:
        if not one.as_ext3().superblock.is_clean:
            output.notice(guard.repaired_first(one.path), "warning")


def _closed(image: Ext3Image) -> list[bytes]:
    try:
        return pack.closed(image)
    except ext3.FormatError as error:
        raise damaged(image.path, error) from None


def _path(options: Namespace) -> str:
    """Return the name of the new file."""
    name: str | None = options.output
    if name is None:
        first: str = options.overlays[0]
        return os.path.splitext(first)[0] + ".sqsh"
    check_names_file(name)
    check_ending(name, SquashfsImage.suffixes, "a packed overlay is a squashfs file")
    return name if name.endswith(SquashfsImage.suffixes[:-1]) else name + ".sqsh"


def _look(options: Namespace) -> list[Image]:
    """Return the Images of what is to be packed. Raises OverlayError."""
    try:
        return [images.look(name) for name in options.overlays]
    except OverlayError as error:
        *others, last = options.overlays
        named = options.output is None and last.endswith(SquashfsImage.suffixes)
        others = [name for name in others if os.path.exists(name)]
        if others and named and not os.path.lexists(last):
            line = " ".join(map(quote, others))
            error.hint = f"the new file stands behind -o: pack-overlay {line} -o {quote(last)}"
        raise


def _check(found: Sequence[Image], path: str) -> None:
    check_twice(found)
    parse_overlay(path)
    for one in found:
        if one.is_compressed:
            raise OverlayError(
                f"{quote(one.path)} is packed already",
                status=USAGE,
                hint=f"to change what is in it: update-overlay {quote(one.path)} -- COMMAND",
            )
        one.as_ext3("only ext3 overlays can be packed")
        one.check_upper()


def _removing(found: Sequence[Image], output: Output) -> Step:
    """Return the Step that deletes the originals."""
    paths = [os.path.realpath(one.path) for one in found]
    return Step(
        ["rm", "-f", *paths],
        action=lambda: _remove(found, output),
        why="unless somebody has come to use them",
    )


def _remove(found: Sequence[Image], output: Output) -> None:
    """Delete the originals, unless somebody has come to use them."""
    for one in found:
        if lock.holder(one.descriptor, write=True):
            raise OverlayError(
                f"{quote(one.path)} is in use and was not removed",
                status=IN_USE,
                hint=f"later: rm {quote(one.path)}",
            )
        path = os.path.realpath(one.path)
        try:
            replace.remove(path, one.descriptor)
        except OSError as error:
            raise OverlayError(
                f"{quote(path)} is packed, but was not removed: {reason(error)}",
                status=CANNOT_CREATE,
                hint=if_not_needed(path),
            ) from None
        output.notice(f"removed {quote(path)}")


def _add_options(parser: Parser) -> None:
    parser.usage = "pack-overlay [option ...] OVERLAY ..."
    group = parser.add_argument_group("overlays")
    group.add_argument(
        "overlays",
        metavar="OVERLAY",
        nargs="*",
        help="an ext3 overlay; of several the first is on top",
    )
    group.add_argument(
        "-o",
        "--output",
        metavar="NAME",
        action=Once,
        help="the new file (default: OVERLAY with .sqsh)",
    )
    group.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        metavar="KIND",
        help=f"{', '.join(COMPRESSIONS[:-1])} or {COMPRESSIONS[-1]} (default: the site's, zstd)",
    )
    group.add_argument(
        "--open",
        action="store_true",
        help="make all readable for everybody; list what was not",
    )
    group.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not compare the new file with the original",
    )
    group.add_argument(
        "--remove", action="store_true", help="delete the original when all went well"
    )
    group.add_argument("--force", action="store_true", help="replace a file of that name")
    add_verbosity(parser.add_argument_group("output"))


PROGRAMS = {
    "pack-overlay": Command(
        "Freeze overlays into one compressed read-only file.",
        "pack-overlay env.ext3\npack-overlay work.ext3 env.ext3 -o all.sqsh",
        _add_options,
    ),
}
