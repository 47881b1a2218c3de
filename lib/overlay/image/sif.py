"""The Singularity Image Format: where in a base image its squashfs begins.

The layout is that of the SIF 1.0 specification: a header of 128 bytes, then descriptors of
585 bytes, little-endian and unaligned.
"""

from __future__ import annotations

import os
import struct

from overlay.image import magic

_DESCRIPTOR = 585
_PARTITION = 0x4004  # type of a descriptor
_SQUASHFS, _PRIMARY = 1, 2  # type of a file system; role of a partition
_MOST = 1024  # descriptors; images have five or so


def squashfs_offset(descriptor: int) -> int | None:
    """Return the byte at which the squashfs of an open base image begins, or None.

    A plain squashfs file begins at 0. Raises OSError.
    """
    size = os.fstat(descriptor).st_size
    header = os.pread(descriptor, 128, 0)
    if magic.is_squashfs(header):
        return 0
    if len(header) < 128 or not magic.is_sif(header):
        return None
    count, place = struct.unpack_from("<qq", header, 88)
    for number in range(min(max(count, 0), _MOST)):
        start = place + number * _DESCRIPTOR
        if not 0 <= start <= size - _DESCRIPTOR:
            return None
        data = os.pread(descriptor, _DESCRIPTOR, start)
        kind, used = struct.unpack_from("<iB", data)
        offset: int = struct.unpack_from("<q", data, 17)[0]
        what = struct.unpack_from("<ii", data, 201)
        if kind == _PARTITION and used and what == (_SQUASHFS, _PRIMARY):
            return offset if 0 <= offset < size else None
    return None
