"""Quotas of Lustre, from lfs(1)."""

from __future__ import annotations

from overlay.host import process
from overlay.quota import columns
from overlay.quota.limits import Limits, Unknown, failure, owner_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from overlay.quota.limits import Place, Side


def limits(place: Place) -> Iterator[Limits]:
    """Ask `lfs quota` for the user, the group and, where there is one, the project."""
    program = process.which("lfs", place.environ)
    if program is None:
        raise Unknown("the program lfs of Lustre is missing on this machine")
    questions = [("user", "-u", place.user), ("group", "-g", place.group)]
    if place.project:
        questions.append(("project", "-p", place.project))
    names = owner_names(place)
    for kind, option, number in questions:
        result = place.ask([program, "quota", option, str(number), place.directory])
        try:
            sides = parse_lfs(result.output)
        except ValueError:
            # Groups and projects are often not counted: that is not a failure.
            if kind == "user" and "not enabled" not in result.errors:
                raise Unknown(failure(program, result)) from None
            continue
        yield Limits(kind, "lfs quota", names[kind], *sides)


def parse_lfs(text: str) -> tuple[Side, Side]:
    """Return (used, soft, hard) in bytes and in files from the output of `lfs quota`.

    After the head, the path and eight columns; a long path has a line of its own. Lines
    such as "uid 1001 is using default block quota setting" follow: the columns show what
    is in force then. Raises ValueError.
    """
    words: list[str] | None = None
    for line in text.splitlines():
        if line.split()[:1] == ["Filesystem"]:
            words = []
        elif words is not None:
            words += line.split()
            if len(words) > 8:
                return columns.row(words[-8:], 0)
    raise ValueError(text)
