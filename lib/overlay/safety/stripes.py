"""How a file is spread over the servers of Lustre, its layout: new ones get that of what they replace."""

from __future__ import annotations

import contextlib
import functools
import os

from overlay.host import mounts, process
from overlay.safety import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def like(path: str, environ: Mapping[str, str]) -> Callable[[str, int | None], int]:
    """Return what makes a new empty file, as replace.new_file() does, with the layout of a file.

    path  of that. Elsewhere than on Lustre, and where it cannot be had, it is the usual one.
    """
    return functools.partial(_new_file, os.path.abspath(path), environ)


def _new_file(
    path: str, environ: Mapping[str, str], name: str, directory: int | None = None
) -> int:
    where = os.path.dirname(os.path.abspath(name))
    if directory is not None:
        where = os.readlink(f"/proc/self/fd/{directory}")
    program = process.which("lfs", environ) if _is_on_lustre(path, where) else None
    if program is not None:
        # lfs makes the file itself, by a name: a layout cannot be given to one that is there.
        new = os.path.join(where, os.path.basename(name))
        mask = os.umask(0o177)
        try:
            result = process.run([program, "setstripe", f"--copy={path}", new], environ)
        finally:
            os.umask(mask)
        if result.status == 0:
            return _opened(path, name, directory)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
    return replace.new_file(name, directory)


def _is_on_lustre(*paths: str) -> bool:
    """Return whether all of some files are on Lustre."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mount = mounts.find(descriptor)
        finally:
            os.close(descriptor)
        if mount is None or mount.type != "lustre":
            return False
    return True


def _opened(path: str, name: str, directory: int | None) -> int:
    """Open what lfs has made, if it is that still. Raises OverlayError, OSError."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=directory)
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_size, status.st_nlink) != (os.geteuid(), 0, 1):
        os.close(descriptor)
        raise replace.names_changed(path)
    os.fchmod(descriptor, 0o600)
    return descriptor
