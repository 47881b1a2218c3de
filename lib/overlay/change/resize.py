"""Overlays of another size, or for another number of files.

More room is made in place, with a way back (overlay.safety.undo). Less room is made on a copy, and
another number of files in a new image that everything is written into; either takes the
overlay's place only when it is finished and seen to be sound.
"""

from __future__ import annotations

import os

from overlay import size
from overlay.create import make
from overlay.create.measure import Amount
from overlay.create.request import Content, Creation
from overlay.create.workplace import Workplace
from overlay.errors import CANNOT_CREATE, DAMAGED, USAGE, OverlayError, quote, reason
from overlay.host import ending, namespace, private, process
from overlay.host.room import free_bytes
from overlay.host.scratch import scratch_directory
from overlay.image import ext3, ext3_size, ext3_write
from overlay.image.ext3_read import Reader
from overlay.safety import repair, replace, undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from overlay.image.ext3_image import Ext3Image
    from overlay.settings.config import Config

    Notice = Callable[[str], object]

# What resize2fs says of a size that is too small, forced as it is.
_TOO_SMALL = ("smaller than minimum", "No space left", "Not enough space")


def used(descriptor: int, superblock: ext3.Superblock) -> tuple[int, int]:
    """Return (files, bytes of data) that an open image holds, its own tables left out."""
    files = superblock.used_inodes_count - ext3.RESERVED_INODES
    journal = Reader(descriptor, superblock).inode(ext3.JOURNAL_INODE).room
    return files, max(superblock.used_bytes - journal, files * 64)


def grow(whole: Ext3Image, wanted: int, environ: Mapping[str, str], notice: Notice) -> None:
    """Make an image larger in its place; its number of files grows in proportion.

    whole   the Image, locked against everybody
    wanted  bytes, more than it has
    Whatever interrupts it, the image is the old or the new one after the next look at it.
    Raises OverlayError (CANNOT_CREATE, DAMAGED).
    """
    path = os.path.realpath(whole.path)
    resize2fs = process.need("resize2fs", environ)
    descriptor = whole.descriptor
    repair.check(path, descriptor, environ, full=True)
    replace.remove_stale(os.path.dirname(path), None)
    status, superblock = os.fstat(descriptor), ext3.read_superblock(descriptor)
    back = undo.name(path, status, superblock)
    reserved = status.st_blocks * 512 >= status.st_size
    if reserved:
        _check_room(path, wanted - status.st_size)
    with ending.cleaning_up():
        try:
            ext3_write.write_state(descriptor, 0)
            os.truncate(descriptor, wanted)
            if reserved:
                replace.reserve(path, descriptor, wanted, environ, notice, "resize")
            ours = undo.note(back, descriptor, superblock, wanted)
            result = _resize(resize2fs, descriptor, None if ours else back, environ)
            e2fsck = process.need("e2fsck", environ)
            if result.status or not repair.is_sound(e2fsck, descriptor, environ):
                why = "e2fsck finds the result unsound"
                if result.status:
                    why = process.last_line(result.errors, otherwise="resize2fs fails")
                raise OverlayError(
                    f"cannot resize {quote(path)}: {why}; it is as it was",
                    status=CANNOT_CREATE,
                )
            if reserved:  # it makes holes of tables that hold nothing yet
                replace.reserve(path, descriptor, wanted, environ, None, "resize")
        except BaseException as error:
            _go_back(path, descriptor, status.st_size, environ)
            if isinstance(error, OSError):
                raise OverlayError(
                    f"cannot resize {quote(path)}: {reason(error)}; it is as it was",
                    status=CANNOT_CREATE,
                ) from None
            raise
        # It is grown, and whatever happens from here it stays so.
        _forget(back)
        ext3_write.write_state(descriptor, ext3.STATE_CLEAN)
    whole.superblock = ext3.read_superblock(descriptor)


