"""list-overlays: the overlays under directories, one line each."""

from __future__ import annotations

import os
import time

from overlay import size
from overlay.commands.arguments import Command, add_directories, add_listing_output, parse_mixed
from overlay.errors import MISSING, OverlayError, quote
from overlay.host.places import check_current
from overlay.image.expiry import Expiry
from overlay.image.ext3_size import SLOW
from overlay.image.search import Search, reachable
from overlay.image.survey import Survey
from overlay.safety import versions
from overlay.settings import config as configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from overlay.commands.arguments import Parser
    from overlay.image.kind import Image
    from overlay.output import Output

    # What there is to say of one overlay, as for --json.
    Row = dict[str, Any]

_PATIENCE = 1  # seconds before a progress line appears
_INTERVAL = 0.2  # seconds between two of them

_HEADING = ("KIND", "SIZE", "USED", "FREE", "FILES", "LEFT", "WRITTEN", "PURGE", "STATE", "OVERLAY")
_WORDS = ("KIND", "STATE", "OVERLAY")  # columns that are aligned at the left

# Largest or oldest first; what has no such figure comes last.
_ORDERS: dict[str, Callable[[Row], Any]] = {
    "size": lambda row: -(row.get("size") or 0),
    "used": lambda row: -(row.get("data_used") or 0),
    "files": lambda row: -(row.get("files_used") or 0),
    "age": lambda row: row.get("written") or float("inf"),
    "name": lambda row: row["path"],
}


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """List what is below the directories; return the first status that is not 0."""
    config = configuration.load(environ, root, output.notice)
    low, now = config["safety.low"], time.time()
    expiry = Expiry(config)
    if not options.directories:
        check_current(os.getcwd())
    tops = options.directories or reachable([".", *config["scratch.locations"]])
    search = Search(_progress(output))
    rows, status = [], 0
    for top in tops:
        try:
            rows += [_row(path, found, low, expiry, now) for path, found in search.under(top)]
        except OverlayError as error:
            output.progress("")
            output.error(error)
            status = status or error.status
    output.progress("")
    if search.unreadable or search.served:
        output.notice(_unreadable(search.served + search.unreadable), "warning")
    rows.sort(key=lambda row: (_ORDERS[options.sort](row), row["path"]))
    if options.json:
        import json

        output.result(json.dumps(rows))
    elif rows:
        output.result("\n".join(table(rows, now)))
        if not options.quiet:
            output.result(totals(rows))
    elif not status:
        places = " or ".join("this directory" if top == "." else quote(top) for top in tops)
        output.notice(f"there is no overlay below {places}")
    return status


def _progress(output: Output) -> Callable[[Search], None]:
    """Return a function that says now and then how far a search is."""
    due = time.monotonic() + _PATIENCE

    def tell(search: Search) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _INTERVAL
            output.progress(
                f"{size.format_count(search.looked)} files seen,"
                f" {size.format_count(search.found)} of them overlays"
            )

    return tell


def _row(path: str, found: Image | OverlayError, low: int, expiry: Expiry, now: float) -> Row:
    """Return what there is to say of what was found at a path, as for --json."""
    path = path[2:] if path.startswith("./") else path
    if isinstance(found, OverlayError):
        error = found
    else:
        try:
            return {
                **Survey(found, who=False, low=low).as_dictionary(),
                "path": path,
                "version_of": versions.of(path, found.descriptor),
                "purge_days": expiry.days(path, found.status, now),
            }
        except OverlayError as damage:
            error = damage
        finally:
            found.close()
    state = "unreadable" if error.status == MISSING else "damaged"
    return {"path": path, "error": error.what, "state": state}


def table(rows: Iterable[Row], now: float) -> list[str]:
    """Return the lines of a table of overlays, with its heading.

    now  seconds since 1970
    """
    cells = [_HEADING, *(_cells(row, now) for row in rows)]
    if all(row.get("purge_days") is None for row in rows):  # no purge, or not here
        cells = [line[:7] + line[8:] for line in cells]
    widths = [max(map(len, column)) for column in zip(*cells)]
    widths[-1] = 0
    return [
        "  ".join(
            f"{text:<{width}}" if head in _WORDS else f"{text:>{width}}"
            for head, text, width in zip(cells[0], line, widths)
        ).rstrip()
        for line in cells
    ]


