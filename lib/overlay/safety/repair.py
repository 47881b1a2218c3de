"""Checking an image, and repairs that a kill at any moment does not hurt.

e2fsck(8) writes as it goes, and cut short it can lose the names of sound directories: it
rewrites those of three blocks and more to index them. So it looks first, and a sound image
is left as it is. Else it works on a copy of all but the content of files; what it has
changed there is noted at the end of the image, behind the file system, and synced, and only
then written to its place. Whoever finds a whole note on an image that is not marked as
clean writes it once more; one that is not whole was not begun with, and is cut off.

The note is in the file itself and not beside it: it stays with the image when that is moved
or copied, every node finds it, and it needs no right to write in the directory.
"""

from __future__ import annotations

import errno
import os
import struct

from overlay.errors import CANNOT_CREATE, DAMAGED, UNAVAILABLE, OverlayError, quote, reason
from overlay.host import ending, limits, process
from overlay.host.room import free_bytes
from overlay.image import ext3, ext3_write, magic
from overlay.image.ext3_image import Ext3Image
from overlay.image.layout import check_locked_layout
from overlay.safety import e2fsck, harmless, salvage, undo
from overlay.size import format_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

    from overlay.host.process import Result
    from overlay.image.ext3 import Superblock

NOTHING = "no damage found"  # what make_sound() says of a sound image
_NOTE = b"overlay-note-1\n\0"
_HEAD = struct.Struct("<16s26s26s")  # _NOTE, the fingerprints before and after the repair
_END = struct.Struct("<Q16s")  # where the note begins, and _NOTE: the last bytes of the file
# What e2fsck(8) asks of an ext3 image in which a directory holds more than 65,000 others.
_MANY = "Directory exceeds max links, but no DIR_NLINK feature in superblock.\nFix? no\n"
_IN_MEMORY = 64 << 20  # bytes of a copy that memory is taken for, without asking further
_PIECE = 1 << 20  # bytes that are read or noted at once
_TOLD = 10  # files that are named, of those without a name and of the names that are gone
_UNIT = 4096  # bytes that are compared at once, or a block if that is smaller
_MOST = 1 << 30  # bytes that a note holds: who has made an image could make that very long


def make_sound(
    path: str, descriptor: int, environ: Mapping[str, str], *, full: bool = False
) -> str:
    """Look at an image, and repair what can be without a loss; return what was done, in words.

    path        of the image, for messages and for what lies beside it
    descriptor  the open image, which the caller has locked whole
    full        whether to look at all of an image that is marked as clean, too
    Raises OverlayError: DAMAGED when the image is not sound afterwards, UNAVAILABLE,
    CANNOT_CREATE.
    """
    program = process.need("e2fsck", environ)
    with ending.cleaning_up():  # else a signal would leave e2fsck behind
        finished = finish_interrupted(path, descriptor, environ)
        clean = ext3.read_superblock(descriptor).is_clean
        if clean and (not full or is_sound(program, descriptor, environ)):
            check_layout(path, descriptor)
            return "repaired (what was interrupted is done)" if finished else NOTHING
        return _repair(program, path, descriptor, environ)


def tell(path: str, said: str, notice: Callable[[str], object]) -> None:
    """Tell the user what make_sound() says that it has done, if anything.

    path    of the image
    notice  called with each line
    """
    if said != NOTHING:
        for line in said.split("\n"):
            notice(f"{quote(path)}: {line.strip()}")


def finish_interrupted(path: str, descriptor: int, environ: Mapping[str, str]) -> bool:
    """Complete or undo what an interrupted change of an image left; return whether there was any.

    descriptor  the image, open for writing, locked whole by the caller
    Raises OverlayError (DAMAGED) when it cannot be.
    """
    try:
        done = go_on(descriptor)
    except OSError as error:
        raise _cannot_write(path, error) from None
    return undo.take_back(path, descriptor, environ) or done


def change(
    path: str, descriptor: int, environ: Mapping[str, str], work: Callable[[int], object]
) -> None:
    """Let a function change the tables of a clean image, so that no kill leaves half of it.

    path        of the image, for messages
    descriptor  the image, open for writing, locked whole by the caller
    work        gets the descriptor of a copy of all but the content of files; what it writes has
                no block of zeros, which is taken for a hole
    Raises OverlayError, and what work does; the image is as it was then.
    """
    superblock = ext3.read_superblock(descriptor)
    copy = _empty_file(superblock, environ)
    try:
        known = _copy_tables(path, descriptor, copy, superblock, environ)
        work(copy)
        if not is_sound(process.need("e2fsck", environ), copy, environ):
            raise _needs_decision(path)
        changed = _changed(descriptor, copy, known, min(superblock.block_size, _UNIT))
        if changed:
            _note(descriptor, copy, changed)
            ext3_write.write_state(descriptor, superblock.state & ~ext3.STATE_CLEAN)
            go_on(descriptor)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        os.close(copy)


