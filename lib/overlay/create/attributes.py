"""Extended attributes of sources that cannot be carried into a new overlay: told once, by name."""

from __future__ import annotations

import contextlib
import os
import stat

from overlay.errors import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_BLOCK = 4096 - 36  # bytes for attributes in their block: linux/fs/ext4/xattr.h has its header
_NAMED = 3  # how many are told
_THE_HOST_S = {"security.selinux"}  # set anew wherever a file is made


class LeftOut:
    """The attributes that are left out, counted; the first ones by name."""

    def __init__(self) -> None:
        self._count = 0
        self._first: list[str] = []
        self.is_whole = True  # False: more of them may be

    def add(self, attribute: str, path: str) -> None:
        """Note that a file goes without an attribute."""
        self._count += 1
        if len(self._first) < _NAMED:
            self._first.append(f"{quote(attribute)} of {quote(path)}")

    def words(self) -> str | None:
        """Return the line for the user; None when there is nothing to tell."""
        if not self._count:
            return None
        more = self._count - len(self._first)
        rest = f" and {more:,} more" if more else "" if self.is_whole else ", perhaps of others too"
        named = ", ".join(self._first) + rest
        return f"attributes of files that cannot be carried are left out: {named}"


def space(attributes: Mapping[str, int]) -> int:
    """Return the bytes that attributes take in ext3, at most; from their names and sizes."""
    # Each has a header of 16 bytes; name and value are rounded up to 4.
    return sum(22 + len(name) + length for name, length in attributes.items())


def too_large(attributes: Mapping[str, int]) -> list[str]:
    """Return the names of attributes, given with their sizes, that ext3 has no room for.

    As many as possible stay: the smallest.
    """
    taken, found = 0, []
    for name in sorted(attributes, key=lambda name: (attributes[name], name)):
        taken += space({name: attributes[name]})
        if taken > _BLOCK:
            found.append(name)
    return found


def complete(tree: str, copy: str) -> Iterator[tuple[str, str]]:
    """Give a copy of a tree the attributes that it lacks, as many as can be set, the smallest first.

    cp(1) says nothing of those that it could not set. Yields (path below the top, attribute) for
    each that cannot be carried. What may not be read is left alone.
    """
    for path in _walk(tree):
        below = os.path.relpath(path, tree)
        copied = os.path.join(copy, below)
        with contextlib.suppress(OSError):
            names = set(os.listxattr(path, follow_symlinks=False)) - _THE_HOST_S
            names -= set(os.listxattr(copied, follow_symlinks=False)) if names else set()
            yield from ((below, name) for name in _add(path, copied, names))


def _walk(tree: str) -> Iterator[str]:
    """Yield a directory, and the paths of all below it."""
    pending = [tree]
    while pending:
        path = pending.pop()
        yield path
        if path == tree or (os.path.isdir(path) and not os.path.islink(path)):
            with contextlib.suppress(OSError), os.scandir(path) as entries:
                pending += [entry.path for entry in entries]


def _add(path: str, copied: str, names: Iterable[str]) -> list[str]:
    """Set attributes of one file on another, which is the caller's; return those that could not be."""
    values, refused = {}, []
    for name in names:
        try:
            values[name] = os.getxattr(path, name, follow_symlinks=False)
        except OSError:
            refused.append(name)
    with writable(copied) if values else contextlib.nullcontext():
        for name in sorted(values, key=lambda name: (len(values[name]), name)):
            try:
                os.setxattr(copied, name, values[name], follow_symlinks=False)
            except OSError:
                refused.append(name)
    return sorted(refused)


@contextlib.contextmanager
def writable(path: str | bytes) -> Iterator[None]:
    """Let attributes of a file of ours be set, or names in a directory, whatever its mode says.

    Whoever may not write a file may not set them, its owner neither.
    """
    mode = os.lstat(path).st_mode
    needed = stat.S_IRWXU if stat.S_ISDIR(mode) else stat.S_IWUSR
    closed = mode & needed != needed and not stat.S_ISLNK(mode)
    if closed:
        os.chmod(path, stat.S_IMODE(mode) | needed)
    try:
        yield
    finally:
        if closed:
            os.chmod(path, stat.S_IMODE(mode))


def carry(source: bytes, target: bytes, without: Iterable[str]) -> None:
    """Set the attributes of a file of ours as another one has them, but for some.

    cp(1) gives the copy those that come first, until the file system takes no more.
    """
    with contextlib.suppress(OSError):
        names = set(os.listxattr(source, follow_symlinks=False)).difference(without)
        _add(os.fsdecode(source), os.fsdecode(target), names)


def remove(path: bytes, names: Iterable[str]) -> None:
    """Remove attributes of a file of ours."""
    with contextlib.suppress(OSError), writable(path):
        for name in names:
            with contextlib.suppress(OSError):
                os.removexattr(path, name, follow_symlinks=False)
