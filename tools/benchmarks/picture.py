"""What was measured, as bars: from a Results to files of SVG."""

from __future__ import annotations

from drawing.chart import chart

from benchmarks.results import Results, Row, amount

LOCAL = "On a local disk."

# From the name of a file to its title, its note, and which (place, part) stand in it.
CHARTS = {
    "performance-start.svg": (
        "Starting, alone and many at once",
        LOCAL,
        [("local", part) for part in ("launch", "share", "expose")],
    ),
    "performance-files.svg": (
        "Small files",
        LOCAL,
        [("local", part) for part in ("create", "files", "grow", "pack")],
    ),
    "performance-environment.svg": (
        "Environments",
        f"{LOCAL} Downloads are not in it.",
        [("local", part) for part in ("build", "update")],
    ),
    "performance-slow.svg": (
        "On a slow file system",
        "Every operation is answered a millisecond late, as on one that many share.",
        [("slow", part) for part in ("files", "update", "create", "launch")],
    ),
}


def charts(results: Results) -> dict[str, str]:
    """Return the charts, from name to SVG; one for which nothing was measured is left out."""
    made = {}
    for name, (title, note, wanted) in CHARTS.items():
        groups = [
            (row.what, _bars(row))
            for place, part in wanted
            for row in results.rows
            if (row.place, row.part) == (place, part)
        ]
        if groups:
            made[name] = chart(title, f"{note} Shorter is better.", groups)
    return made


def _bars(row: Row) -> list[tuple[str, float, str, str]]:
    """Return the bars of a row, ours first."""
    ways = [(row.ours, "ours"), *((way, _kind(way.name)) for way in row.others)]
    return [
        (way.name.replace("`", ""), way.value, amount(way.value, row.unit), kind)
        for way, kind in ways
    ]


def _kind(way: str) -> str:
    """Return the class of a way that is not ours: the engine's has a colour of its own."""
    return "plain" if "engine alone" in way or "apptainer" in way else "other"