def is_sound(
    program: str, descriptor: int, environ: Mapping[str, str], *, sums: bool = True
) -> bool:
    """Return whether e2fsck, which changes nothing, has nothing to ask of an image.

    program  the path of e2fsck
    sums     whether wrong sums of what is free count, which e2fsck leaves out of its status
    More than 65,000 directories in one are not damage here: they do no harm, once the number
    of its links stands at 1, and what e2fsck would do makes an ext4 image of it.
    """
    return finds_nothing(e2fsck.run(program, "-fn", descriptor, environ), sums=sums)


def finds_nothing(result: Result, *, sums: bool = True) -> bool:
    """Return whether that is what e2fsck -fn says; sums as of is_sound()."""
    rest = result.output.replace(_MANY, "")
    if result.status == 4 and rest != result.output:
        return "? no" not in rest and "IGNORED" not in rest
    return result.status == 0 and not (sums and "? no" in rest)


def check_layout(path: str, descriptor: int) -> None:
    """See that a session would take an image, or the copy of its tables, as it is now.

    Raises OverlayError (DAMAGED).
    """
    superblock, status = ext3.read_superblock(descriptor), os.fstat(descriptor)
    check_locked_layout(Ext3Image(path, status, descriptor, True, superblock))


def _repair(program: str, path: str, descriptor: int, environ: Mapping[str, str]) -> str:
    """Repair an image that is not sound, or not marked as clean; return what was done."""
    superblock = ext3.read_superblock(descriptor)
    said = ""
    if superblock.incompatible & ext3.RECOVER:
        # A journal is a note of its own: cut short, it is played back once more.
        words: list[str | int] = [program, "-p", "-E", "journal_only", descriptor]
        said = process.run(words, environ).output
        superblock = ext3.read_superblock(descriptor)
    copy = _empty_file(superblock, environ)
    try:
        known = _copy_tables(path, descriptor, copy, superblock, environ)
        ext3_write.set_dir_nlink(copy, superblock, True)
        result = e2fsck.run(program, "-pf", copy, environ)
        if result.status == 4:  # "errors left uncorrected"
            result = harmless.mend(program, descriptor, copy, environ) or result
        _judge(path, result)
        ext3_write.set_dir_nlink(copy, superblock, False)
        check_layout(path, copy)
        before = salvage.lost_and_found(descriptor)
        if salvage.save_work(copy, environ) and not is_sound(program, copy, environ):
            raise _needs_decision(path)
        changed = _changed(descriptor, copy, known, min(superblock.block_size, _UNIT))
        if sum(length for _offset, length in changed) > _MOST:
            raise _needs_decision(path)
        _note(descriptor, copy, changed)
        if superblock.state & ext3.STATE_CLEAN:
            ext3_write.write_state(descriptor, superblock.state & ~ext3.STATE_CLEAN)
        go_on(descriptor)
    except OSError as error:
        raise _cannot_write(path, error) from None
    finally:
        os.close(copy)
    found = salvage.lost_and_found(descriptor) - before
    if result.status or found:
        told = _corrections(said + result.output) + salvage.describe(descriptor, found, _TOLD)
        gone = salvage.led_nowhere(result.output, _TOLD)
        return told + (
            f"\nthese names led to nothing any more, and are gone:{gone}" if gone else ""
        )
    made_ext4 = superblock.read_only_compatible & ext3.DIR_NLINK
    return "repaired (it is an ext3 image again)" if made_ext4 else NOTHING


def _judge(path: str, result: Result) -> None:
    """Raise OverlayError unless e2fsck says that all is sound now."""
    # e2fsck(8): 1 is "errors corrected"; 2 asks for a reboot, which no image needs.
    if result.status in (0, 1, 2, 3):
        return
    if result.status == e2fsck.ENDLESS:
        raise _needs_decision(path)
    if result.status < 0 or result.status & 32:  # 32 is "canceled by user request"
        raise OverlayError(
            f"{quote(path)} could not be checked: e2fsck was ended before it was done",
            status=UNAVAILABLE,
            hint="was there too little memory? Then again, where there is more: the same command",
        )
    raise _needs_decision(path)


def _needs_decision(path: str) -> OverlayError:
    return OverlayError(
        f"{quote(path)} is damaged, and repairing it needs a decision of yours",
        status=DAMAGED,
        hint=f"check-overlay --repair {quote(path)}",
    )


