"""The versions of an overlay before its updates: NAME.~1~ and so on, as cp --backup=numbered names them.

Which of such files are ours an extended attribute says: the user's own cp(1) makes such names too.
Where the file system has no such attributes, a file beside it says so, whose name begins with a dot.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import stat

from overlay.safety import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_VERSION = "user.overlay.version"
_NOTE = ".overlay-version."  # before the name of a version, where there are no attributes
_NAMED = re.compile(r"(.+)\.~\d{1,9}~", re.DOTALL | re.ASCII)


def named(path: str) -> list[str]:
    """Return the names of the versions that are kept of an overlay, the oldest first.

    Some may be the user's own: cp(1) and mv(1) make such names as well. What belongs to somebody
    else than the overlay is none. Raises OSError.
    """
    directory, base = os.path.split(path)
    owner = os.stat(path).st_uid
    pattern = re.compile(re.escape(base) + r"\.~(\d{1,9})~")
    found = []
    for name in os.listdir(directory):
        match = pattern.fullmatch(name)
        if not match or not match[1].isascii():
            continue
        status = os.stat(os.path.join(directory, name), follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and status.st_uid == owner:
            found.append((int(match[1]), os.path.join(directory, name)))
    return [name for _number, name in sorted(found)]


def of(path: str, descriptor: int) -> str | None:
    """Return the path of the overlay of which an open file is a version that we have kept, or None.

    path  of that file
    """
    match = _NAMED.fullmatch(path)
    return match[1] if match and _is_marked(path, descriptor) else None


def keep(path: str, descriptor: int) -> str | None:
    """Give the version before another name, and return that; None where there are no hard links.

    Raises OSError.
    """
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in new_names(path):
            try:
                replace.link(descriptor, os.path.basename(name), directory)
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno in replace.NO_LINKS:
                    return None
                raise
            mark(name, descriptor)
            return name
    finally:
        os.close(directory)
    raise AssertionError("there is always another number")


def new_names(path: str) -> Iterator[str]:
    """Yield names that a version may get: what is there already, somebody else's too, is passed over."""
    found = named(path)
    first = int(found[-1].rpartition(".~")[2][:-1]) if found else 0
    for number in itertools.count(first + 1):
        if not os.path.lexists(f"{path}.~{number}~"):
            yield f"{path}.~{number}~"


def tidy(path: str) -> None:
    """Take the names away that a killed update gave to an overlay that it did not replace."""
    status = os.stat(path)
    for name in named(path):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(name, follow_symlinks=False), status):
                os.unlink(name)


def mark(name: str, descriptor: int) -> None:
    """Note that an open file is a version that we keep, under a name."""
    try:
        with _writable(descriptor):
            os.setxattr(descriptor, _VERSION, b"")
    except OSError:
        with contextlib.suppress(OSError):
            _remove_note(name)
            note = replace.new_file(_note(name))
            with open(note, "wb") as file:
                file.write(_fingerprint(os.fstat(descriptor)))


def unmark(name: str, descriptor: int) -> None:
    """Take that note away."""
    _remove_note(name)
    with contextlib.suppress(OSError), _writable(descriptor):
        os.removexattr(descriptor, _VERSION)


@contextlib.contextmanager
def _writable(descriptor: int) -> Iterator[None]:
    """Give a context in which the mode of an open file lets its owner note something on it."""
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if mode & stat.S_IWUSR:
        yield
        return
    os.fchmod(descriptor, mode | stat.S_IWUSR)
    try:
        yield
    finally:
        os.fchmod(descriptor, mode)


def _note(name: str) -> str:
    directory, base = os.path.split(name)
    return os.path.join(directory, _NOTE + base)


def _remove_note(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(_note(name))


def _fingerprint(status: os.stat_result) -> bytes:
    """Return what tells a version from another file that has got its name since.

    Times in steps of four seconds: some file systems keep even ones only.
    """
    return f"{status.st_size} {int(status.st_mtime) // 4}\n".encode()


def _is_marked(name: str, descriptor: int) -> bool:
    """Return whether an open file is noted as a version, under its name."""
    try:
        os.getxattr(descriptor, _VERSION)
        return True
    except OSError as error:
        if error.errno == errno.ENODATA:
            return False
    try:
        note = os.open(_note(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        # What somebody else has put there would have the user's own file removed.
        own = os.fstat(note).st_uid == status.st_uid
        return own and os.read(note, 100) == _fingerprint(status)
    except OSError:
        return False
    finally:
        os.close(note)


def kept(path: str) -> list[str]:
    """Return those versions that we have kept, as far as files here can tell."""
    found = []
    for name in named(path):
        with contextlib.suppress(OSError):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if _is_marked(name, descriptor):
                    found.append(name)
            finally:
                os.close(descriptor)
    return found


def prune(path: str, versions: int) -> None:
    """Remove all but the last versions that we have kept; files of the user's own stay."""
    found = kept(path)
    for name in found[: max(0, len(found) - versions)]:
        with contextlib.suppress(OSError):
            os.unlink(name)
            _remove_note(name)


def let_go(name: str, descriptor: int) -> None:
    """Take away the name that keep() has given, when the update did not come to its end."""
    unmark(name, descriptor)
    with contextlib.suppress(OSError):
        if os.path.samestat(os.stat(name, follow_symlinks=False), os.fstat(descriptor)):
            os.unlink(name)
