"""Values as people write them, and what they mean."""

import shlex

from overlay import size

_BOOLEANS = {
    **dict.fromkeys(("1", "yes", "true", "on"), True),
    **dict.fromkeys(("0", "no", "false", "off"), False),
}


def convert(setting, text, environ):
    """Return text as the type of a setting. Raises ValueError with a sentence."""
    kind = setting.kind
    if kind == "text":
        return expand(text, environ, unset="keep") or None
    if kind == "list":
        return _words(text)
    if kind == "paths":
        # A list of places loses those whose variable is not set: outside a job there is
        # no $SLURM_TMPDIR, and that is no mistake.
        found = (expand(word, environ, unset="none") for word in _words(text))
        return tuple(path for path in found if path)
    if kind == "names":
        if not text:
            raise ValueError("it is empty")
        if setting.section == "templates":
            return tuple(expand(word, environ) for word in _words(text))
        return expand(_path(text), environ)
    if kind == "path":
        return expand(_path(text), environ) if text else None
    text = text or setting.default
    if not text:
        return None
    if kind == "choice":
        if text not in setting.choices:
            raise ValueError(f"{text!r} is not one of {', '.join(setting.choices)}")
        return text
    if kind == "boolean":
        if text.lower() not in _BOOLEANS:
            raise ValueError(f"{text!r} is not yes or no")
        return _BOOLEANS[text.lower()]
    if kind == "mode":
        if text.strip("01234567") or int(text, 8) > 0o777:
            raise ValueError(f"{text!r} is not a mode such as 0600")
        if int(text, 8) & 0o600 != 0o600:
            raise ValueError(f"with {text!r} its owner could not use it; 0600 is the least")
        return int(text, 8)
    if kind == "percent":
        number = text.removesuffix("%").rstrip()
        if not (number.isascii() and number.isdecimal() and int(number) <= 100):
            raise ValueError(f"{text!r} is not a percentage from 0% to 100%")
        return int(number)
    if kind == "seconds":
        if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 3600):
            raise ValueError(f"{text!r} is not a number of seconds from 1 to 3600")
        return int(text)
    return size.parse_size(text) if kind == "size" else size.parse_count(text)


def _words(text):
    """Return the words of a list, quotes taken off. Raises ValueError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"quotes do not match ({error})") from None
    _no_comment(words)
    return tuple(words)


def _path(text):
    """Return a path that may stand in quotes, and have blanks without them. Raises ValueError."""
    if text[0] not in "'\"":
        _no_comment(text.split())
        return text
    words = _words(text)
    if len(words) != 1:
        raise ValueError("there is more than one path")
    return words[0]


def _no_comment(words):
    for word in words:
        if word.startswith(("#", ";")):
            raise ValueError(f"{word!r} begins a comment; those stand on lines of their own")


class Unset(ValueError):
    """A variable in a value is not set; that is seen only where the value is used."""


def expand(text, environ, *, unset="refuse"):
    """Return text with {user}, {home}, $VARIABLE and ${VARIABLE} replaced.

    unset  what a variable that is not set does: "refuse" raises ValueError, "none" gives None,
           and "keep" leaves it as it is written, and all in braces that is not known
    """
    if "{" not in text and "$" not in text and not text.startswith("~"):
        return text
    import re

    known = {"user": environ.get("USER") or environ.get("LOGNAME"), "home": environ.get("HOME")}
    if text == "~" or text.startswith("~/"):
        text = "{home}" + text[1:]

    def value(match):
        name = match[1] or match[2] or match[3]
        found = known.get(name) if match[1] else environ.get(name)
        if not found and unset == "keep":
            return match[0]
        if match[1] and name not in known:
            raise ValueError(f"{match[0]} is not known; {{user}} and {{home}} are")
        if not found:
            raise Unset(f"{match[0]} is not set")
        return found

    try:
        return re.sub(r"\{(\w+)\}|\$\{(\w+)\}|\$(\w+)", value, text)
    except Unset:
        if unset == "refuse":
            raise
        return None
