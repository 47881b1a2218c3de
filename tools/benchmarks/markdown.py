"""What was measured, as Markdown: tables, and the page docs/performance.md."""

from __future__ import annotations

import os

from benchmarks.picture import CHARTS, charts
from benchmarks.results import Results, Row, Way, amount, times

# The page without its figures.
PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.md")

PLACES = {"local": "On a local disk", "slow": "On a slow file system"}

# A way is called slower from here on: what is nearer to 1 is chance.
LOSES = 0.95

# Why ours takes longer than another way, by part.
WHY = {
    "launch": "Python starts, and looks at the image, its locks and whether it was closed properly",
    "create": "Python starts; the rest is `mke2fs`",
    "files": "what is inside is read and written through two programs of the engine, "
    "fuse-overlayfs and fuse2fs, where a local directory is the kernel's own",
    "build": "the image is written, checked and synced after what `pip` does",
    "update": "it works on a copy, which is checked and then put in the place of the overlay",
    "grow": "what could be interrupted can be taken back, and the result is looked at",
    "pack": "files are read out of the image, and a second time to compare them (which "
    "`--no-verify` leaves out)",
    "share": "each task is entered and watched",
    "expose": "a session is entered; the host's own Python has none",
}
# The same, where the other way is the engine's own with the same servers.
WHY_ENGINE = {
    "files": "the same two programs, with settings of ours by which a full overlay is noticed at the write",
}


def tables(results: Results) -> str:
    """Return all that was measured as tables, one for each file system."""
    return "\n".join(
        f"## {title}\n\n{_table(rows)}"
        for place, title in PLACES.items()
        if (rows := [row for row in results.rows if row.place == place])
    )


def page(results: Results) -> str:
    """Return docs/performance.md."""
    parts = [_machine(results), _pictures(results), tables(results), _losses(results)]
    figures = "\n".join(part for part in parts if part)
    with open(PAGE, encoding="utf-8") as file:
        return file.read().replace("{figures}\n", figures)


def _table(rows: list[Row]) -> str:
    """Return rows as a table, a line for each other way."""
    lines = [
        "| what | ours | its time | the other way | its time | ratio |",
        "|---|---|---:|---|---:|---:|",
    ]
    for row in rows:
        first = f"| {row.what} | {row.ours.name} | {amount(row.ours.value, row.unit)} |"
        for way in row.others:
            ratio = times(row.ratio(way))
            lines.append(f"{first} {way.name} | {amount(way.value, row.unit)} | {ratio} |")
            first = "| | | |"
    return "\n".join(lines) + "\n"


def _machine(results: Results) -> str:
    """Return what the figures were taken on, and how to read them."""
    facts = "; ".join(f"{name} {words}" for name, words in results.machine.items())
    doubts = ""
    if results.scale != 1:
        doubts += (
            f" BENCH_SCALE was {results.scale:g}: this is a trial, and its figures say little."
        )
    if float(results.machine["load at the beginning"]) > 1:
        doubts += " **The machine was busy with other work: take the figures again before you rely on them.**"
    return (
        f"Taken on: {facts}.{doubts}\n\n"
        "Medians where it is done several times. The ratio says how many times as long the other way takes: "
        "above 1 ours is quicker, below 1 it is slower.\n"
    )


def _pictures(results: Results) -> str:
    """Return the charts, as links for those who look at the page."""
    names = charts(results)
    return "".join(f"![{CHARTS[name][0]}](pictures/{name})\n\n" for name in names)


def _losses(results: Results) -> str:
    """Return what is slower than another way, worst first, and why."""
    lines = [
        f"| {row.what} | {PLACES[row.place].lower()} | {way.name} | {times(ratio)} | {_why(row, way)} |"
        for ratio, row, way in _slower(results)
    ]
    head = [
        "## Where overlays lose\n",
        "All lines of the tables in which another way is quicker, worst first. On a local disk of "
        "one's own a directory is the quicker place for small files, and costs nothing to start; "
        "overlays are for file systems that many share, and for a limit on the number of files.\n",
        "| what | where | quicker is | ratio | why |",
        "|---|---|---|---:|---|",
    ]
    return "\n".join([*head, *lines]) + "\n" if lines else ""


def _slower(results: Results) -> list[tuple[float, Row, Way]]:
    """Return (ratio, row, way) of all ways that are quicker than ours, worst first."""
    found = [
        (row.ratio(way), row, way)
        for row in results.rows
        for way in row.others
        if row.ratio(way) < LOSES
    ]
    return sorted(found, key=lambda one: one[0])


def _why(row: Row, way: Way) -> str:
    """Return the reason why a way is quicker than ours."""
    known = WHY_ENGINE if "the engine alone" in way.name else {}
    return known.get(row.part, WHY[row.part])
