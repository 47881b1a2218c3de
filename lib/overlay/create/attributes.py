"""Extended attributes of sources that cannot be carried into a new overlay: told once, by name."""

from __future__ import annotations

import contextlib
import os

from overlay.errors import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BLOCK = 4096 - 36  # bytes for attributes in their block: linux/fs/ext4/xattr.h has its header
_NAMED = 3  # how many are told


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


def carry(source: bytes, target: bytes, without: Iterable[str]) -> None:
    """Set the attributes of a file of ours as another one has them, but for some.

    cp(1) gives the copy those that come first, until the file system takes no more.
    """
    with contextlib.suppress(OSError):
        for name in set(os.listxattr(source, follow_symlinks=False)).difference(without):
            with contextlib.suppress(OSError):
                value = os.getxattr(source, name, follow_symlinks=False)
                os.setxattr(target, name, value, follow_symlinks=False)


def remove(path: bytes, names: Iterable[str]) -> None:
    """Remove attributes of a file of ours."""
    for name in names:
        with contextlib.suppress(OSError):
            os.removexattr(path, name, follow_symlinks=False)
