"""overlay-admin report: overlays by owner."""

from __future__ import annotations

import argparse
import json
import os
import time

from overlay import size
from overlay.commands.admin_output import add_output
from overlay.commands.arguments import add_directories
from overlay.errors import OverlayError, quote
from overlay.settings import config as configuration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Mapping

    from overlay.commands.arguments import Parser
    from overlay.doctor.report import Owner
    from overlay.image.survey import Survey
    from overlay.output import Output

SUMMARY = "Count overlays and what they take, by owner."

_HEADING = ("OWNER", "OVERLAYS", "SIZE", "ON DISK", "USED", "FILES", "NOT CLEAN", "IN USE", "OLD",
            "EXPIRING", "FULL", "TOO LARGE", "DAMAGED", "UNREADABLE")  # fmt: skip


def main(options: Namespace, environ: Mapping[str, str], root: str, output: Output) -> int:
    """Show the overlays under directories by owner; return the first status that is not 0."""
    from overlay.commands.list import too_large
    from overlay.doctor import report
    from overlay.image.expiry import Expiry
    from overlay.image.search import Search

    config = configuration.load(environ, root, output.notice)
    statuses = []

    def failed(error: OverlayError) -> None:
        output.error(error)
        statuses.append(error.status)

    def broken(path: str, words: str) -> None:
        output.notice(f"{quote(path)}: {words}", "detail")

    large = []

    def seen(path: str, overlay: Survey) -> None:
        if overlay.enough is not None:
            large.append({**overlay.as_dictionary(), "path": path})

    search = Search()
    now = time.time()
    owners = report.collect(
        report.found(search, options.directories, failed),
        low=config["safety.low"],
        now=now,
        days=options.older,
        expiry=Expiry(config),
        broken=broken,
        seen=seen,
    )
    total = report.total(owners)
    unread = search.served + [path for path in search.unreadable if os.path.isdir(path)]
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        output.notice(f"cannot look into {quote(unread[0])}{more}", "warning")
    if options.json:
        found = {
            "owners": [one.as_dictionary() for one in owners],
            "total": total.as_dictionary(),
            "kept_off": total.kept_off,
            "older": options.older,
            "unreadable_directories": unread,
        }
        output.result(json.dumps(found))
    elif options.csv:
        output.result(_csv(owners, report.FIGURES))
    elif options.html is not None and not statuses:
        _write_page(options, owners, total, now)
    elif owners:
        output.result(_table([*owners, total]))
        output.result(
            f"\n{size.format_files(total.kept_off)} kept off the file system{too_large(large)}"
        )
    elif not statuses:
        output.notice("there are no overlays")
    return statuses[0] if statuses else 0


def _write_page(options: Namespace, owners: list[Owner], total: Owner, now: float) -> None:
    """Write the report as a page. Raises OverlayError (CANNOT_CREATE)."""
    from overlay.doctor.page import FIRST_LINE, page
    from overlay.image.expiry import SOON
    from overlay.safety import generated

    text = page(
        owners, total, directories=options.directories, now=now, older=options.older, soon=SOON
    )
    generated.write({options.html: text}, FIRST_LINE, "--html")


def _csv(owners: Iterable[Owner], figures: Iterable[str]) -> str:
    """Return the owners as comma-separated values, RFC 4180 but for its line ends."""
    import csv
    import io

    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("owner", *figures))
    writer.writerows(one.as_dictionary().values() for one in owners)
    return file.getvalue()


def _table(owners: Iterable[Owner]) -> str:
    """Return the owners as a table for a person; columns in which all is 0 are left out."""
    counts = ("not_clean", "in_use", "old", "expiring", "nearly_full", "too_large", "damaged",
              "unreadable")  # fmt: skip
    rows: list[tuple[str, ...]] = [_HEADING]
    for one in owners:
        sizes = (size.format_size(amount) for amount in (one.size, one.allocated, one.used))
        rows.append(
            (
                quote(one.name),
                size.format_count(one.overlays),
                *sizes,
                size.format_count(one.files),
                *(size.format_count(getattr(one, count)) for count in counts),
            )
        )
    columns = [
        column for column in zip(*rows) if column[0] in _HEADING[:6] or set(column[1:]) != {"0"}
    ]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(
            f"{text:>{width}}" if place else f"{text:<{width}}"
            for place, (text, width) in enumerate(zip(line, widths))
        )
        for line in zip(*columns)
    )


def add_options(parser: Parser) -> None:
    group = parser.add_argument_group("overlays")
    add_directories(group, "+", "a directory below which they lie")
    group.add_argument(
        "--older",
        metavar="DAYS",
        type=_days,
        default=90,
        help="count those as old in which nothing was written for so many days (default: 90)",
    )
    group = add_output(parser)
    group.add_argument("--csv", action="store_true", help="print comma-separated values, in bytes")
    group.add_argument(
        "--html", metavar="FILE", help="write a page with a table that sorts, and two charts"
    )


def _days(text: str) -> int:
    """Return a number of days from the command line."""
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days")
    return int(text)
