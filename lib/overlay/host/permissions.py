"""Who may read a file, and what a file that is made of others may give to whom.

Mode bits and POSIX access control lists (acl(5)); the list of a file, and the one that a
directory gives to what is made in it, are extended attributes: see posix_acl_xattr.h of
Linux for their form.
"""

from __future__ import annotations

import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_ACCESS = "system.posix_acl_access"
_DEFAULT = "system.posix_acl_default"
_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")  # tag, permissions, number of a user or group
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ALL = 0o7


def _entries(file: int | str, name: str) -> list[tuple[int, int, int]]:
    """Return a list of access as (tag, permissions, number); empty when there is none."""
    try:
        data = os.getxattr(file, name)
        return list(_ENTRY.iter_unpack(data[_VERSION.size :]))
    except (OSError, struct.error):
        return []


def of_new_file(directory: int | str) -> int:
    """Return the mode that a new file in a directory gets: 0666 less the umask.

    directory  its path, or an open descriptor of it
    A default list of access of the directory counts instead of the umask.
    """
    default = {tag: bits for tag, bits, _number in _entries(directory, _DEFAULT)}
    if not default:
        umask = os.umask(0o077)
        os.umask(umask)
        return 0o666 & ~umask
    group = default.get(_MASK, default.get(_GROUP_OBJ, 0))
    mode = default.get(_USER_OBJ, 0) << 6 | group << 3 | default.get(_OTHER, 0)
    return mode & 0o666


class Access:
    """What a file gives to whom: what it says now, whatever becomes of it.

    file    its path, or an open descriptor; raises OSError
    named   ("user" or "group", number) -> permissions, of those who have an entry of their own
    opened  the same, what they would have if the group's bits of the mode were all set
    other   permissions of all others
    """

    def __init__(self, file: int | str) -> None:
        status = os.stat(file)
        entries = _entries(file, _ACCESS)
        mask = next((bits for tag, bits, _number in entries if tag == _MASK), _ALL)
        self.opened = {
            ("user", status.st_uid): status.st_mode >> 6 & _ALL,
            ("group", status.st_gid): _ALL,
        }
        self.named = {**self.opened, ("group", status.st_gid): status.st_mode >> 3 & _ALL}
        self.other = status.st_mode & _ALL
        for tag, bits, _number in entries:
            if tag == _GROUP_OBJ:
                self.opened["group", status.st_gid] = bits
                self.named["group", status.st_gid] = bits & mask
        for tag, bits, number in entries:
            if tag in (_USER, _GROUP):
                key = "user" if tag == _USER else "group", number
                self.opened[key] = self.opened.get(key, 0) | bits
                self.named[key] = self.named.get(key, 0) | bits & mask

    @property
    def everybody(self) -> int:
        """What nobody is denied."""
        found = self.other
        for bits in self.named.values():
            found &= bits
        return found


def most(made_of: Iterable[Access], new: int) -> int:
    """Return the mode that a file may have, so that nobody reads it who may not read the rest.

    made_of  the Access of each file that it was made of
    new      its descriptor, with its group and list of access as they are to be
    The bits of the owner are all there: they have made it. The group's bits of a mode count for
    all who have an entry in its list. Who has an entry in a file that it was made of, and
    none here, is one of the others.
    """
    target, mine = Access(new), ("user", os.fstat(new).st_uid)
    group, other = _ALL, _ALL
    for source in made_of:
        rest = _ALL
        for key, bits in source.named.items():
            if key not in target.named:
                rest &= bits
        other &= source.other & rest
        for key, opened in target.opened.items():
            if key != mine:
                given = source.named.get(key, source.everybody) & rest
                group &= given | _ALL & ~opened
    return 0o700 | group << 3 | other


def take_list(old: int, new: int) -> None:
    """Give a file the list of access of another, with all shut that chmod(2) opens.

    old, new  open descriptors
    """
    try:
        data = os.getxattr(old, _ACCESS)
    except OSError:
        data = b""
    try:
        if not data:  # what its directory has given it
            os.removexattr(new, _ACCESS)
            return
        shut = data[: _VERSION.size]
        for tag, bits, number in _ENTRY.iter_unpack(data[_VERSION.size :]):
            shut += _ENTRY.pack(tag, 0 if tag in (_MASK, _OTHER) else bits, number)
        os.setxattr(new, _ACCESS, shut)
    except (OSError, struct.error):
        pass  # there are no such lists here: what is counts


def is_list(name: str) -> bool:
    """Return whether an extended attribute is a file's list of access of this kind."""
    return name == _ACCESS
