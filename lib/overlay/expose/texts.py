"""The files that are written: commands, modulefiles for Lmod and Environment Modules, a kernel's start."""

from __future__ import annotations

import os
import shlex
import textwrap

from overlay.errors import printable, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# It stands in each, and by it the files are known that may be replaced and removed.
MARK = "written by expose-overlay"

# What all commands of a directory read.
START = ".start"

# What stands for the connection file in the command line of a kernel, as Jupyter has it.
CONNECTION = "{connection_file}"

_MOST_NAMED = 8  # commands in the line that is searched


def start() -> str:
    """Return what all commands of a directory read: how a session is entered at once."""
    path = os.path.join(os.path.dirname(__file__), "start")
    with open(path, encoding="utf-8") as file:
        return file.read()


def command(
    words: Sequence[str],
    path: str,
    *,
    name: str,
    directory: str,
    overlays: Sequence[str],
    ids: Sequence[str],
) -> str:
    """Return the script of a command.

    words      start a session, up to and with the --
    path       of the program inside
    name       what is noted of the session is called by it
    directory  in which what start() returns lies
    overlays   their paths
    ids        by which a session is known to have all of them; empty where it could not be
    """
    inside = f'overlay_is_inside {" ".join(ids)} && exec "$overlay_program" "$@"\n    '
    needed = " ".join(map(shlex.quote, [words[0], *overlays]))
    again = f"make the commands anew with what is there now: expose-overlay -o OVERLAY {quote(directory)}"
    gone = f"{os.path.join(directory, START)} is not there: were the commands moved?"
    return (
        f"#!/bin/sh\n# {MARK}; remove with expose-overlay --remove\n"
        f"overlay_name={name} overlay_program={shlex.quote(path)}\n"
        f"overlay_again={shlex.quote(again)}\n"
        f"overlay_slowly() {{\n    {inside if ids else ''}overlay_need {needed}\n"
        f'    exec {shlex.join([*words, path])} "$@"\n}}\n'
        f"overlay_tell() {{\n"
        f'    printf "%s: %s\\n" "${{overlay_program##*/}}" "error: $1" "${{overlay_program##*/}}"'
        f' "hint: $2" >&2\n    exit 66\n}}\n'
        f"overlay_start={shlex.quote(os.path.join(directory, START))}\n"
        f'[ -r "$overlay_start" ] || overlay_tell {shlex.quote(gone)} "$overlay_again"\n'
        f'. "$overlay_start"\n'
    )


def kernel_start(words: Sequence[str], kernel: Sequence[str]) -> str:
    """Return the script that starts a kernel; its argument is the connection file.

    words   start a session, up to the options
    kernel  the command line inside, with CONNECTION where that file is named
    Jupyter may put that anywhere, so its directory is bound.
    """
    line = shlex.join(words)
    inside = " ".join(map(_with_file, kernel))
    return (
        f"#!/bin/sh\n# {MARK}; remove with expose-overlay --remove, or jupyter kernelspec uninstall\n"
        'file=$(readlink -f "$1") && [ -r "$file" ] || {\n'
        '    echo "kernel: error: there is no connection file $1" >&2\n'
        "    exit 66\n"
        "}\n"
        f'exec {line} -b "${{file%/*}}" -- {inside}\n'
    )


def _with_file(word: str) -> str:
    """Return a word of a kernel's command line for a shell, which knows the connection file."""
    parts = [shlex.quote(part) if part else "" for part in word.split(CONNECTION)]
    return '"$file"'.join(parts) or "''"


class About:
    """What a module says of itself.

    name      of the module
    programs  names of the commands
    overlays  absolute paths
    made      how these came to be, a line each, the oldest first
    """

    __slots__ = ("made", "name", "overlays", "programs")

    def __init__(
        self, name: str, programs: Iterable[str], overlays: Sequence[str], made: Sequence[str]
    ) -> None:
        self.name = name
        self.programs = sorted(programs)
        self.overlays = overlays
        self.made = made

    @property
    def others(self) -> str:
        """The name that all versions of the module have, of which one is loaded at a time."""
        return os.path.dirname(self.name) or self.name

    def whatis(self) -> list[str]:
        """Return the lines that are searched."""
        more = " ..." if len(self.programs) > _MOST_NAMED else ""
        return [
            f"Name: {self.name}",
            f"Description: {', '.join(self.programs[:_MOST_NAMED])}{more}:"
            f" programs of {', '.join(map(os.path.basename, self.overlays))}",
            *(f"Made: {line}" for line in self.made[-1:]),
        ]

    def help(self) -> list[str]:
        """Return the lines of the help."""
        lines = [
            f"{len(self.programs)} commands, which run in {' and '.join(self.overlays)}:",
            *textwrap.wrap(
                " ".join(self.programs), 76, initial_indent="  ", subsequent_indent="  "
            ),
        ]
        if self.made:
            lines += ["How it was made:", *(f"  {line}" for line in self.made)]
        return lines


def tcl(about: About, bin_: str) -> str:
    """Return a modulefile for Environment Modules, and for Lmod where it reads Tcl.

    bin_  the directory for PATH
    """
    whatis = "".join(f"module-whatis {_tcl(printable(line))}\n" for line in about.whatis())
    help_ = "".join(f"    puts stderr {_tcl(printable(line))}\n" for line in about.help())
    return (
        f"#%Module1.0\n# {MARK}; remove with expose-overlay --remove\n"
        f"{whatis}proc ModulesHelp {{ }} {{\n{help_}}}\n"
        f"conflict {_tcl(about.others)}\n"
        f"prepend-path PATH {_tcl(bin_)}\n"
    )


def lua(about: About, bin_: str) -> str:
    """Return the same for Lmod."""
    whatis = "".join(f"whatis({_lua(printable(line))})\n" for line in about.whatis())
    help_ = "\n".join(map(printable, about.help()))
    return (
        f"-- {MARK}; remove with expose-overlay --remove\n"
        f"{whatis}help({_lua(help_)})\n"
        f"conflict({_lua(about.others)})\nprepend_path({_lua('PATH')}, {_lua(bin_)})\n"
    )


def _tcl(text: str) -> str:
    """Return a word of Tcl(n): every character that could mean something is escaped."""
    return "".join(f"\\{char}" if char in '\\{}[]$" ;#' else char for char in text) or "{}"


def _lua(text: str) -> str:
    """Return a string of Lua."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
