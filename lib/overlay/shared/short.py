"""The short way into a shared session: no settings read, nothing planned, nothing else imported.

Whoever has joined a session the long way notes where the words that they typed have led, with
all that this hung on: files of settings, overlays, base image, variables, the current
directory. Who types the same, with all of it unchanged, goes there at once. In doubt it is the
long way; that knows everything, and says what is wrong.
"""

from __future__ import annotations

import fcntl
import os

from overlay.shared import environment, join, key, place, record, scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Options that may stand before --, by how many words follow them; with others it is the long way.
_OPTIONS = {
    "--share": 0,
    "-q": 0,
    "--quiet": 0,
    "-o": 1,
    "--overlay": 1,
    "-c": 1,
    "--container": 1,
    "-b": 1,
    "--bind": 1,
    "-f": 1,
    "--file": 1,
    "--quick": 1,
}
_FILE = ("-f", "--file")
_QUIET = ("-q", "--quiet")

# Variables on which a plan hangs, beside those of settings and the engine's: see launch.facts.
_VARIABLES = (
    "HOME",
    "LOGNAME",
    "PATH",
    "PWD",
    "SLURM_TMPDIR",
    "TMPDIR",
    "USER",
    "XDG_CONFIG_HOME",
)


class Typed:
    """A command line, as far as it is simple.

    options  the words before --
    file     the file of commands, None when there is none
    command  the words after --, None when there are none
    quiet    whether errors only are printed
    """

    __slots__ = ("command", "file", "options", "quiet")

    def __init__(
        self, options: list[str], file: str | None, command: list[str] | None, quiet: bool
    ) -> None:
        self.options = options
        self.file = file
        self.command = command
        self.quiet = quiet


def scan(words: Sequence[str]) -> Typed | None:
    """Return what a command line of run-overlay says, None when it is not simple."""
    options, command = list(words), None
    if "--" in options:
        place_ = options.index("--")
        options, command = options[:place_], options[place_ + 1 :]
    file, quiet, rest = None, False, iter(options)
    for word in rest:
        more = _OPTIONS.get(word)
        if more is None:
            return None
        quiet = quiet or word in _QUIET
        if more:
            value = next(rest, "")
            if not value or (value.startswith("-") and not (word in _FILE and value == "-")):
                return None
            if word in _FILE:
                if file is not None:
                    return None
                file = value
    if (file is None) == (not command):
        return None
    if file is not None and command is not None:
        return None
    return Typed(options, file, command, quiet)


def _text(typed: Typed, environ: Mapping[str, str], root: str, cwd: str, who: scope.Scope) -> str:
    """Return the text of the key of a command line: what is typed, where, and by whom."""
    named = [
        f"{name}={value}"
        for name, value in sorted(environ.items())
        if name.startswith("OVERLAY_") or name in _VARIABLES
    ]
    own = key.caller(environ, who, key.precedences()[-1])
    return key.text([root, *typed.options, cwd, key.place_of(os.stat(".")), *named, *own])


def note(
    directory: int,
    words: Sequence[str],
    environ: Mapping[str, str],
    root: str,
    *,
    session: str,
    member: record.Record,
    contents: Iterable[str],
    places: Iterable[str],
    variables: Mapping[str, str | None],
    unset: Iterable[str],
    sets: Mapping[str, str],
    notices: Iterable[tuple[str, str]],
    who: scope.Scope,
) -> None:
    """Note where a command line has led.

    directory  the user's, open
    words      the command line
    root       the tree that the commands run from
    session    the name of the key of the session
    member     the session, in which the current directory was seen to be the same
    contents   files that are to be as they are
    places     paths that are to lead to what they lead to
    variables  name -> value of what the settings name; None: it is not set
    unset      names, and beginnings with a *, of variables that an engine would not get
    sets       those that it would get
    notices    (level, text) of what was said
    """
    typed = scan(words)
    if typed is None:
        return
    text = _text(typed, environ, root, os.getcwd(), who)
    data = record.dump(
        {
            "s": [session],
            "w": [f"{member.pid} {member.ticks}"],
            "k": [text],
            "c": [f"{path}\n{key.of_path(path)}" for path in contents],
            "p": [f"{path}\n{key.of_path(path, content=False)}" for path in places],
            "v": [
                name if value is None else f"{name}={value}" for name, value in variables.items()
            ],
            "u": unset,
            "x": [f"{name}={value}" for name, value in sets.items()],
            "n": [f"{level} {said}" for level, said in notices],
        }
    )
    place.put(directory, place.short_name(key.name_of(text)), data)
    unasked = None
    if "--share" not in typed.options:
        unasked = place.open_file(directory, place.UNASKED, make=True)
    if unasked is not None:
        os.close(unasked)


