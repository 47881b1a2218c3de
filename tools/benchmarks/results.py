"""What was measured: rows of ways, and the machine; to and from JSON."""

from __future__ import annotations

import dataclasses
import json
import statistics

FORMAT = 1  # of the JSON; another number when its names or their meaning change

OURS = "ours"


@dataclasses.dataclass
class Way:
    """One way to do what a row is about.

    name    what it is, in words: "the engine alone"
    values  what each run of it took, in the unit of the row
    """

    name: str
    values: list[float]

    @property
    def value(self) -> float:
        """Return the median of its runs."""
        return statistics.median(self.values)


@dataclasses.dataclass
class Row:
    """One thing that was done in several ways.

    part    the part of the benchmark that it belongs to
    place   "local", or "slow": which file system the overlays lay on
    what    what was done, in words
    unit    of all values: "s", "ms" or "MiB"; less is better
    ours    the way of these commands
    others  the ways that it replaces
    """

    part: str
    place: str
    what: str
    unit: str
    ours: Way
    others: list[Way]

    def ratio(self, other: Way) -> float:
        """Return how many times as much another way takes; below 1 it is the better one."""
        return other.value / self.ours.value


@dataclasses.dataclass
class Results:
    """All rows of one run, and what they were measured on.

    machine  from what ("processors") to its words ("2")
    scale    BENCH_SCALE: 1 is the size that the words of the rows are meant for
    """

    machine: dict[str, str]
    scale: float
    rows: list[Row] = dataclasses.field(default_factory=list)


def to_json(results: Results) -> str:
    """Return results as a text of JSON."""
    return json.dumps({"format": FORMAT, **dataclasses.asdict(results)}, indent=1) + "\n"


def from_json(text: str) -> Results:
    """Return the results of a text of JSON; raise ValueError with a sentence for any other."""
    found = json.loads(text)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError("it is not of this version of tools/benchmark")
    try:
        rows = [
            Row(
                **{
                    **row,
                    "ours": Way(**row["ours"]),
                    "others": [Way(**way) for way in row["others"]],
                }
            )
            for row in found["rows"]
        ]
        return Results(found["machine"], found["scale"], rows)
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is missing or wrong: {error}") from None


def amount(value: float, unit: str) -> str:
    """Return a value in words for people: three digits that count, and the unit."""
    if unit == "s" and value < 0.9995:
        return f"{value * 1000:.{1 if value < 0.00995 else 0}f} ms"
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:,.{digits}f} {unit}"


def times(ratio: float) -> str:
    """Return a ratio in words for people: "11", "3.5", "0.85"."""
    digits = next(
        (digits for least, digits in ((9.95, 0), (1.495, 1), (0.0995, 2)) if ratio >= least), 3
    )
    return f"{ratio:,.{digits}f}"