def _resize(
    resize2fs: str, descriptor: int, back: str | None, environ: Mapping[str, str]
) -> process.Result:
    """Let resize2fs make an image as large as its file, and return the Result.

    back  the path of the undo file that it is to write, None for none
    """
    if back is None:
        return process.run([resize2fs, "-f", descriptor], environ)
    undoing = undo.make(back, descriptor)  # by its name it would follow a link
    try:
        return process.run([resize2fs, "-f", "-z", undoing, descriptor], environ)
    finally:
        os.close(undoing)


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _go_back(path: str, descriptor: int, length: int, environ: Mapping[str, str]) -> None:
    """Undo what an interrupted grow() has begun."""
    if not undo.recover(path, descriptor, environ):
        # Never shorter than what the file system says that it spans.
        os.truncate(descriptor, max(length, ext3.read_superblock(descriptor).size))
    repair.check(path, descriptor, environ, full=True)


def _check_room(path: str, needed: int) -> None:
    free = free_bytes(os.path.dirname(path))
    if needed > free:
        raise OverlayError(
            f"there is no room for {quote(path)}: {size.format_size(needed)} more are needed,"
            f" {size.format_size(free)} are free",
            status=CANNOT_CREATE,
            hint="choose a smaller size, or make room",
        )


def rebuild(
    whole: Ext3Image, wanted: int, files: int, config: Config, notice: Notice
) -> ext3.Superblock:
    """Write all of an image into a new one of another size and number of files.

    whole   the Image, locked against everybody
    wanted  bytes
    files   how many files it can hold in all
    Owners, modes, times, links, attributes and holes stay. Returns the new Superblock.
    Raises OverlayError: USAGE when it would be too small, CANNOT_CREATE, DAMAGED.
    """
    environ = config.environ
    namespace.need(environ)
    replace.check_names(whole.path, os.fstat(whole.descriptor))
    repair.check(whole.path, whole.descriptor, environ, full=True)
    whole.superblock = ext3.read_superblock(whole.descriptor)
    path = os.path.realpath(whole.path)
    held, data = used(whole.descriptor, whole.superblock)
    _check_fits(wanted, files, held, data)
    _check_room(path, min(wanted, data + (64 << 20)))
    workplace = Workplace(scratch_directory(config))
    # Beside the workplace, not in it: all that is in it is written.
    mounted = workplace.path + ".old"
    content = Content(
        Amount(held, data),
        images=[(whole.descriptor, mounted, workplace.upper)],
        in_namespace=True,
        owners=lambda descriptor, superblock: take_over(whole, descriptor, superblock),
    )
    status = os.fstat(whole.descriptor)
    sparse = status.st_blocks * 512 < status.st_size
    request = Creation(wanted, files, path=path, sparse=sparse, force=True, content=content)
    facts = make.Facts(
        path=path,
        existing=whole,
        tools=make.find_tools(environ, sparse=sparse, filled=True),
        workplace=workplace,
    )
    notice(f"writing {size.format_files(held)}, {size.format_size(data)}")
    with ending.cleaning_up():
        try:
            workplace.make()
            private.remove(mounted)  # of a killed process of our number
            os.mkdir(mounted)
            return make.run(request, config, facts, notice).superblock
        finally:
            workplace.remove()
            if os.path.isdir(mounted):
                os.rmdir(mounted)


def _check_fits(wanted: int, files: int, held: int, data: int) -> None:
    if files < held:
        raise OverlayError(
            f"it holds {size.format_files(held)}, and is to hold no more than {files:,}",
            status=USAGE,
            hint=f"the smallest number: -n {-(-held // 1000)}",
        )
    if not ext3_size.fits(wanted, files, data):
        smallest = ext3_size.smallest_size(files, data)
        raise OverlayError(
            f"{size.format_size(data)} of data and {size.format_files(files)} do not fit into"
            f" {size.format_size(wanted)}",
            status=USAGE,
            hint=f"the smallest possible size: -s {size.mebibytes(smallest)}"
            if smallest
            else "fewer files: -n",
        )


