"""Names of users and groups by number."""

from __future__ import annotations

import grp
import pwd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_users: dict[int, str] = {}
_groups: dict[int, str] = {}


def user_name(number: int) -> str:
    """Return a user's name, or their number as text when they have none here."""
    return _looked_up(number, _users, lambda number: pwd.getpwuid(number).pw_name)


def group_name(number: int) -> str:
    """Return a group's name, or its number as text when it has none here."""
    return _looked_up(number, _groups, lambda number: grp.getgrgid(number).gr_name)


def _looked_up(number: int, known: dict[int, str], ask: Callable[[int], str]) -> str:
    """Return a name that is known, or asked for once: many a site has a server for that."""
    if number not in known:
        try:
            known[number] = ask(number)
        except (KeyError, OverflowError):
            known[number] = str(number)
    return known[number]
