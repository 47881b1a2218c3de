"""What an activation does, found out once by a real bash(1) inside."""

from __future__ import annotations

from overlay.environment.activation import Activation, is_list, is_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Its parameters are what is to be activated, the last first; on descriptor 3 it prints variables,
# each with a NUL behind it, and lines that begin with =, which no variable's name does. An
# activation may end the shell: then the rest is missing, and its end is not noted.
_SCRIPT = r"""
exec 3>&1 1>&2
overlay_say() { printf '=%s\0' "$@" >&3; }
overlay_dump() { overlay_say "$1"; cat /proc/self/environ >&3; }
overlay_count() { { declare -F; alias; } | grep -c -v -e ' overlay_' -e ' deactivate$'; }
overlay_end() { overlay_dump after; overlay_say "lost $(( $(overlay_count) - overlay_before ))"; }
overlay_conda() {
    export CONDA_PREFIX=$1 CONDA_DEFAULT_ENV=${1##*/} PATH=$1/bin:$PATH
    local script
    for script in "$1"/etc/conda/activate.d/*.sh; do
        [ ! -f "$script" ] || . "$script"
    done
}
overlay_ready() {
    if [ -f "$1" ]; then . "$1"
    elif [ -f "$1/pyvenv.cfg" ] && [ -f "$1/bin/activate" ]; then
        . "$1/bin/activate"
        # One that was moved names the place where it was made.
        if [ "${VIRTUAL_ENV-}" != "$1" ]; then
            export PATH=${PATH#"${VIRTUAL_ENV-}/bin:"} VIRTUAL_ENV=$1
        fi
    elif [ -d "$1/conda-meta" ]; then overlay_conda "$1"
    elif [ -f "$1/bin/activate" ]; then . "$1/bin/activate"
    else set -- "$1" "$1"/*/DESCRIPTION
        if [ -f "$2" ]; then export R_LIBS_SITE=$1${R_LIBS_SITE:+:$R_LIBS_SITE}; fi
    fi
}
overlay_first() {
    [ -d "$1/bin" ] || return 0
    case $PATH: in "$1/bin":*) ;; *) export PATH=$1/bin:$PATH ;; esac
}
overlay_is_text() {
    local first
    IFS= read -r first <"$1"
    case $first in '#!'*csh* | '#!'*fish*) return 1 ;; '#!'*[/\ ]*sh*) ;; '#!'*) return 1 ;; esac
    [ "$(head -c 4096 "$1" | wc -c)" -eq "$(head -c 4096 "$1" | tr -d '\000' | wc -c)" ]
}
overlay_known() {
    if [ ! -d "$1" ]; then [ -f "$1" ] && overlay_is_text "$1"; return; fi
    set -- "$1" "$1"/*/DESCRIPTION
    [ -d "$1/bin" ] || [ -d "$1/conda-meta" ] || [ -f "$2" ]
}
overlay_before=$(overlay_count)
overlay_dump before
trap overlay_end EXIT
for overlay_one; do
    if [ ! -e "$overlay_one" ]; then overlay_say "missing $overlay_one"; continue; fi
    if ! overlay_known "$overlay_one"; then overlay_say "nothing $overlay_one"; continue; fi
    overlay_say "begin $overlay_one"
    overlay_ready "$overlay_one"
    set +eu
    overlay_first "$overlay_one"
    overlay_say "end $overlay_one"
done
trap - EXIT
overlay_end
"""

# What every shell changes of itself, and what a prompt is made of: no business of programs.
_OF_SHELLS = frozenset(
    (
        "_",
        "BASH_ENV",
        "ENV",
        "HISTFILE",
        "OLDPWD",
        "PROMPT_COMMAND",
        "PS1",
        "PS2",
        "PS4",
        "PWD",
        "SHLVL",
    )
)


class Outcome:
    """What came of it.

    activation  the Activation
    missing     of what was to be activated, what is not there
    nothing     what is there, and is neither an environment nor a file for a shell to source
    ended       that whose activation has ended the shell, None when none has
    lost        how many functions and aliases it makes: they cannot be carried
    """

    __slots__ = ("activation", "ended", "lost", "missing", "nothing")

    def __init__(
        self,
        activation: Activation,
        *,
        missing: list[str],
        nothing: list[str],
        ended: str | None,
        lost: int,
    ) -> None:
        self.activation = activation
        self.missing = missing
        self.nothing = nothing
        self.ended = ended
        self.lost = lost


def words(directories: Sequence[str]) -> list[str]:
    """Return the command line that finds out what environments set, run inside.

    directories  or files that a shell sources, the first to come first in PATH
    """
    return ["bash", "--noprofile", "--norc", "-c", _SCRIPT, "overlay", *reversed(directories)]


def read(output: bytes, directories: Sequence[str], chosen: Mapping[str, str]) -> Outcome | None:
    """Return the Outcome that the output of words() tells; None when it is not whole.

    chosen  variables that are set besides, by name
    """
    found: dict[str, dict[str, str]] = {"before": {}, "after": {}}
    part: dict[str, str] = {}
    missing, nothing, begun, lost = [], [], [], None
    for piece in output.split(b"\0"):
        text = piece.decode(errors="surrogateescape")
        if not text.startswith("="):
            name, equals, value = text.partition("=")
            if equals:
                part[name] = value
            continue
        what, _space, rest = text[1:].partition(" ")
        part = found.get(what, {})
        if what == "missing":
            missing.append(rest)
        elif what == "nothing":
            nothing.append(rest)
        elif what == "begin":
            begun.append(rest)
        elif what == "end" and rest in begun:
            begun.remove(rest)
        elif what == "lost" and rest.lstrip("-").isdecimal():
            lost = max(0, int(rest))
    if lost is None:
        return None
    activation = _difference(found["before"], found["after"])
    activation.values.update(chosen)
    activation.directories = [one for one in directories if one not in missing + nothing]
    ended = begun[0] if begun else None
    return Outcome(activation, missing=missing, nothing=nothing, ended=ended, lost=lost)


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> Activation:
    """Return the Activation that makes of one environment another."""
    made = Activation()
    for name, value in after.items():
        if before.get(name) == value or name in _OF_SHELLS or not is_name(name):
            continue
        if not is_list(name):
            made.values[name] = value
            continue
        old = before.get(name, "").split(":")
        new = [word for word in value.split(":") if word and word not in old]
        if new:
            made.lists[name] = new
    return made
