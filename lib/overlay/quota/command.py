"""What the site's own [quota] command says."""

from __future__ import annotations

from overlay.errors import quote
from overlay.host import process
from overlay.host.names import user_name
from overlay.quota.limits import Limits, Unknown, failure, owner_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from overlay.quota.limits import Place


def limits(place: Place) -> list[Limits]:
    """Ask the site's own command; nothing when it prints nothing."""
    known = {"{user}": user_name(place.user), "{path}": place.directory}
    arguments = []
    for word in place.command:
        for name, value in known.items():
            word = word.replace(name, value)
        arguments.append(word)
    program = process.which(arguments[0], place.environ)
    if program is None:
        raise Unknown(f"the site's command {quote(arguments[0])} is missing")
    result = place.ask([program, *arguments[1:]])
    if result.status:
        raise Unknown(failure(program, result))
    try:
        return parse_command(result.output, place)
    except ValueError:
        line = result.output.strip().splitlines()[0]
        raise Unknown(f"the site's command prints {quote(line)}, not four numbers") from None


def parse_command(text: str, place: Place) -> list[Limits]:
    """Return the Limits of the answer of the site's command.

    A line for a quota: used_bytes limit_bytes used_files limit_files [name], in whole
    numbers; - for what is not known, - or 0 for no limit. Raises ValueError.
    """
    found = []
    for line in text.splitlines():
        if not line.strip():
            continue
        words = line.split(None, 4)
        numbers = [None if word == "-" else int(word) for word in words[:4]]
        if len(numbers) < 4 or any(number is not None and number < 0 for number in numbers):
            raise ValueError(line)
        name = f"the quota of {words[4].strip()}" if words[4:] else owner_names(place)["user"]
        used, limit, used_files, limit_files = numbers
        found.append(
            Limits("user", "command", name, (used, None, limit), (used_files, None, limit_files))
        )
    return found
