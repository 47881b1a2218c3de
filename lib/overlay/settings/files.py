"""Files of settings: where they are, and what is wrong in which line."""

from __future__ import annotations

import configparser
import os

from overlay.errors import CONFIGURATION, OverlayError, quote, reason
from overlay.host import trust
from overlay.settings import table
from overlay.settings.values import Unset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from overlay.settings.config import Config


_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Origin:
    """Where a value was set: a file and its line, the environment, or nowhere."""

    __slots__ = ("file", "line", "word")

    def __init__(self, word: str, file: str | None = None, line: int | None = None) -> None:
        self.word = word
        self.file = file
        self.line = line

    def __str__(self) -> str:
        if self.file is None:
            return self.word
        return f"{quote(self.file)}, line {self.line}" if self.line else quote(self.file)


def site_file(root: str) -> str:
    """Return the site's file for a tree.

    An installed tree is PREFIX/VERSION; PREFIX/etc, when it has settings, belongs to the
    site and outlives every version. In a package of the distribution it is a link to a directory
    of /etc, which is what it is called in messages then. A clone, or a version alone, has
    etc/overlay.ini. What pip has installed has it among its own files, which the next version
    replaces, unless the site has made settings in PREFIX/etc.
    """
    kept = os.path.join(os.path.dirname(root), "etc")
    if os.path.isfile(os.path.join(root, ".installed")) and _has_settings(kept):
        return os.path.join(os.path.realpath(kept), "overlay.ini")
    own = os.path.join(root, "etc")
    return os.path.join(own if _has_settings(own) else _PACKAGE, "overlay.ini")


def _has_settings(directory: str) -> bool:
    """Return whether settings are in a directory: overlay.ini, or others in overlay.d alone."""
    return os.path.isfile(os.path.join(directory, "overlay.ini")) or os.path.isdir(
        os.path.join(directory, "overlay.d")
    )


def tree() -> str:
    """Return the tree that this package is in, from where pip has put it, too."""
    place = os.path.dirname(_PACKAGE)
    if os.path.basename(place) == "lib":
        return os.path.dirname(place)
    if os.path.basename(place) in ("site-packages", "dist-packages"):  # of PREFIX/lib/pythonX.Y
        return os.path.dirname(os.path.dirname(os.path.dirname(place)))
    return place  # pip install --target


def user_file(environ: Mapping[str, str]) -> str | None:
    """Return the path of the user's own overlay.ini (XDG base directories), or None."""
    base = environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(base):  # a relative one does not count, says their specification
        base = os.path.join(environ.get("HOME", ""), ".config")
    return os.path.join(base, "overlay", "overlay.ini") if os.path.isabs(base) else None


