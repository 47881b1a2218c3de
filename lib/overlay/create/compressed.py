"""Compressed archives, and the bytes that they stand for."""

from __future__ import annotations

import os

from overlay.create.kind import open_regular
from overlay.errors import DAMAGED, OverlayError, quote
from overlay.host import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Any, BinaryIO, Protocol

    class Readable(Protocol):
        """What bytes are read from."""

        def read(self, count: int, /) -> bytes:
            """Return the next bytes, at most count."""


# How compressed archives begin, and what decompresses them: modules of Python, one program.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ": "lzma",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def compression(head: bytes) -> str | None:
    """Return what decompresses an archive that begins so; None for a plain one."""
    return next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)


def opened(
    path: str, environ: Mapping[str, str], is_plain: Callable[[bytes], bool]
) -> AbstractContextManager[Readable]:
    """Return the decompressed bytes of an archive, as a context.

    is_plain  whether a file that begins with so many bytes is an archive as it is
    tarfile's own decompressors do not see checksums, further parts and a missing end.
    """
    file = open_regular(path)
    head = os.pread(file.fileno(), 512, 0)
    name = compression(head)
    if name is None or is_plain(head):
        return file
    if name == "zstd":
        return _Zstd(path, file, environ)
    if name == "gzip":
        import gzip

        return gzip.open(file, "rb")
    if name == "lzma":
        import lzma

        return _Parts(file, lzma.LZMADecompressor)
    import bz2

    return _Parts(file, bz2.BZ2Decompressor)


class _Parts:
    """The decompressed bytes of xz and bzip2 files, as a context.

    They may have several parts, with zeros between and behind them, as tapes and the format
    of xz pad them; the modules of Python take zeros for a part that is cut.
    """

    def __init__(self, file: BinaryIO, decompressor: Callable[[], Any]) -> None:
        self._file = file
        self._new = decompressor
        self._part = decompressor()

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *_what: object) -> None:
        self._file.close()

    def read(self, count: int) -> bytes:
        """Return the next bytes, at most count; none at the end."""
        while True:
            data = b""
            if self._part.eof:
                data = self._part.unused_data.lstrip(b"\0")
                while not data:
                    block = self._file.read(1 << 16)
                    if not block:
                        return b""
                    data = block.lstrip(b"\0")
                self._part = self._new()
            elif self._part.needs_input:
                data = self._file.read(1 << 16)
                if not data:
                    raise EOFError("it ends early")
            found: bytes = self._part.decompress(data, count)
            if found:
                return found


class _Zstd:
    """The decompressed bytes of a zstd file, as a context."""

    def __init__(self, path: str, file: BinaryIO, environ: Mapping[str, str]) -> None:
        # Up to the window that --long=31 writes; by itself zstd takes one of 128 MiB at most.
        self._arguments = [process.need("zstd", environ), "-dcq", "--long=31"]
        self._environ = environ
        self._path = path
        self._file = file

    def __enter__(self) -> Readable:
        self._child = process.pour(self._arguments, self._environ, self._file)
        assert self._child.stdout
        self._output = self._child.stdout
        return self._output

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._output.close()
        self._file.close()
        if self._child.wait() and kind is None:
            raise OverlayError(f"{quote(self._path)} is damaged: zstd fails", status=DAMAGED)
