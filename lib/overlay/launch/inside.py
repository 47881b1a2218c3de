"""What runs inside: a shell, a file of commands, or one command."""

from __future__ import annotations

import os

from overlay.errors import quote
from overlay.host import places
from overlay.launch.command import command_line
from overlay.plan import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from overlay.host.places import View
    from overlay.launch.engine import Bind
    from overlay.launch.facts import Facts
    from overlay.launch.learned import Learned
    from overlay.launch.request import Session

    Notice = tuple[str, str]  # (level, text): see Plan


class Inside:
    """What runs inside, and what that takes.

    words   a list of words; None for an interactive shell
    binds, before, after, notices  what is added to the plan for it
    seen    the path of its file, where that is seen without a bind
    """

    def __init__(
        self,
        words: list[str] | None,
        *,
        binds: Sequence[Bind] = (),
        before: Sequence[Step] = (),
        after: Sequence[Step] = (),
        notices: Sequence[Notice] = (),
        seen: str | None = None,
    ) -> None:
        self.words = words
        self.seen = seen
        self.binds = binds
        self.before = before
        self.after = after
        self.notices = notices


def what_runs(
    session: Session, facts: Facts, learned: Learned, view: View, *, away: bool
) -> Inside:
    """Return what runs inside.

    away  whether it begins in another directory
    """
    if session.command is not None:
        if "sh" in facts.lacking:  # the engine starts it, and says why it cannot
            return Inside(list(session.command))
        unseen = _unseen(session.command[0], facts, view)
        return Inside(command_line(session.command, session.program, unseen))
    notices: list[tuple[str, str]] = []
    shell = "sh" if learned.commands is None else "bash"
    if shell in facts.lacking:
        words = f"the base image {quote(facts.base)} seems to have no {shell}, and without it"
        what = "there is no shell" if learned.commands is None else "no file of commands can run"
        words += f" {what}; one program: run-overlay … -- /PATH/PROGRAM"
        notices.append(("warning", words))
    if learned.commands is None:
        return Inside(None, notices=notices)
    commands = learned.commands
    if commands.text is not None:
        words = "has" if commands.descriptor is None else "have"
        name = quote(commands.path) if commands.descriptor is None else "the commands"
        words = f"{name} {words} Windows line ends or a byte order mark; they are left out"
        notices.append(("notice", words))
    if commands.descriptor is not None:
        return Inside(["bash", "--", f"/dev/fd/{commands.descriptor}"], notices=notices)
    if not commands.regular:
        # A pipe such as <(…) has no name to bind; its descriptor is inherited.
        return Inside(["bash", "--", commands.path], notices=notices)
    path = os.path.join(facts.cwd, commands.path)
    way = commands.way or places.Way(path)
    source = way.real
    before: list[Step] = []
    after: list[Step] = []
    if commands.text is not None:
        source, before, after = _without_carriage_returns(way.real, facts.scratch, commands.text)
    target = view.place_of(way)
    name = path if away else commands.path
    if way.links and ".." in path.split("/"):
        name = target  # not all on the way may be there inside
    seen = path if view.shows(source) and view.leads_to(way) and commands.text is None else None
    return Inside(
        ["bash", "--", name],
        seen=seen,
        binds=[(source, target, True)],
        before=before,
        after=after,
        notices=notices,
    )


def _unseen(command: str, facts: Facts, view: View) -> str:
    """Return the hint for a command that the host has, where that is not what is seen inside."""
    path = os.path.normpath(os.path.join(facts.cwd, command))
    if not facts.command_here or view.shows(path):
        return ""
    if places.is_below(path, places.SYSTEM):
        return "this machine has it; inside, the directories of the system are the base image's"
    return f"this machine has it, but it is not seen inside: -b {quote(os.path.dirname(path))}"


def _without_carriage_returns(
    original: str, scratch: str, text: bytes
) -> tuple[str, list[Step], list[Step]]:
    """Return a path in the user's directory, and the Steps that write commands to it and remove it.

    scratch  the directory in which that is
    text     the commands, without carriage returns and byte order mark
    """
    from overlay.host import private  # for commands that have some

    directory = private.name(scratch)
    path = os.path.join(directory, f"commands.{os.uname().nodename}.{os.getpid()}")
    before = [
        Step(
            ["mkdir", "-p", "-m", "700", directory],
            action=lambda: private.make(scratch),
        ),
        Step(
            ["sed", r"1s/^\xef\xbb\xbf//; s/\r$//", original],
            output=path,
            action=lambda: private.put(scratch, path, text),
            why="the commands without the carriage returns of Windows",
        ),
    ]
    return path, before, [Step(["rm", "-f", path], action=lambda: private.leave(scratch, path))]


# A file of its own for bash to begin with: the prompt comes after what the user's sets.
_SHELL = (
    "command -v bash >/dev/null || exec sh -i; "
    """exec bash -c 'exec bash --rcfile <(printf "%s\\n" "$1")' bash "$1\""""
)


def with_user_bashrc(title: str) -> list[str]:
    """Return the words that run a shell inside which reads the user's ~/.bashrc.

    title  what the prompt begins with, plain letters for every shell
    """
    # The engine's PROMPT_COMMAND would set the prompt once more.
    start = "unset PROMPT_COMMAND; PS1='\\w> '; [ -r ~/.bashrc ] && . ~/.bashrc; "
    start += f'PS1="[{title}] $PS1"'
    return ["/bin/sh", "-c", _SHELL, "sh", start]