def read_file(
    config: Config, path: str, own: bool = False, owners: Collection[int] | None = None
) -> None:
    """Put the values of one file into config, and check them.

    own     whether it is the user's, who may not set what is locked: that is passed over
    owners  the uids whose file is obeyed, another is left out; None: whoever's
    Raises OverlayError (CONFIGURATION) with file, line and what is allowed.
    """
    try:
        content = _text(trust.read(path, owners))
    except trust.Distrusted as why:
        config.left_out.append(f"the settings in {quote(path)} are left out: {why}")
        return
    except OSError as error:
        raise OverlayError(
            f"cannot read {quote(path)}: {reason(error)}", status=CONFIGURATION
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _wrong(path, line, "it is not UTF-8 text") from None
    if not own:
        config.files.append(path)
    places = _places(path, content.split("\n"))
    parser = _parsed(path, content)
    for (section, key), line in places.items():
        text = parser.get(section, key)
        name = f"{section}.{key}"
        setting = table.setting(name)
        if setting is None:
            keys = [setting.key for setting in table.SETTINGS if setting.section == section]
            raise _wrong(
                path, line, f"unknown key {quote(key)} in [{section}]", nearest(key, keys, "{}")
            )
        if own and config.lock(name):
            continue
        if setting.kind.is_list:
            text = text.replace("\n", " ")
        try:
            value = setting.convert(text, config.environ)
        except Unset:
            pass
        except ValueError as error:
            hint = "what is indented below a key belongs to its value" if "\n" in text else None
            raise _wrong(path, line, f"[{section}] {key}: {error}", hint) from None
        origin = Origin("file", path, line)
        if name == "site.lock":  # locks add up: no file takes away those of another
            for word in value:
                config.locks.setdefault(word, origin)
        config.put(name, text, origin)


def _text(content: bytes) -> str:
    """Return the bytes of a file as text with lines that end in "\\n". Raises UnicodeDecodeError."""
    # The codec that leaves out a byte order mark would be one more module to import.
    text = content.decode().removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


class _Parser(configparser.ConfigParser):
    """A ConfigParser that leaves keys as they are written."""

    def optionxform(self, optionstr: str) -> str:
        """Return a key as it is."""
        return optionstr


def _parsed(path: str, content: str) -> configparser.ConfigParser:
    """Return the ConfigParser of a file that _places() has found to be in order."""
    parser = _Parser(
        interpolation=None,
        delimiters=("=",),
        comment_prefixes=("#", ";"),
        default_section="",
    )
    try:
        parser.read_string(content, path)
    except configparser.Error as error:
        line = getattr(error, "lineno", None) or 0
        raise _wrong(path, line, str(error).splitlines()[0]) from None
    return parser


def _places(path: str, lines: Iterable[str]) -> dict[tuple[str, str], int]:
    """Return where a file sets what, as a dictionary from (section, key) to a line's number.

    configparser tells no lines of what it has read, and passes over what stands behind a
    [section]: that, and what it would refuse, is refused here, with its line. Raises
    OverlayError (CONFIGURATION).
    """
    places: dict[tuple[str, str], int] = {}
    sections: set[str] = set()
    section = place = None  # of the key whose value may go on in the next line
    indent = 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if "\0" in line:
            raise _wrong(path, number, "a NUL byte stands here")
        if not text or text[0] in "#;":
            continue
        elif place and len(line) - len(line.lstrip()) > indent:
            continue  # goes on with the value of the key above
        elif text[0] == "[":
            section, place = _section(path, number, text), None
            if section in sections:
                raise _wrong(path, number, f"[{section}] stands here a second time")
            sections.add(section)
        elif section is None:
            raise _wrong(path, number, "a key stands before the first [section]")
        else:
            key, equals, _value = (part.strip() for part in text.partition("="))
            if not key or not equals:
                raise _wrong(path, number, "it is not `key = value`")
            place, indent = (section, key), len(line) - len(line.lstrip())
            if place in places:
                raise _wrong(path, number, f"{quote(key)} stands in [{section}] a second time")
            places[place] = number
    return places


def _section(path: str, number: int, text: str) -> str:
    """Return the section that a line begins. Raises OverlayError (CONFIGURATION)."""
    section, bracket, rest = text[1:].partition("]")
    if not bracket or not section:
        raise _wrong(path, number, "it is not `[section]`")
    if section not in table.SECTIONS:
        hint = nearest(section, table.SECTIONS, "[{}]")
        raise _wrong(path, number, f"unknown section [{section}]", hint)
    if rest:
        hint = "keys and comments stand on lines of their own"
        raise _wrong(path, number, f"something stands behind [{section}]", hint)
    return section


def _wrong(path: str, line: int, what: str, hint: str | None = None) -> OverlayError:
    """Return the error for a line of a file."""
    return OverlayError(f"{quote(path)}, line {line}: {what}", status=CONFIGURATION, hint=hint)


def nearest(word: str, known: Iterable[str], form: str) -> str:
    """Return a hint with the known word that is most like the wrong one."""
    import difflib

    found = difflib.get_close_matches(word, known, 1, 0.5)
    if found:
        return f"did you mean {form.format(found[0])}?"
    return "known: " + ", ".join(form.format(name) for name in known)