def _cannot_write(path: str, error: OSError) -> OverlayError:
    limit = limits.of_files() if error.errno == errno.EFBIG else None
    if limit is not None:
        what = f"{quote(path)} could not be repaired: {limit}"
        return OverlayError(what, status=CANNOT_CREATE, hint=limits.HINT)
    return OverlayError(
        f"{quote(path)} could not be repaired: {reason(error)}",
        status=CANNOT_CREATE,
        hint=f"is there room on its disk, and in your quota? Then: check-overlay {quote(path)}",
    )


def _corrections(output: str) -> str:
    """Return what e2fsck says that it did, in words."""
    attached = output.count("Connect to /lost+found? yes")
    if attached:
        return f"repaired ({format_files(attached)} without a name now in lost+found)"
    count = sum(
        line.rstrip(" .").endswith(("FIXED", "CLEARED", "done")) for line in output.splitlines()
    )
    if "recovering journal" in output:
        return "repaired (its journal was played back)"
    return f"repaired ({count} corrections)" if count > 1 else "repaired"


# -------------------------------------------------------------------- the copy --


def _empty_file(superblock: Superblock, environ: Mapping[str, str]) -> int:
    """Return the descriptor of a file without a name for a copy of an image's tables.

    It lies in memory when it will be small, which it is for some 100,000 files; else on a
    disk of the node, where memory that is short can be had back, if there is room.
    """
    needed = _needed(superblock)
    if needed > _IN_MEMORY:
        import tempfile

        for directory in filter(None, (environ.get("TMPDIR"), "/tmp", "/var/tmp")):
            try:
                if free_bytes(directory) > 2 * needed:
                    with tempfile.TemporaryFile(dir=directory) as file:
                        return os.dup(file.fileno())
            except OSError:
                continue
    return os.memfd_create("tables")


def _needed(superblock: Superblock) -> int:
    """Return about how many bytes the tables of an image take, as its counts have it."""
    needed = superblock.used_inodes_count * (superblock.inode_size + 128)
    return needed + superblock.groups_count * 2 * superblock.block_size + ext3.JOURNAL


