"""Going back after an interrupted change of an image in its place.

What resize2fs(8) is going to overwrite is noted in an undo file beside the image, and the
image is marked as not clean from before its start until that file is gone. So whoever finds
an image that is not clean, and such a file that fits it, puts back what is in it first.

It is known which blocks these are, where nothing has to move: a few. Earlier versions let
resize2fs write that file elsewhere (-z); what such a one has left is played back by e2undo(8).
resize2fs does not sync it before what it is for: a node that fails could leave neither.
"""

from __future__ import annotations

import binascii
import errno
import os
import struct

from overlay.errors import DAMAGED, OverlayError, quote, reason
from overlay.host import process
from overlay.image import ext3, ext3_write, magic, pending
from overlay.image.ext3_read import Reader
from overlay.safety import e2fsck, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import BinaryIO

    from overlay.image.ext3 import Superblock

_E2UNDO = b"E2UNDO02"
# Then a line with the words of its name, and records: offset and length in bytes, and what was
# there. Files of the first version, which begin like _FIRST, have no such line.
_OURS = b"overlay-undo-2\n\0"
_FIRST = b"overlay-undo-1\n\0"
_RECORD = struct.Struct("<QQ")  # the last one: the checksum of all before, and 0
_LONGEST_LINE = 256  # bytes of the words of a name
_LONGEST = 1 << 28  # bytes of a record; there is none of half that size


def name(path: str, status: os.stat_result, superblock: Superblock) -> str:
    """Return the path of the undo file for an image in its present state.

    The image's inode, length, identity and mount times are in the name: when it is another
    image, or was mounted since, the file does not fit, and playing it back would do harm. At
    its end is what nobody could guess and make before us, unless it could then not be found:
    in a directory that cannot be listed.
    """
    directory = os.path.dirname(path)
    found = pending.path_with(
        directory, (status.st_ino, status.st_size, *pending.identity_of(superblock))
    )
    listed = os.access(directory or ".", os.R_OK)
    return f"{found}-{os.urandom(8).hex()}" if listed else found


def make(back: str, image: int) -> int:
    """Make an undo file, empty, for those who may read the image; return its descriptor.

    back   its path, see name()
    image  open descriptor
    Raises OSError.
    """
    descriptor = replace.new_file(back)
    replace.keep_attributes(image, descriptor)
    return descriptor


def note(back: str, descriptor: int, superblock: Superblock, size: int) -> None:
    """Write the undo file for the growth of an image.

    back        its path, see name()
    descriptor  the open image, sound and locked whole
    size        bytes that it is to have
    Raises OSError, and ext3.FormatError where it is not known what such a growth overwrites;
    there is no file then.
    """
    places = list(Reader(descriptor, superblock).changed_by_growth(size))
    block = superblock.block_size
    try:
        with open(make(back, descriptor), "wb") as file:
            file.write(_OURS + _line(pending.words_in(os.path.basename(back))))
            pieces = (
                (first * block, os.pread(descriptor, count * block, first * block))
                for first, count in places
            )
            write_records(file, pieces)
            file.flush()
            os.fsync(file.fileno())
        _sync_directory(os.path.dirname(back))
    except OSError:
        if os.path.exists(back):
            os.unlink(back)
        raise


