"""pack-overlay: freeze overlays into one compressed read-only file."""

import errno
import os

from overlay import config as configuration
from overlay import creation, extfs, guard, image, lock, packing, replace, search, session
from overlay.errors import CANNOT_CREATE, DAMAGED, IN_USE, USAGE, OverlayError, quote, reason


def main(options, environ, root, output):
    """Pack what the options ask for."""
    config = configuration.load(environ, root, output.notice)
    config.hold("pack.compression", "--compression", options.compression)
    if not options.overlays:
        raise OverlayError("no overlay is named", status=USAGE, hint="pack-overlay OVERLAY")
    path = _path(options)
    place = replace.place(path) if os.path.lexists(path) else None
    if place and not options.force:
        raise OverlayError(
            f"{quote(path)} exists already",
            status=CANNOT_CREATE,
            hint="choose another name with -o; --force replaces it",
        )
    found = [image.look(name) for name in options.overlays]
    existing = None
    try:
        _check(found, path)
        if place:
            existing = creation.replaceable(place)
            if existing.identity in [one.identity for one in found]:
                raise OverlayError(
                    f"{quote(path)} is what is to be packed",
                    status=USAGE,
                    hint="choose another name with -o",
                )
        guard.acquire(
            found, False, config=config, environ=environ, notice=output.notice, session=False
        )
        request = packing.Packing(
            found,
            path,
            compression=options.compression or config["pack.compression"],
            everybody=options.open,
            verify=options.verify,
            existing=existing,
        )
        if options.open:
            for one in found:
                for name in _closed(one):
                    output.notice(f"will be readable for everybody: {quote(os.fsdecode(name))}")
        length = packing.pack(request, session.scratch_directory(config), environ, output)
        if not options.quiet:
            output.result(packing.summary(path, length, found))
        if options.remove:
            _remove(found, output)
    finally:
        for one in (*found, *filter(None, [existing])):
            one.close()
    return 0


def _closed(image):
    try:
        return packing.closed(image)
    except extfs.FormatError as error:
        raise OverlayError(
            f"{quote(image.path)} is damaged: {error}",
            status=DAMAGED,
            hint=f"check-overlay {quote(image.path)}",
        ) from None


def _path(options):
    """Return the name of the new file."""
    if options.output is None:
        return os.path.splitext(options.overlays[0])[0] + ".sqsh"
    if options.output.endswith(search.SQUASHFS_NAMES[:-1]):
        return options.output
    return options.output + ".sqsh"


def _check(found, path):
    session.check_twice(found)
    session.parse_overlay(path)
    for one in found:
        if one.kind != "ext3":
            raise OverlayError(
                f"{quote(one.path)} is a {one.kind}, and ext3 overlays are packed",
                status=DAMAGED,
                hint=f"make an overlay of it: create-overlay --from {quote(one.path)}",
            )
        if one.upper is None:
            raise OverlayError(
                f"{quote(one.path)} holds no upper directory: it was not made as an overlay",
                status=DAMAGED,
            )


def _remove(found, output):
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
            status = os.stat(path)
            if (status.st_dev, status.st_ino) != one.identity:
                raise FileNotFoundError(errno.ENOENT, "it is another file by now")
            os.unlink(path)
        except OSError as error:
            raise OverlayError(
                f"{quote(path)} is packed, but was not removed: {reason(error)}",
                status=CANNOT_CREATE,
                hint=f"if it is not needed: rm {quote(path)}",
            ) from None
        output.notice(f"removed {quote(path)}")
