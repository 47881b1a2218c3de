"""Which base image an overlay belongs to, and whether a file is that one."""

from __future__ import annotations

import os
import stat
import struct

from overlay.image import magic

_MOST = 1 << 20  # bytes of descriptors that are read of a SIF

# The architectures of SIF headers, by their names in uname(2): "SIF header" of the SIF library.
_MACHINES = {b"01": "i686", b"02": "x86_64", b"03": "armv7l", b"04": "aarch64", b"06": "ppc64le"}


class Base:
    """What tells a base image from another.

    path     as it was named, absolute
    size     bytes; 0 of a directory
    mark     what its header says, as hexadecimal digits: of a SIF its UUID and a sum of header and
             descriptors, of a squashfs a sum of its superblock; empty of a directory
    machine  its architecture as uname(2) calls it; empty where it does not say
    """

    __slots__ = ("machine", "mark", "path", "size")

    def __init__(self, path: str, size: int, mark: str, machine: str) -> None:
        self.path = path
        self.size = size
        self.mark = mark
        self.machine = machine


def look(path: str) -> Base:
    """Return the Base that a path is now. Raises OSError, also for what is neither file nor directory."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)  # to open a device alone may have effects
    try:
        status = os.fstat(place)
        if stat.S_ISDIR(status.st_mode):
            return Base(path, 0, "", "")
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(2, "it is neither a file nor a directory", path)
        descriptor = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(place)
    try:
        header = os.pread(descriptor, 128, 0)
        machine = _MACHINES.get(header[45:47], "") if magic.is_sif(header) else ""
        return Base(path, status.st_size, _mark(descriptor, header), machine)
    finally:
        os.close(descriptor)


def _mark(descriptor: int, header: bytes) -> str:
    """Return what the header of an image says of its content.

    SIF 1.0: a header of 128 bytes, the UUID at 48; how many descriptors, where, and how many bytes
    they are, at 88, 96 and 104.
    """
    import zlib

    if not magic.is_sif(header) or len(header) < 128:
        return f"{zlib.crc32(header[:96]):08x}"
    _total, place, length = struct.unpack_from("<qqq", header, 88)
    if not 0 <= length <= _MOST or place < 0:
        length, place = 0, 0
    descriptors = os.pread(descriptor, length, place)
    return f"{header[48:64].hex()}{zlib.crc32(header + descriptors):08x}"
