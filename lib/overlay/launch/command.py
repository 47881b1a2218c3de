"""One command inside: a shell runs it, and says why where it cannot be run.

The engine's own answer would be its runtime's words, and 255. Here it is a shell's: 127 for what
is not there, 126 for what cannot be executed. Nothing is asked before the command has failed, and
then only what every shell has built in.
"""

from __future__ import annotations

from overlay.errors import printable, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# What changes the shell that it is typed in, and has no effect in a program of its own.
_OF_A_SHELL = (".", "alias", "cd", "export", "module", "set", "source", "unset")
_OF_CONDA = ("conda", "mamba", "micromamba")

# Where the bin directories of environments lie: of a venv, of conda, and of what conda has made.
_PREFIXES = ("/*", "/*/envs/*", "/ext3/*", "/ext3/*/envs/*", "/opt/*", "/opt/*/*", "/opt/*/envs/*")
_PLACES = " ".join(f'{prefix}/bin/"$1"' for prefix in _PREFIXES)

_SAY = 'say() { printf "%s: %s\\n" "$0" "$1" >&2; }; '

_NAME = (
    'command -v -- "$1" >/dev/null && exec "$@"; say "error: $1: command not found"; '
    f'found=; for f in {_PLACES}; do [ -x "$f" ] && found="$found $f"; done; '
    '[ "$found" ] && { say "hint: it is not on PATH; type the whole path:$found"; exit 127; }; '
)
_HERE = (
    '[ ! -f "$1" ] || { [ -x "$1" ] && say "hint: what lies here is named by its path: -- ./$1" || '
    'say "hint: a file of bash commands stands behind -f: -f $1"; exit 127; }; '
    'say "hint: programs of this machine are not seen inside,'
    " only the base image's and the overlays'\"; "
)

_PATH = (
    '[ -d "$1" ] && { say "error: $1 is a directory, not a command"; exit 126; }; '
    '[ -x "$1" ] || { [ -e "$1" ] && { say "error: $1 may not be executed"; '
    'say "hint: chmod +x $1; a file of bash commands stands behind -f: -f $1"; exit 126; }; '
    'say "error: there is no $1 inside"; '
)
_ABOVE = (
    'd=$1; until [ -d "$d" ]; do case $d in */*) d=${d%/*}; d=${d:-/} ;; *) d=. ;; esac; done; '
    'say "hint: see what there is: -- ls $d"; '
)

# A shell says of a file that it is not found when its interpreter is not. It ends then, but for the
# trap; bash has to be told to run that.
_EXECUTE = (
    '[ -z "$BASH_VERSION" ] || shopt -s execfail; '
    'trap \'IFS= read -r f <"$1"; '
    'case $f in "#!"*) say "hint: there is no ${f#??} inside, with which $1 begins" ;; '
    '*) say "hint: is $1 a program of another system? What it needs to start is not inside" ;; '
    'esac\' EXIT; exec "$@"'
)


def is_plain(command: Sequence[str]) -> bool:
    """Return whether a command means the same without the shell that says why it cannot be run."""
    return command[0] not in (*_OF_A_SHELL, *_OF_CONDA)


def command_line(command: Sequence[str], program: str, unseen: str = "") -> list[str]:
    """Return the words that run a command inside.

    program  whose name stands before what is said
    unseen   what is to be said of a command that this machine has and that is not seen inside
    """
    return ["/bin/sh", "-c", _SAY + _script(command, unseen), program, *command]


def _script(command: Sequence[str], unseen: str) -> str:
    """Return what the shell does."""
    first, typed = command[0], " ".join(map(quote, command))
    of_conda = first in _OF_CONDA and command[1:2] in (["activate"], ["deactivate"])
    if first in _OF_A_SHELL or of_conda:
        what = typed if of_conda else first
        if of_conda and command[2:]:
            # In a file of commands, too, a shell would have to read conda's own script before it.
            name = f"{'-p' if '/' in command[2] else '-n'} {quote(command[2])}"
            hint = f"one command in it: -- {first} run {name} COMMAND"
        else:
            line = f"bash -c {quote(typed + ' && COMMAND')}"
            hint = f"with other commands in a file: -f FILE; or: -- {line}"
        return (
            # Some systems have such programs, because POSIX wants them.
            '[ -x "/usr/bin/$1" ] && exec "$@"; '
            f"say {_text(f'error: {what} belongs to a shell, and ends with it')}; "
            f"say {_text(f'hint: {hint}')}; exit 127"
        )
    hint = unseen
    if " " in first and not hint:
        from overlay.launch.not_commands import split

        words = split(first)
        line = " ".join(map(quote, words))
        hint = f"{'a shell' if words[0] == 'bash' else 'each word apart'}: -- {line}"
    elif "=" in first and "/" not in first:
        hint = f"variables are set by env: -- env {typed}"
    elif "/" not in first and "." in first:
        from overlay.launch.not_commands import run_with

        words = run_with(first)
        if words[0] != "bash":
            hint = f"what runs it stands before it: -- {' '.join(map(quote, words))}"
    said = f"say {_text(f'hint: {hint}')}; " if hint else ""
    if "/" in first:
        return f"{_PATH}{said or _ABOVE}exit 127; }}; {_EXECUTE}"
    return f"{_NAME}{said or _HERE}exit 127"


def _text(words: str) -> str:
    """Return a text as a word for every shell, on one line."""
    return "'" + printable(words).replace("'", "'\\''") + "'"
