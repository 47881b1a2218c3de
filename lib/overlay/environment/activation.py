"""What the environments of an overlay set, as the lines that every start of the engine reads.

Apptainer sources /.singularity.d/env/*.sh in the order of their names (its documentation of
environment variables), also those that come from an overlay, in an interpreter of its own:
`exit` in one of them ends the start with 0 and nothing runs, `set -u` ends it with an error, and
bash is not there. So nothing but lines that export.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Where a login shell reads them, which sets PATH anew from /etc/profile before: see note.ENGINE.
PROFILE = "/etc/profile.d/overlay-{}.sh"

# A base image without scripts of its own, an unpacked directory, gets none of the variables of
# --env unless a file of this name is there.
BASE = "/.singularity.d/env/99-base.sh"

# Of images that were not made from OCI ones, PATH is not set yet where the lines are read.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Activation:
    """What activated environments set.

    directories  of the environments, the first comes first
    lists        name -> directories that come before those of a variable such as PATH
    values       name -> value of the other variables
    """

    __slots__ = ("directories", "lists", "values")

    def __init__(
        self,
        directories: Iterable[str] = (),
        *,
        lists: Mapping[str, Iterable[str]] | None = None,
        values: Mapping[str, str] | None = None,
    ) -> None:
        self.directories = list(directories)
        self.lists = {name: list(words) for name, words in (lists or {}).items()}
        self.values = dict(values or {})

    def __bool__(self) -> bool:
        return bool(self.lists or self.values)

    def script(self, *, login: bool = False) -> str:
        """Return the lines, for sh(1) and for the engine's interpreter.

        login  for a login shell, which has what the engine's lines have set, but not all of it
        """
        import shlex  # for those that write them only

        lines = [f"export {name}={shlex.quote(text)}" for name, text in sorted(self.values.items())]
        for name, words in sorted(self.lists.items()):
            first = shlex.quote(":".join(words))
            rest = f'":${{PATH:-{_PATH}}}"' if name == "PATH" else f'"${{{name}:+:${name}}}"'
            line = f"export {name}={first}{rest}"
            if login:
                line = f'case ":${{{name}-}}:" in *:{first}:*) ;; *) {line} ;; esac'
            lines.append(line)
        return "".join(line + "\n" for line in lines)


def parse(script: str) -> Activation:
    """Return the Activation of some lines of ours; of others what can be understood."""
    import shlex  # for sessions with several that are ready only

    made = Activation()
    try:
        words = shlex.split(script)
    except ValueError:
        return made
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not is_name(name):
            continue
        if not is_list(name):
            made.values[name] = text
        else:
            made.lists[name] = [part for part in text.partition("$")[0].split(":") if part]
    return made


def is_name(name: str) -> bool:
    """Return whether a shell can export a variable of this name: no function of bash's."""
    return name.isidentifier() and name.isascii()


def is_list(name: str) -> bool:
    """Return whether a variable holds directories with colons between."""
    return name.endswith("PATH") or name in (
        "R_LIBS",
        "R_LIBS_SITE",
        "R_LIBS_USER",
        "XDG_DATA_DIRS",
    )
