"""Bars, a group for each thing that was done: the shorter the better."""

from __future__ import annotations

from drawing.canvas import MARGIN, Canvas, wrapped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    # What was done, and its bars: (the way, its value, that in words, a class of canvas.FILLS).
    Group = tuple[str, Sequence[tuple[str, float, str, str]]]

# In pixels: the height of a bar, from one to the next, and the room for its value.
BAR, STEP, VALUE = 23, 27, 82


def chart(title: str, note: str, groups: Sequence[Group]) -> str:
    """Return a chart; the longest bar of a group leaves room for its value."""
    described = [note, *(_described(what, bars) for what, bars in groups)]
    canvas = Canvas(title, " ".join(described))
    whole = canvas.width - 2 * MARGIN
    y = canvas.lines(MARGIN, 52, wrapped(note, whole, 13), "small faint", 17)
    for what, bars in groups:
        y = canvas.lines(MARGIN, y + 12, wrapped(what, whole), "strong") - 11
        longest = max(value for _way, value, _words, _kind in bars)
        for way, value, words, kind in bars:
            canvas.box(MARGIN, y, (whole - VALUE) * value / longest, BAR, kind)
            canvas.text(MARGIN + 7, y + 16, way, "small")
            canvas.text(canvas.width - MARGIN, y + 16, words, "small", "end")
            y += STEP
        y += 8
    return canvas.svg(y + 6)


def _described(what: str, bars: Sequence[tuple[str, float, str, str]]) -> str:
    """Return a group as a sentence."""
    return f"{what}: " + ", ".join(f"{way} {words}" for way, _value, words, _kind in bars) + "."
