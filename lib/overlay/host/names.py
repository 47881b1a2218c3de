"""Names of users and groups by number."""

import grp
import pwd

_groups = {}


def group_name(number):
    """Return a group's name, or its number as text when it has none here."""
    if number not in _groups:
        try:
            _groups[number] = grp.getgrgid(number).gr_name
        except (KeyError, OverflowError):
            _groups[number] = str(number)
    return _groups[number]


_names = {}


def user_name(number):
    """Return a user's name, or his number as text when he has none here."""
    if number not in _names:
        try:
            _names[number] = pwd.getpwuid(number).pw_name
        except (KeyError, OverflowError):
            _names[number] = str(number)
    return _names[number]
