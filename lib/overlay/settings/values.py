"""Values as people write them, and what they mean: a Kind each."""

from __future__ import annotations

import os

from overlay import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_BOOLEANS = {
    **dict.fromkeys(("1", "yes", "true", "on"), True),
    **dict.fromkeys(("0", "no", "false", "off"), False),
}


class Kind:
    """How a kind of value is written, and what it stands for.

    name      what the manual calls it
    read      returns the value of (text, environ). Raises ValueError with a sentence
    is_list   whether it is a list of words, which may stand in several lines
    defaults  whether an empty text stands for the default, and for None where that is empty too
    """

    __slots__ = ("defaults", "is_list", "name", "read")

    def __init__(
        self,
        name: str,
        read: Callable[[str, Mapping[str, str]], object],
        *,
        is_list: bool = False,
        defaults: bool = False,
    ) -> None:
        self.name = name
        self.read = read
        self.is_list = is_list
        self.defaults = defaults


def one_of(*words: str) -> Kind:
    """Return the kind of a value that is one of some words."""

    def read(text: str, _environ: Mapping[str, str]) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return Kind(" or ".join(words), read, defaults=True)


def _text(text: str, environ: Mapping[str, str]) -> str | None:
    return expand(text, environ, unset="keep") or None


def _list(text: str, _environ: Mapping[str, str]) -> tuple[str, ...]:
    return words(text)


def _paths(text: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    # A list of places loses those whose variable is not set: outside a job there is
    # no $SLURM_TMPDIR, and that is not a mistake.
    found = (expand(word, environ, unset="none") for word in words(text))
    return tuple(path for path in found if path)


def _path(text: str, environ: Mapping[str, str]) -> str | None:
    return expand(_one_path(text), environ) if text else None


def _image(text: str, environ: Mapping[str, str]) -> str | None:
    if not text:
        raise ValueError("it is empty")
    return _path(text, environ)


def _sources(text: str, environ: Mapping[str, str]) -> tuple[str | None, ...]:
    if not text:
        raise ValueError("it is empty")
    return tuple(expand(word, environ) for word in words(text))


def _size(text: str, _environ: Mapping[str, str]) -> int:
    return size.parse_size(text)


def _count(text: str, _environ: Mapping[str, str]) -> int:
    return size.parse_count(text)


def _number(text: str, _environ: Mapping[str, str]) -> int:
    return parse_number(text)


def parse_number(text: str) -> int:
    """Return a number from 1 to 1000. Raises ValueError."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) <= 1000):
        raise ValueError(f"{text!r} is not a number from 1 to 1000")
    return int(text)


def _boolean(text: str, _environ: Mapping[str, str]) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError(f"{text!r} is not yes or no")
    return _BOOLEANS[text.lower()]


def _mode(text: str, _environ: Mapping[str, str]) -> int:
    if text.strip("01234567") or int(text, 8) > 0o777:
        raise ValueError(f"{text!r} is not a mode such as 0600")
    if int(text, 8) & 0o600 != 0o600:
        raise ValueError(f"with {text!r} its owner could not use it; 0600 is the least")
    return int(text, 8)


def _percent(text: str, _environ: Mapping[str, str]) -> int:
    number = text.removesuffix("%").rstrip()
    if not (number.isascii() and number.isdecimal() and int(number) <= 100):
        raise ValueError(f"{text!r} is not a percentage from 0% to 100%")
    return int(number)


def _seconds(text: str, _environ: Mapping[str, str]) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 3600):
        raise ValueError(f"{text!r} is not a number of seconds from 1 to 3600")
    return int(text)


def _days(text: str, _environ: Mapping[str, str]) -> int:
    number = text.removesuffix("d").rstrip()
    if not (number.isascii() and number.isdecimal() and 0 < int(number) <= 36500):
        raise ValueError(f"{text!r} is not a number of days such as 90d")
    return int(number)


TEXT = Kind("text", _text)
LIST = Kind("list", _list, is_list=True)
PATHS = Kind("paths", _paths, is_list=True)
PATH = Kind("path", _path)
# Where the site chooses the keys.
IMAGE = Kind("value", _image, is_list=True)
SOURCES = Kind("value", _sources, is_list=True)
SIZE = Kind("size", _size, defaults=True)
COUNT = Kind("count", _count, defaults=True)
NUMBER = Kind("number", _number, defaults=True)
BOOLEAN = Kind("boolean", _boolean, defaults=True)
MODE = Kind("mode", _mode, defaults=True)
PERCENT = Kind("percent", _percent, defaults=True)
SECONDS = Kind("seconds", _seconds, defaults=True)
DAYS = Kind("days", _days, defaults=True)


def words(text: str) -> tuple[str, ...]:
    """Return the words of a list, quotes taken off. Raises ValueError."""
    found = text.split() if _is_plain(text) else _quoted_words(text)
    _no_comment(found)
    return tuple(found)


def _is_plain(text: str) -> bool:
    """Return whether words have nothing but blanks and ends of lines between them."""
    return text.isascii() and not set(text).intersection("'\"\\\v\f\x1c\x1d\x1e\x1f")


def _quoted_words(text: str) -> list[str]:
    import shlex  # most lists do without

    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"quotes do not match ({error})") from None


def _one_path(text: str) -> str:
    """Return a path that may stand in quotes, and have blanks without them. Raises ValueError."""
    if text[0] not in "'\"":
        _no_comment(text.split())
        return text
    found = words(text)
    if len(found) != 1:
        raise ValueError("there is more than one path")
    return found[0]


def _no_comment(words: Iterable[str]) -> None:
    for word in words:
        if word.startswith(("#", ";")):
            raise ValueError(f"{word!r} begins a comment; those stand on lines of their own")


class Unset(ValueError):
    """A variable in a value is not set; that is seen only where the value is used."""


def expand(text: str, environ: Mapping[str, str], *, unset: str = "refuse") -> str | None:
    """Return text with {user}, {home}, {machine}, $VARIABLE and ${VARIABLE} replaced.

    unset  what a variable that is not set does: "refuse" raises ValueError, "none" gives None,
           and "keep" leaves it as it is written, and all in braces that is not known
    """
    if "{" not in text and "$" not in text and not text.startswith("~"):
        return text
    import re

    known = {
        "user": environ.get("USER") or environ.get("LOGNAME"),
        "home": environ.get("HOME"),
        "machine": os.uname().machine,
    }
    if text == "~" or text.startswith("~/"):
        text = "{home}" + text[1:]

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2] or match[3]
        found = known.get(name) if match[1] else environ.get(name)
        if not found and unset == "keep":
            return match[0]
        if match[1] and name not in known:
            raise ValueError(f"{match[0]} is not known; {{user}}, {{home}} and {{machine}} are")
        if not found:
            raise Unset(f"{match[0]} is not set")
        return found

    try:
        return re.sub(r"\{(\w+)\}|\$\{(\w+)\}|\$(\w+)", value, text)
    except Unset:
        if unset == "refuse":
            raise
        return None
