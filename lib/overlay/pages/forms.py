"""The forms in which the pages are written: Markdown as MkDocs reads it, and reStructuredText for Sphinx."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UNDERLINES = {"#": "=", "##": "-"}


def markdown(text: str, titles: Mapping[str, str]) -> str:
    """Return a page in Markdown.

    titles  of the other pages by their names, for the page that lists them
    """
    links = "\n".join(f"- [{title}]({name}.md)" for name, title in titles.items())
    return text.replace("@pages@", links)


def restructured(text: str, titles: Mapping[str, str]) -> str:
    """Return a page in reStructuredText, from the part of Markdown that our texts use.

    Headings, paragraphs, lists of one level, tables, blocks of code and `code` in a line.
    """
    contents = ".. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {name}\n" for name in titles)
    return "\n".join(_blocks(text.splitlines())).replace("@pages@", contents.rstrip()) + "\n"


def _blocks(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a page."""
    rest = iter(lines)
    table: list[str] = []
    for line in rest:
        if table and not line.startswith("|"):
            yield from _table(table)
            table = []
        if line.startswith("```"):
            yield ".. code-block:: text"
            yield ""
            for code in rest:
                if code == "```":
                    break
                yield f"   {code}".rstrip()
        elif line.startswith("|"):
            table.append(line)
        elif line.startswith("#"):
            marks, _, words = line.partition(" ")
            words = _line(words)
            yield words
            yield _UNDERLINES[marks] * len(words)
        else:
            yield _line(line)
    yield from _table(table)


def _table(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a table; its second line only parts the heading from the rest."""
    if not lines:
        return
    yield ".. list-table::"
    yield "   :header-rows: 1"
    yield ""
    for line in lines[:1] + lines[2:]:
        for number, cell in enumerate(line.strip("|").split("|")):
            yield f"   {'*' if number == 0 else ' '} - {_line(cell.strip())}"


def _line(text: str) -> str:
    """Return a line of text; what is special in reStructuredText alone is not in it."""
    return re.sub(r"`([^`]+)`", r"``\1``", text)


FORMS = {"md": markdown, "rst": restructured}
COMMENTS = {
    "md": "<!-- written by overlay-admin pages -->",
    "rst": ".. written by overlay-admin pages",
}
