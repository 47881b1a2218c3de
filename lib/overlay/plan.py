"""What is going to be done, as data: a Plan of Steps that can be done or printed.

What is printed and what is done is one list: `--dry-run` prints the Plan as lines for a shell,
without it the same Plan is done.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, TypeVar, Union

    from overlay.errors import OverlayError

    Value = TypeVar("Value")
    Part = Union["Step", "Plan"]


_only_shown = False


def only_show(shown: bool) -> None:
    """Say whether Plans that are made from now on are only shown."""
    global _only_shown
    _only_shown = shown


def is_only_shown() -> bool:
    """Return whether Plans that are made are only shown: who does their lines is not this process."""
    return _only_shown


def named(words: Iterable[str | int]) -> list[str]:
    """Return words as they are shown: a number, which is an open file, by that file's path."""
    return [
        os.readlink(f"/proc/self/fd/{word}") if isinstance(word, int) else word for word in words
    ]


class Step:
    """One thing to do.

    arguments  the program and its arguments; none at all: no line of a shell does it, and why
               says what is done
    action     what does the same from here; None for the final Step of a Plan only, whose
               program is started
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
        arguments: Iterable[str] = (),
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

    def steps(self) -> Iterator[Step]:
        """Yield itself: see Plan.steps()."""
        yield self

    def do(self) -> object:
        """Do it from here, and return what its action returns."""
        if self.action is None:
            raise TypeError(f"a program is to be started, and nobody does: {self.shell()}")
        return self.action()

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the program, from the caller's."""
        kept = {name: value for name, value in environ.items() if name not in self.unset}
        kept.update(self.variables)
        if self.path_first:
            kept["PATH"] = f"{self.path_first}:{environ.get('PATH', '')}"
        return kept

    def words(self, environ: Mapping[str, str]) -> list[str]:
        """Return the words that start the program as it is started; env(1) sets what it gets."""
        changes = [word for name in self.unset for word in ("-u", name)]
        changes += [f"{name}={value}" for name, value in sorted(self.variables.items())]
        if self.path_first:
            changes.append(f"PATH={self.environment(environ)['PATH']}")
        return ["env", *changes, *self.arguments] if changes else self.arguments

    def shell(self) -> str:
        """Return the line that does the same in a POSIX shell."""
        import shlex  # only where it is shown

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


def do_final(final: Step | None) -> Any:
    """Do the final Step of a Plan from here, where it has one."""
    return final.do() if final else None


class Plan:
    """Everything that a command is going to do.

    notices  lines for the user before anything happens: (level, text), the level one of
             "notice", "detail" (with -v only) and "message" (the site's own)
    before   Steps, and Plans of their own, in order; the first that fails ends it
    final    the Step whose end is the command's end; None when before is all
    after    Steps that are done however the others ended
    writable whether final writes an overlay
    """

    def __init__(
        self,
        final: Step | None = None,
        *,
        notices: Iterable[tuple[str, str]] = (),
        before: Iterable[Part] = (),
        after: Iterable[Part] = (),
        writable: bool = False,
    ) -> None:
        self.writable = writable
        self.final = final
        self.notices = list(notices)
        self.before = list(before)
        self.after = list(after)

    def steps(self) -> Iterator[Step]:
        """Yield all Steps, in the order in which they are done."""
        for part in (*self.before, *([self.final] if self.final else ()), *self.after):
            yield from part.steps()

    def shell(self) -> str:
        """Return the plan as lines for a POSIX shell that do the same when pasted."""
        lines = []
        for step in self.steps():
            if step.why:
                # A name in it may hold the end of a line.
                lines.append("# " + " ".join(step.why.splitlines()))
            if step.arguments:
                lines.append(step.shell())
        return "\n".join(lines) + "\n"

    def do(self, end: Callable[[Step | None], Value] = do_final) -> Value:
        """Do all of it, and return what end returns.

        end  called with the final Step when all before it is done; without it, that is done too
        What comes after is done whatever has happened. Raises what the Steps raise.
        """
        try:
            for part in self.before:
                part.do()
            return end(self.final)
        finally:
            for part in self.after:
                part.do()


class ToldPlan(Plan):
    """A Plan of which what the system refuses is told as an error of ours."""

    def __init__(
        self,
        final: Step,
        failed: Callable[[OSError], OverlayError],
        *,
        before: Iterable[Part] = (),
        after: Iterable[Part] = (),
    ) -> None:
        """Take what makes the error, beside what a Plan takes."""
        super().__init__(final, before=before, after=after)
        self._failed = failed

    def do(self, end: Callable[[Step | None], Value] = do_final) -> Value:
        try:
            return super().do(end)
        except OSError as error:
            raise self._failed(error) from None