def _sync_directory(path: str) -> None:
    """See the names in a directory on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise  # else the file system has no such thing
    finally:
        os.close(descriptor)


def write_records(file: BinaryIO, pieces: Iterable[tuple[int, bytes]]) -> None:
    """Write what read_records() reads.

    pieces  yields (offset in the image, bytes)
    """
    checksum = 0
    for offset, data in pieces:
        record = _RECORD.pack(offset, len(data)) + data
        checksum = binascii.crc32(record, checksum)
        file.write(record)
    file.write(_RECORD.pack(checksum, 0))


def read_records(
    file: BinaryIO, limit: int = 1 << 63, longest: int = _LONGEST
) -> Iterator[tuple[int, bytes] | None]:
    """Yield (offset, bytes) of each record from where a file stands; at last None if all is whole.

    limit    the first offset in the image that no record may reach
    longest  bytes of a record
    Raises ext3.FormatError when there is an end, and something before has changed.
    """
    checksum = 0
    while len(head := file.read(_RECORD.size)) == _RECORD.size:
        offset, length = _RECORD.unpack(head)
        if not length:
            if offset != checksum:
                raise ext3.FormatError("its checksum is wrong")
            yield None
            return
        if length > longest or offset + length > limit:
            raise ext3.FormatError("a record in it is too long")
        data = file.read(length)
        if len(data) < length:
            return
        checksum = binascii.crc32(head + data, checksum)
        yield offset, data


def _line(words: Iterable[object]) -> bytes:
    """Return the line that says of which image, and of which state of it, an undo file is."""
    return " ".join(map(str, words)).encode() + b"\n"


def _is_of(file: BinaryIO, words: Iterable[object]) -> bool:
    """Return whether an undo file says itself what its name does, as far as it says anything.

    words  in its name
    Who may write in its directory can give it another image's name. resize2fs(8) has a copy of
    the superblock in it, which tells one image and mount from another: undo_io.c of e2fsprogs.
    """
    start = os.pread(file.fileno(), 512, 0)
    if start.startswith(_OURS):
        return start[len(_OURS) :].startswith(_line(words))
    if start.startswith(_E2UNDO) and len(start) == 512:
        place, block = struct.unpack_from("<Q8xI", start, 16)
        if place < 1 << 40:
            data = os.pread(file.fileno(), magic.SUPERBLOCK_SIZE, place * block)
            if data[56:58] == b"\xac\x10":  # the mark of a superblock, turned round
                data = data[:56] + b"\x53\xef" + data[58:]
            try:
                superblock = ext3.Superblock(data, in_change=True)
            except ext3.FormatError:
                return True  # it was not finished
            return pending.identity_of(superblock) == tuple(words)[2:]
    return True


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes] | None]:
    """Yield what an undo file of ours holds, see read_records()."""
    file.seek(0)
    if file.read(len(_OURS)) == _OURS:
        file.readline(_LONGEST_LINE)
    yield from read_records(file)


def take_back(path: str, descriptor: int, environ: Mapping[str, str]) -> bool:
    """Play back what an interrupted change of an image left; return whether there was any.

    path        of the image, to find what lies beside it
    descriptor  the image, open for writing, locked whole by the caller
    Raises OverlayError (DAMAGED) when it cannot be played back.
    """
    directory, status = os.path.dirname(os.path.realpath(path)), os.fstat(descriptor)
    prefix = f"{pending.PREFIX}{status.st_ino}."
    try:
        found = [entry for entry in os.listdir(directory) if entry.startswith(prefix)]
    except PermissionError:  # then it can be met by its name only
        superblock = pending.read_superblock(path, descriptor)
        words = (status.st_ino, superblock.size, *pending.identity_of(superblock))
        found = [os.path.basename(pending.path_with(directory, words))]
    done = False
    for entry in found:
        undo = os.path.join(directory, entry)
        numbers = pending.words_in(entry)
        file = pending.open_ours(undo, status)
        if file is None:
            continue
        with file:
            superblock = pending.read_superblock(path, descriptor)
            fits = tuple(numbers[2:]) == pending.identity_of(superblock)
            if not _is_of(file, numbers):
                continue  # it is another image's way back
            if fits and not superblock.is_clean and numbers[1].isdecimal():
                try:
                    _play_back(undo, file, descriptor, path, environ)
                except OverlayError:
                    untouched = superblock.size == int(numbers[1])
                    if not (untouched and _is_sound(descriptor, environ)):
                        raise
                # Never shorter than the file system, whatever somebody has renamed to this.
                length = max(int(numbers[1]), pending.read_superblock(path, descriptor).size)
                os.truncate(descriptor, min(length, os.fstat(descriptor).st_size))
                ext3_write.write_state(descriptor, 0)
                done = True
        try:
            os.unlink(undo)
        except OSError:
            pass  # it does not fit any more, and does no harm
    return done


def _is_sound(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Return whether e2fsck finds nothing wrong: then nothing had been overwritten.

    A node that fails may leave an undo file with a part of it missing, before that.
    """
    program = process.need("e2fsck", environ)
    return e2fsck.run(program, "-fn", descriptor, environ).status == 0


def _play_back(
    undo: str, file: BinaryIO, descriptor: int, path: str, environ: Mapping[str, str]
) -> None:
    """Put back into an image what an undo file holds.

    undo, file  its path, for messages, and itself
    One without the end of ours, or without the header of resize2fs's, holds nothing that
    counts: ours is whole before anything is overwritten, and resize2fs had then written
    nothing but groups that its superblock, written last, does not count yet.
    Raises OverlayError (DAMAGED).
    """
    start = file.read(len(_OURS))
    if start in (_OURS, _FIRST):
        try:
            if None in _records(file):
                for offset, data in filter(None, _records(file)):
                    if os.pwrite(descriptor, data, offset) < len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
        except ext3.FormatError as error:
            hint = f"{quote(undo)} is damaged, too: restore the overlay from a copy"
            raise _cannot_undo(path, error, hint) from None
        except OSError as error:
            hint = f"make room, then again: check-overlay {quote(path)}"
            raise _cannot_undo(path, reason(error), hint) from None
    elif start.startswith(_E2UNDO):
        program = process.need("e2undo", environ)
        # -f: a killed resize2fs had no time to finish the file.
        result = process.run([program, "-f", file.fileno(), descriptor], environ)
        if result.status:
            words = process.last_line(result.errors, result.output)
            hint = f"by hand: e2undo -f {quote(undo)} {quote(path)}"
            raise _cannot_undo(path, words, hint)


def _cannot_undo(path: str, why: object, hint: str) -> OverlayError:
    return OverlayError(
        f"an interrupted change of {quote(path)} cannot be undone: {why}",
        status=DAMAGED,
        hint=hint,
    )
