"""The files that are written: commands, modulefiles for Lmod and Environment Modules, a kernel's start."""

from __future__ import annotations

import os
import shlex

from overlay.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# It stands in each, and by it the files are known that may be replaced and removed.
MARK = "written by expose-overlay"


def start() -> str:
    """Return what all commands of a directory read: how a session is entered at once."""
    path = os.path.join(os.path.dirname(__file__), "start")
    with open(path, encoding="utf-8") as file:
        return file.read()


def command(words: Sequence[str], path: str, *, name: str, start: str) -> str:
    """Return the script of a command.

    words  start a session, up to and with the --
    path   of the program inside
    name   what is noted of the session is called by it
    start  path of what start() returns
    """
    line = shlex.join([*words, path])
    return (
        f"#!/bin/sh\n# {MARK}; remove with expose-overlay --remove\n"
        f"overlay_name={name} overlay_program={shlex.quote(path)}\n"
        f'overlay_slowly() {{\n    exec {line} "$@"\n}}\n'
        f". {shlex.quote(start)}\n"
    )


def kernel_start(words: Sequence[str], kernel: Sequence[str]) -> str:
    """Return the script that starts a kernel; its last argument is the connection file.

    words   start a session, up to the options
    kernel  the command line inside, without that file
    Jupyter may put that anywhere, so its directory is bound.
    """
    line = shlex.join(words)
    return (
        f"#!/bin/sh\n# {MARK}; remove with expose-overlay --remove, or jupyter kernelspec uninstall\n"
        'file=$(readlink -f "$1") && [ -r "$file" ] || {\n'
        '    echo "kernel: error: there is no connection file $1" >&2\n'
        "    exit 66\n"
        "}\n"
        f'exec {line} -b "${{file%/*}}" -- {shlex.join(kernel)} "$file"\n'
    )


def tcl(name: str, bin_: str, summary: str) -> str:
    """Return a modulefile for Environment Modules, and for Lmod where it reads Tcl."""
    what = _tcl(summary)
    return (
        f"#%Module1.0\n# {MARK}; remove with expose-overlay --remove\n"
        f"module-whatis {what}\n"
        f"proc ModulesHelp {{ }} {{\n    puts stderr {what}\n}}\n"
        f"conflict {_tcl(name)}\n"
        f"prepend-path PATH {_tcl(bin_)}\n"
    )


def lua(name: str, bin_: str, summary: str) -> str:
    """Return a modulefile for Lmod."""
    what = _lua(summary)
    return (
        f"-- {MARK}; remove with expose-overlay --remove\n"
        f"whatis({what})\nhelp({what})\nconflict({_lua(name)})\nprepend_path({_lua('PATH')}, {_lua(bin_)})\n"
    )


def _tcl(text: str) -> str:
    """Return a word of Tcl(n): every character that could mean something is escaped."""
    return "".join(f"\\{char}" if char in '\\{}[]$" ;#' else char for char in printable(text))


def _lua(text: str) -> str:
    """Return a string of Lua."""
    escaped = printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