def _most(copy: int, superblock: Superblock) -> int:
    """Return the bytes that a copy of the tables may take.

    Counts can be wrong, or meant to mislead: a file of any size can pose as a directory, and all
    of it would be copied, into memory.
    """
    free = free_bytes(copy)  # none where a file in memory is
    if not free:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        free = int(rows.get("MemAvailable", "0").split()[0]) << 10
    return max(_IN_MEMORY, min(4 * _needed(superblock), free // 2))


def _copy_tables(
    path: str, descriptor: int, copy: int, superblock: Superblock, environ: Mapping[str, str]
) -> dict[tuple[int, int], None]:
    """Copy all but the content of files into an empty file; return where it has data.

    Around what e2image(8) copies all is as in the image, as far as the copy has no holes:
    its smallest piece may be larger than a block of the image. Returns a dictionary whose
    keys are (first byte, byte after the last), in order.
    """
    program = process.need("e2image", environ)
    most = _most(copy, superblock)

    def fits() -> bool:
        return os.fstat(copy).st_blocks * 512 <= most

    is_large = os.fstat(descriptor).st_blocks * 512 > most
    watch = fits if is_large else None
    result = process.run([program, "-r", descriptor, copy], environ, watch=watch)
    if is_large and not fits():
        raise _needs_decision(path)
    if result.status:
        limit = limits.ended(result.status, result.errors)
        if limit is not None:
            raise OverlayError(
                f"{quote(path)} could not be checked: {limit}",
                status=UNAVAILABLE,
                hint=limits.HINT,
            )
        if result.status < 0 or "No space left" in result.errors:
            raise OverlayError(
                f"{quote(path)} could not be checked: no room for a copy of its tables",
                status=UNAVAILABLE,
                hint="where there is more memory, or room in TMPDIR: the same command",
            )
        raise _needs_decision(path)
    os.truncate(copy, superblock.size)
    known = dict.fromkeys(_data(copy))
    for start, end in known:
        for offset in range(start, end, _PIECE):
            data = os.pread(descriptor, min(_PIECE, end - offset), offset)
            _write(copy, data, offset)
    return known


def _data(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield (first byte, byte after the last) of what is not a hole in a file."""
    end = 0
    while True:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def _changed(
    descriptor: int, copy: int, known: Mapping[tuple[int, int], None], unit: int
) -> list[tuple[int, int]]:
    """Return a list of (offset, length in bytes) of what differs between an image and its copy.

    known  where the copy had data before e2fsck, see _copy_tables()
    unit   bytes that are compared at once
    In what was a hole e2fsck has filled whole blocks, and zeros beside them are still holes.
    """
    zeros, found = bytes(unit), set()
    later = [place for place in _data(copy) if place not in known]
    for new, places in ((False, known), (True, later)):
        for start, end in places:
            for offset in range(start, end, _PIECE):
                length = min(_PIECE, end - offset)
                now, before = (os.pread(one, length, offset) for one in (copy, descriptor))
                if now == before:
                    continue
                for at in range(0, length, unit):
                    piece = now[at : at + unit]
                    if piece != before[at : at + unit] and not (new and piece == zeros):
                        found.add(offset + at)
    joined: list[tuple[int, int]] = []
    for offset in sorted(found):
        if joined and sum(joined[-1]) == offset and joined[-1][1] < _PIECE:
            joined[-1] = joined[-1][0], joined[-1][1] + unit
        else:
            joined.append((offset, unit))
    return joined


# -------------------------------------------------------------------- the note --


def _note(descriptor: int, copy: int, changed: Iterable[tuple[int, int]]) -> None:
    """Note at the end of an image what is to be written into it.

    changed  list of (offset, length) of what is to be taken from the copy
    The state of the superblock is not in it: that is written by itself, last. Raises
    OSError; there is no note then.
    """
    start = os.fstat(descriptor).st_size
    try:
        with open(descriptor, "r+b", closefd=False) as file:
            file.seek(start)
            file.write(_HEAD.pack(_NOTE, _fingerprint(descriptor), _fingerprint(copy)))
            undo.write_records(file, _without_state(copy, changed))
            file.write(_END.pack(start, _NOTE))
        os.fsync(descriptor)
    except BaseException:
        os.truncate(descriptor, start)
        raise


def _without_state(copy: int, changed: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of changes, the image not marked as clean by them."""
    place = ext3.STATE_OFFSET
    for offset, length in changed:
        data = os.pread(copy, length, offset)
        if offset <= place < offset + length:
            at = place - offset
            data = data[:at] + bytes(2) + data[at + 2 :]
        yield offset, data


def _fingerprint(descriptor: int) -> bytes:
    """Return what a mount or another repair changes of a superblock, and the uuid.

    It is all in one sector, so that a failing node leaves it as it was or as it is to be.
    """
    data = os.pread(descriptor, magic.SUPERBLOCK_SIZE, magic.SUPERBLOCK_OFFSET)
    return data[0x2C:0x36] + data[0x68:0x78]  # times of mount and writing, mount count


def go_on(descriptor: int) -> bool:
    """Write what the note at the end of an image holds, and cut it off.

    descriptor  the image, open for writing, locked whole
    A note that is not whole, or is of another state, is only cut off. Returns whether one
    was written. Raises OSError.
    """
    start, end = _find(descriptor)
    if start is None:
        return False
    done = False
    head = os.pread(descriptor, _HEAD.size, start)
    with open(descriptor, "rb", closefd=False) as file:
        if (
            len(head) == _HEAD.size
            and not ext3.read_state(descriptor) & ext3.STATE_CLEAN
            and _fingerprint(descriptor) in _HEAD.unpack(head)[1:]
            and _is_whole(file, start, end)
        ):
            _carry_out(descriptor, file, start + _HEAD.size)
            done = True
    os.truncate(descriptor, start)
    return done


def _carry_out(descriptor: int, file: BinaryIO, start: int) -> None:
    """Write what a whole note holds."""
    file.seek(start)
    for offset, data in filter(None, undo.read_records(file)):
        _write(descriptor, data, offset)
    os.fsync(descriptor)
    ext3_write.write_state(descriptor, ext3.STATE_CLEAN)


def _find(descriptor: int) -> tuple[int | None, int]:
    """Return (where the note in an image begins, where its file system ends); None without one.

    It begins behind the file system: what looks like one before its end is what somebody has
    put into a file in the overlay.
    """
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, magic.SUPERBLOCK_SIZE, magic.SUPERBLOCK_OFFSET)
    try:
        filesystem = ext3.Superblock(data, in_change=True).size
    except ext3.FormatError:
        return None, 0
    start, end = filesystem, os.pread(descriptor, _END.size, max(0, size - _END.size))
    if len(end) == _END.size and end.endswith(_NOTE):
        start = max(start, _END.unpack(end)[0])  # the file may have been longer than that
    there = start < size and os.pread(descriptor, len(_NOTE), start) == _NOTE
    return (start, filesystem) if there else (None, filesystem)


def _is_whole(file: BinaryIO, start: int, end: int) -> bool:
    """Return whether the note that begins at a place is whole, as far as one of ours can be long.

    file  the image, open for reading
    end   of its file system, behind which no note writes
    """
    file.seek(start + _HEAD.size)
    left = min(end, _MOST)
    try:
        for record in undo.read_records(file, limit=end, longest=_PIECE):
            if record is None:
                return file.read(_END.size) == _END.pack(start, _NOTE)
            left -= len(record[1])
            if left < 0:
                return False
    except ext3.FormatError:
        pass
    return False


def _write(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of some bytes. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
