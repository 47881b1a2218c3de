"""Names of users and groups by number."""

from __future__ import annotations

import grp
import pwd

_groups: dict[int, str] = {}


def group_name(number: int) -> str:
    """Return a group's name, or its number as text when it has none here."""
    if number not in _groups:
        try:
            _groups[number] = grp.getgrgid(number).gr_name
        except (KeyError, OverflowError):
            _groups[number] = str(number)
    return _groups[number]


_names: dict[int, str] = {}


def user_name(number: int) -> str:
    """Return a user's name, or their number as text when they have none here."""
    if number not in _names:
        try:
            _names[number] = pwd.getpwuid(number).pw_name
        except (KeyError, OverflowError):
            _names[number] = str(number)
    return _names[number]
