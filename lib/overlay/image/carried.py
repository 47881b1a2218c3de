"""What is behind the end of a squashfs file system: copies of small files in it, and a checksum.

They are read without a program.

Neither the kernel nor squashfuse look behind what the superblock says is used. The file ends with
what is carried: for each file a line "path length" and its bytes; then 32 bytes: a mark, the length
of all of it and its CRC-32, little-endian.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_MARK = b"overlay-carried\n"
_END = struct.Struct("<16sQI4x")
_AT_ONCE = 1 << 16  # bytes
_PIECE = 1 << 22  # bytes

# The name of the checksum among the paths, which begin with a slash or have one in them.
CHECKSUM = "sha256"
_MOST = 16 << 20
_MOST_FILES = 4096  # ours hold three for each overlay that was packed


def write(descriptor: int, files: Mapping[str, bytes]) -> None:
    """Put files, by their paths, behind what a file holds. Raises OSError."""
    import zlib

    data = b"".join(
        b"%b %d\n%b" % (os.fsencode(path), len(content), content) for path, content in files.items()
    )
    data += _END.pack(_MARK, len(data), zlib.crc32(data))
    place = os.fstat(descriptor).st_size
    while data:
        done = os.pwrite(descriptor, data, place)
        data, place = data[done:], place + done


def checksum(descriptor: int, used: int) -> bytes:
    """Return the SHA-256 of the file system at the beginning of a file, in hexadecimal digits.

    used  its bytes. Raises OSError.
    """
    import hashlib

    found, place = hashlib.sha256(), 0
    while place < used:
        data = os.pread(descriptor, min(_PIECE, used - place), place)
        if not data:
            break
        found.update(data)
        place += len(data)
    return found.hexdigest().encode()


def read(descriptor: int, used: int) -> dict[str, bytes]:
    """Return what a file carries, by path; nothing where that is not whole. Raises OSError.

    used  bytes at its beginning that are something else
    """
    size = os.fstat(descriptor).st_size
    place = max(used, size - _AT_ONCE)
    if size - place < _END.size:
        return {}
    data = os.pread(descriptor, size - place, place)
    if len(data) < _END.size:
        return {}
    mark, length, checksum = _END.unpack_from(data, len(data) - _END.size)
    whole = length + _END.size
    if mark != _MARK or length > _MOST or whole > size - used:
        return {}
    if whole > len(data):
        data = os.pread(descriptor, whole, size - whole)
    import zlib

    data = data[len(data) - whole : len(data) - _END.size]
    return _parse(data) if zlib.crc32(data) == checksum else {}


def _parse(data: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    place = 0
    while place < len(data) and len(files) < _MOST_FILES:
        end = data.find(b"\n", place)
        path, _space, length = data[place : max(end, place)].rpartition(b" ")
        if not path or not length.isdigit() or len(length) > 8:
            return {}
        place = end + 1 + int(length)
        files[os.fsdecode(path)] = data[end + 1 : place]
    return files