def take(program: str, words: Sequence[str], environ: Mapping[str, str], root: str) -> None:
    """Join the session that a command line leads to; return when it is not known, or in doubt."""
    typed = scan(words)
    path = environ.get("PATH", "")
    if typed is None or environ.get("OVERLAY_DEBUG"):
        return
    if not all(part.startswith("/") for part in path.split(":")):
        return  # the long way leaves some of it out
    directory = place.open_directory(place.usual(environ))
    if directory is None:
        return
    lease = None
    try:
        cwd = os.getcwd()
        who = scope.find(environ)
        text = _text(typed, environ, root, cwd, who)
        fields = _read(directory, text)
        if fields is None or not _unchanged(fields, environ):
            return
        name = place.lease_name(fields["s"][0])
        lease = place.locked(directory, name, fcntl.LOCK_SH, seconds=0.5)
        session = record.Record.read(place.read(lease)) if lease is not None else None
        if lease is None or session is None or not session.is_alive:
            return
        _enter(program, typed, fields, environ, cwd, session, lease)
    except (OSError, ValueError, KeyError, join.Refused):
        return
    finally:
        os.close(directory)
        if lease is not None:
            os.close(lease)


def _read(directory: int, text: str) -> dict[str, list[str]] | None:
    """Return what was noted of a command line, None when nothing was."""
    descriptor = place.open_file(directory, place.short_name(key.name_of(text)))
    if descriptor is None:
        return None
    try:
        fields = record.parse(place.read(descriptor))
    finally:
        os.close(descriptor)
    return fields if fields and fields.get("k") == [text] else None


def _unchanged(fields: Mapping[str, list[str]], environ: Mapping[str, str]) -> bool:
    """Return whether all is as it was that the way hangs on."""
    for letter, content in (("c", True), ("p", False)):
        for noted in fields.get(letter, ()):
            path, _end, was = noted.partition("\n")
            if key.of_path(path, content=content) != was:
                return False
    for noted in fields.get("v", ()):
        name, equals, value = noted.partition("=")
        if environ.get(name) != (value if equals else None):
            return False
    return True


def _enter(
    program: str,
    typed: Typed,
    fields: Mapping[str, list[str]],
    environ: Mapping[str, str],
    cwd: str,
    session: record.Record,
    lease: int,
) -> None:
    """Join, and become the command. Returns when that is for the long way; raises Refused."""
    files: dict[str, os.stat_result] = {}
    commands = direct = None
    if typed.command:
        from overlay.launch.command import command_line, is_plain

        first = typed.command[0]
        direct = typed.command if is_plain(typed.command) else None
        words, wanted = command_line(typed.command, program), first if "/" in first else "/bin/sh"
    else:
        from overlay.errors import OverlayError
        from overlay.launch.request import read_commands

        assert typed.file is not None
        try:
            commands = read_commands(typed.file, program)
        except OverlayError:
            return  # the long way says it
        words, wanted = ["bash", "--", typed.file], "bash"
        if commands.descriptor is not None:
            words[-1] = f"/dev/fd/{commands.descriptor}"
        elif commands.text is not None or ".." in typed.file.split("/"):
            return
        elif commands.regular:
            files[os.path.join(cwd, typed.file)] = os.stat(typed.file)
    made = environment.inside(
        environ,
        session,
        unset=_unset(fields.get("u", ()), environ),
        variables=dict(text.split("=", 1) for text in fields.get("x", ())),
        cwd=cwd,
    )
    door = join.open_door(session)
    seen = fields.get("w") == [f"{session.pid} {session.ticks}"]
    if files or not seen or ("/" in wanted and wanted != "/bin/sh" and os.path.exists(wanted)):
        join.try_it(door, cwd, files, wanted, made["PATH"])
    join.hand_on(lease)
    from overlay.output import Output

    output = Output(program, quiet=typed.quiet)
    for noted in fields.get("n", ()):
        level, _blank, said = noted.partition(" ")
        output.notice(said, level)
    if commands is not None:
        from overlay.launch.request import read_input

        read_input(commands, output.notice)
    join.become(door, cwd, words, made, direct)


def _unset(patterns: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Return those of some variables that patterns mean: names, or beginnings with a *."""
    names = {pattern for pattern in patterns if not pattern.endswith("*")}
    starts = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    return [name for name in environ if name in names or (starts and name.startswith(starts))]