def _cells(row: Row, now: float) -> tuple[str, ...]:
    """Return the words for one overlay."""
    if "error" in row:
        return "", "", "", "", "", "", "", "", row["state"], quote(row["path"])
    written = row["written"]
    return (
        row["kind"],
        _or_dash(size.format_size, row["size"]),
        _or_dash(size.format_size, row["data_used"]),
        _or_dash(size.format_size, row["data_available"]),
        _or_dash(size.format_count, row["files_used"]),
        _or_dash(size.format_count, row["files_available"]),
        _or_dash(age, None if written is None else now - written),
        _or_dash(days, row["purge_days"]),
        ", ".join(_flags(row)),
        quote(row["path"]),
    )


def _or_dash(form: Callable[[Any], str], value: float | None) -> str:
    return "-" if value is None else form(value)


def _flags(row: Row) -> list[str]:
    """Return what is worth knowing about the state of an overlay."""
    flags = []
    if row["version_of"]:
        flags.append("before an update")
    if row["in_use"]:
        flags.append("in use")
    if row["clean"] is False and row["in_use"] != "writer":
        flags.append("unclean")
    if row["nearly_full"]:
        flags.append("nearly full")
    if row["size_enough"]:
        flags.append("too large")
    return flags


def age(seconds: float) -> str:
    """Return a time that has passed, for a person: now, 5 min, 3 h, 12 days, 2 years."""
    minutes = int(seconds) // 60
    if minutes < 1:
        return "now"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h"
    days = minutes // (24 * 60)
    if days < 60:
        return f"{days} days"
    return f"{days // 30} months" if days < 730 else f"{days // 365} years"


def days(number: int) -> str:
    """Return a number of days in which something is going to happen, for a person."""
    return "any time" if number == 0 else f"{number} day{'' if number == 1 else 's'}"


def totals(rows: Sequence[Row]) -> str:
    """Return the line below a table."""

    def total(name: str) -> int:
        return sum(row.get(name) or 0 for row in rows)

    count = f"{size.format_count(len(rows))} overlay{'' if len(rows) == 1 else 's'}"
    return (
        f"{count}: {size.format_size(total('size'))}, of them"
        f" {size.format_size(total('allocated'))} on disk;"
        f" {size.format_files(total('files_used'))} inside{_before(rows)}{too_large(rows)}"
    )


def _before(rows: Sequence[Row]) -> str:
    """Return a line about versions before updates, which take room as well; empty without any."""
    found = [row for row in rows if row.get("version_of")]
    if not found:
        return ""
    taken = size.format_size(sum(row.get("allocated") or 0 for row in found))
    what = "1 of them is" if len(found) == 1 else f"{len(found)} of them are"
    return (
        f"\n{what} kept from before an update, {taken} on disk; to remove:"
        f" update-overlay --forget {quote(found[0]['version_of'])}"
    )


def too_large(rows: Iterable[Row]) -> str:
    """Return a line about overlays that are far larger than what is in them; empty without any.

    What that costs differs: one with holes takes little of the disk, and time all the same.
    """
    found = [row for row in rows if row.get("size_enough") and not row.get("version_of")]
    if not found:
        return ""
    worst = max(found, key=lambda row: (row["allocated"], row["size"]))
    whole, used, taken = (
        size.format_size(sum(row[name] for row in found))
        for name in ("size", "data_used", "allocated")
    )
    what = "1 of them is" if len(found) == 1 else f"{len(found)} of them are"
    slow = ", and new files take longer" if any(row["size"] >= SLOW for row in found) else ""
    return (
        f"\n{what} far larger than what is inside: {whole} for {used} of data, {taken} on disk{slow};"
        f" to make smaller: resize-overlay {quote(worst['path'])} -s {worst['size_enough'] >> 30}G"
        f" -n {-(-worst['files_enough'] // 1000)}"
    )


def _unreadable(paths: Sequence[str]) -> str:
    """Return what to say of paths that could not be read."""
    if len(paths) == 1:
        return f"{quote(paths[0])} could not be read"
    return f"{len(paths)} files or directories could not be read, such as {quote(paths[0])}"


def _add_options(parser: Parser) -> None:
    parser.usage = "list-overlays [DIR ...] [option ...]"
    group = parser.add_argument_group("where, and in what order")
    add_directories(
        group,
        "*",
        "where to look (default: here, and in the site's locations)",
    )
    group.add_argument(
        "--sort",
        metavar="KEY",
        choices=("size", "used", "files", "age", "name"),
        default="name",
        help="in which order: size, used, files: the largest first; age: the oldest first;"
        " name (the default)",
    )
    add_listing_output(parser)


PROGRAMS = {
    "list-overlays": Command(
        "List the overlays under directories.",
        "list-overlays\nlist-overlays --sort size /scratch/projects",
        _add_options,
        parse_mixed,
    ),
}
