"""What is going to be done, as data: a Plan of Steps that can run or be printed.

A plan is made by one pure function per command and says everything: `--dry-run` prints it
as lines for a shell, process.py runs it.
"""

from __future__ import annotations

import shlex

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class Step:
    """One thing to do.

    arguments  the program and its arguments
    action     what does the same from here; None: the program is started
    unset      variables that the program does not get, a tuple of names
    variables  variables that the program gets, a dictionary
    path_first directories put before the others of PATH, with colons between, or None
    output     the file that standard output goes to, None for ours
    why        one line for the reader of --dry-run, or None
    commands   the descriptor on which the program finds all that was our standard input, which
               is then empty; None: it has our standard input
    """

    __slots__ = (
        "action",
        "arguments",
        "commands",
        "output",
        "path_first",
        "unset",
        "variables",
        "why",
    )

    def __init__(
        self,
        arguments: Iterable[str],
        *,
        action: Callable[[], object] | None = None,
        unset: Iterable[str] = (),
        variables: Mapping[str, str] | None = None,
        path_first: str | None = None,
        output: str | None = None,
        why: str | None = None,
        commands: int | None = None,
    ) -> None:
        self.path_first = path_first
        self.arguments = list(arguments)
        self.action = action
        self.unset = tuple(unset)
        self.variables = dict(variables or {})
        self.output = output
        self.why = why
        self.commands = commands

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the program, from the caller's."""
        kept = {name: value for name, value in environ.items() if name not in self.unset}
        kept.update(self.variables)
        if self.path_first:
            kept["PATH"] = f"{self.path_first}:{environ.get('PATH', '')}"
        return kept

    def shell(self) -> str:
        """Return the line that does the same in a POSIX shell."""
        words: list[str] = []
        for name in self.unset:
            words += ["-u", name]
        words += [f"{name}={value}" for name, value in sorted(self.variables.items())]
        line = shlex.join(self.arguments)
        if self.path_first:
            line = f'PATH={shlex.quote(self.path_first)}:"$PATH" {line}'
        if words or self.path_first:
            line = " ".join(["env", *([shlex.join(words)] if words else []), line])
        if self.commands is not None:
            line = f"{line} {self.commands}<<END </dev/null\n$(cat)\nEND"
        return f"{line} > {shlex.quote(self.output)}" if self.output else line


class Plan:
    """Everything that a command is going to do.

    notices  lines for the user before anything happens: (level, text), the level one of
             "notice", "detail" (with -v only) and "message" (the site's own)
    before   Steps, in order; the first that fails ends it
    final    the Step whose end is the command's end; None when before is all
    after    Steps that are done however final ended
    writable whether final writes an overlay
    """

    def __init__(
        self,
        final: Step | None = None,
        *,
        notices: Iterable[tuple[str, str]] = (),
        before: Iterable[Step] = (),
        after: Iterable[Step] = (),
        writable: bool = False,
    ) -> None:
        self.writable = writable
        self.final = final
        self.notices = list(notices)
        self.before = list(before)
        self.after = list(after)

    def shell(self) -> str:
        """Return the plan as lines for a POSIX shell that do the same when pasted."""
        lines = []
        for step in (*self.before, *([self.final] if self.final else ()), *self.after):
            if step.why:
                lines.append(f"# {step.why}")
            lines.append(step.shell())
        return "\n".join(lines) + "\n"
