"""The texts of the pages: Markdown with @name@ for what a site has, and parts for some sites only."""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# In the order in which they are read. index names the others.
NAMES = ("index", "first", "environment", "jobs", "sharing", "engine", "trouble")


def page(name: str, values: Mapping[str, str]) -> str:
    """Return a page, filled in.

    What stands between `<!-- if NAME -->` and `<!-- end -->` is left out where NAME has no value.
    """
    place = os.path.join(os.path.dirname(__file__), "text", f"{name}.md")
    with open(place, encoding="utf-8") as file:
        return fill(file.read(), values)


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return a text, filled in. Raises KeyError for a name that is not known."""

    def part(match: re.Match[str]) -> str:
        return match[2] if values[match[1]] else ""

    text = re.sub(r"<!-- if (\w+) -->\n(.*?)<!-- end -->\n", part, text, flags=re.S)
    lines = (_filled(line, values) for line in text.split("\n"))
    return "\n".join(lines)


def _filled(line: str, values: Mapping[str, str]) -> str:
    """Return a line with its values, in which nothing can end a cell of a table, or mislead."""

    def value(match: re.Match[str]) -> str:
        parts = values[match[1]].split("\n")
        text = "\n".join("".join(filter(str.isprintable, part)) for part in parts)
        return text.replace("|", "/") if line.startswith("|") else text

    return re.sub(r"@(?!pages@)(\w+)@", value, line)


def title(text: str) -> str:
    """Return the title of a page: its first line."""
    return text.partition("\n")[0].lstrip("# ")