def take_over(whole: Ext3Image, descriptor: int, superblock: ext3.Superblock) -> None:
    """Give every file of a new image owner and time of the old one, and compare them.

    whole                   the old Image
    descriptor, superblock  of the new one, which nobody uses yet
    The namespace that the new one was written in knows one user only, and files that were
    made with --fakeroot belong to others. Raises OverlayError (DAMAGED) when a file is
    missing or has another mode, size or number of links.
    """
    old = Reader(whole.descriptor, whole.superblock)
    new = Reader(descriptor, superblock)
    top = {name for name, _number, _kind in new.entries(new.inode(ext3.ROOT_INODE))}
    if top != {b".", b"..", b"lost+found", b"upper", b"work"}:
        raise _differs(whole, b"/", "is not the same")
    owners, times = {}, {}
    pending = [(old.upper(), new.upper())]
    while pending:
        (_number, before), (number, after) = pending.pop()
        owners[number] = (before.owner, before.group)
        theirs = {name: other for name, other, _kind in new.entries(after)}
        for name, other, _kind in old.entries(before):
            if name in (b".", b".."):
                continue
            one = old.inode(other)
            if name not in theirs:
                raise _differs(whole, name, "is missing")
            two = new.inode(theirs[name])
            same = one.mode == two.mode and (
                one.is_directory or (one.size, one.links) == (two.size, two.links)
            )
            if not same:
                raise _differs(whole, name, "is not the same")
            owners[theirs[name]] = (one.owner, one.group)
            times[theirs[name]] = (one.modify_time, one.nanoseconds)
            if one.is_directory:
                pending.append(((other, one), (theirs[name], two)))
    ext3_write.set_owners(descriptor, superblock, owners, (os.getuid(), os.getgid()))
    ext3_write.set_times(descriptor, superblock, times)


def _differs(whole: Ext3Image, name: bytes, what: str) -> OverlayError:
    return OverlayError(
        f"{quote(os.fsdecode(name))} of {quote(whole.path)} {what} in the new image; it is as it was",
        status=DAMAGED,
    )


def shrink(whole: Ext3Image, wanted: int, config: Config, notice: Notice) -> ext3.Superblock:
    """Make an image smaller, on a copy that takes its place.

    wanted  bytes, less than it has
    Raises OverlayError: USAGE below what is used, CANNOT_CREATE, DAMAGED.
    """
    environ = config.environ
    path = os.path.realpath(whole.path)
    resize2fs = process.need("resize2fs", environ)
    status = os.fstat(whole.descriptor)
    replace.check_names(path, status)
    repair.check(path, whole.descriptor, environ, full=True)
    replace.remove_stale(os.path.dirname(path), scratch_directory(config))
    notice(f"copying {quote(path)}")
    with ending.cleaning_up():
        try:
            with replace.unfinished(path) as new:
                descriptor = new.descriptor
                replace.copy(path, whole.descriptor, descriptor, environ, sound=True)
                words: list[str | int] = [resize2fs, "-f", descriptor, f"{wanted >> 10}K"]
                result = process.run(words, environ)
                if result.status:
                    raise _too_small(path, descriptor, wanted, result, resize2fs, environ)
                os.truncate(descriptor, wanted)
                repair.check(new.name, descriptor, environ, full=True)
                if status.st_blocks * 512 >= status.st_size:
                    replace.reserve(path, descriptor, wanted, environ, notice, "resize")
                new.over(whole.descriptor)
                return ext3.read_superblock(descriptor)
        except OSError as error:
            raise OverlayError(
                f"cannot resize {quote(path)}: {reason(error)}; it is as it was",
                status=CANNOT_CREATE,
            ) from None


def _too_small(
    path: str,
    copy: int,
    wanted: int,
    result: process.Result,
    resize2fs: str,
    environ: Mapping[str, str],
) -> OverlayError:
    """Return the error for a size that resize2fs refuses, with the smallest that it takes."""
    asked = process.run([resize2fs, "-f", "-P", copy], environ)
    words = asked.output.strip().rpartition(" ")[2]
    hint = None
    if words.isdecimal():
        block_size = ext3.read_superblock(copy).block_size
        # resize2fs's own estimate can be a little too small for itself.
        smallest = int(words) * block_size * 102 // 100
        hint = f"this size will do: -s {size.mebibytes(smallest)}"
    if any(one in result.errors for one in _TOO_SMALL):
        what = f"{quote(path)} holds too much for {size.format_size(wanted)}"
        return OverlayError(what, status=USAGE, hint=hint)
    why = process.last_line(result.errors, otherwise="resize2fs fails")
    return OverlayError(
        f"cannot resize {quote(path)}: {why}; it is as it was", status=CANNOT_CREATE
    )
