"""The environment of a command that joins: what it would have got from an engine of its own.

The engine clears all, sources what image and overlays have, lays that over what the host has,
and over both what APPTAINERENV_* say. What it has sourced is recorded once; the rest is done
here. Measured with Apptainer 1.4.5; nothing is sourced.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from overlay.shared.record import Record

# The first of two that say the same name is the stronger.
_OVERRIDES = ("APPTAINERENV_", "SINGULARITYENV_")
ENGINES_OWN = ("APPTAINER_", "SINGULARITY_")  # what it obeys, and does not hand on

# Of the host they are not handed on, whatever is inside.
_NOT_HANDED_ON = ("PATH", "LD_LIBRARY_PATH", "PS1", "PWD", "HOME")


def is_override(name: str) -> bool:
    """Return whether a variable of the caller's sets another one inside."""
    return name.startswith(_OVERRIDES)


def inside(
    environ: Mapping[str, str],
    record: Record,
    *,
    unset: Iterable[str],
    variables: Mapping[str, str],
    cwd: str,
    shell: bool = False,
) -> dict[str, str]:
    """Return the environment of a command.

    environ    the caller's
    unset      those of it that an engine would not get
    variables  those that it would get beside it
    shell      whether it is the engine's own shell
    """
    caller = {**environ, **variables}
    for name in unset:
        if name not in variables:
            caller.pop(name, None)
    overrides: dict[str, str] = {}
    for prefix in _OVERRIDES:
        for name, value in caller.items():
            if name.startswith(prefix):
                overrides.setdefault(name[len(prefix) :], value)
    made = {
        name: value
        for name, value in caller.items()
        if not name.startswith((*_OVERRIDES, *ENGINES_OWN)) and name not in _NOT_HANDED_ON
    }
    prompt = made.pop("PROMPT_COMMAND", None)
    for name, value in record.environment.items():
        if value or not made.get(name):
            made[name] = value
        else:
            del made[name]  # what they set empty, and the host does not, is not set
    path = overrides.pop("PATH", made.get("PATH", ""))
    first, last = overrides.pop("PREPEND_PATH", ""), overrides.pop("APPEND_PATH", "")
    libraries = overrides.pop("LD_LIBRARY_PATH", "")
    prompt = overrides.pop("PROMPT_COMMAND", prompt)
    overrides.pop("HOME", None)  # it is not permitted, says the engine
    made.update(overrides)
    made["PATH"] = ":".join(filter(None, (first, path, last)))
    if libraries:
        own = made.get("LD_LIBRARY_PATH", "")
        made["LD_LIBRARY_PATH"] = ":".join(filter(None, (libraries, own)))
    made["PWD"] = cwd
    _set_prompt(made, prompt)
    if "USER_PATH" in made and made["USER_PATH"].startswith(record.path):
        before = ":".join(filter(None, (record.launchers, environ.get("PATH", ""))))
        made["USER_PATH"] = before + made["USER_PATH"][len(record.path) :]
    if shell:
        made.update((name, "shell") for name in ("APPTAINER_COMMAND",) if name in made)
    return made


def _set_prompt(made: dict[str, str], prompt: str | None) -> None:
    """Set what makes the prompt of bash, as the engine does."""
    if "PROMPT_COMMAND" not in made and prompt is None:
        return
    setting = f'PS1="{made.get("PS1", "")}"'
    if prompt is None:
        made["PROMPT_COMMAND"] = f"{setting}; unset PROMPT_COMMAND"
    else:
        end = '; PROMPT_COMMAND="${PROMPT_COMMAND%%; PROMPT_COMMAND=*}"; '
        made["PROMPT_COMMAND"] = prompt + end + setting
