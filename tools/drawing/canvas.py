"""Shapes and words on a card, written as SVG 1.1."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Narrow, so that nothing has to be made much smaller on a telephone.
WIDTH = 480
MARGIN = 16

# From the name of a class to its colours, on a light ground and on a dark one.
PAPER = ("#ffffff", "#0d1117")
INK = ("#1f2328", "#e6edf3")
FAINT = ("#59636e", "#9198a1")
EDGE = ("#d1d9e0", "#3d444d")
FILLS = {
    "ours": ("#b6dcff", "#123f70"),
    "plain": ("#ffdf9e", "#5c4413"),
    "other": ("#e3e7eb", "#30363d"),
    "good": ("#b9ecc5", "#12502a"),
    "bad": ("#ffd0cc", "#702322"),
    # Small ones, which would not be seen in a pale colour.
    "mark": ("#8c959f", "#6e7681"),
}


def _style(number: int) -> str:
    """Return the rules of all classes, for a light ground (0) or a dark one (1)."""
    rules = [
        f".paper{{fill:{PAPER[number]};stroke:{EDGE[number]}}}",
        f"text{{fill:{INK[number]}}}",
        f".faint{{fill:{FAINT[number]}}}",
        f".line{{stroke:{FAINT[number]};fill:none}}",
        f".head{{fill:{FAINT[number]}}}",
        f".empty{{fill:none;stroke:{FAINT[number]};stroke-dasharray:4 3}}",
        *(f".{name}{{fill:{colours[number]}}}" for name, colours in FILLS.items()),
    ]
    return "".join(rules)


STYLE = (
    "text{font:15px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif}"
    ".title{font-size:17px;font-weight:600}.small{font-size:13px}"
    ".code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:13px}"
    ".strong{font-weight:600}"
    f"{_style(0)}@media (prefers-color-scheme:dark){{{_style(1)}}}"
)


class Canvas:
    """A picture under way; all lengths are in pixels of a card that is WIDTH wide.

    title        what it shows, in a few words; it stands on the card, and for those who listen
    description  the same as a text, for those who do not see it
    """

    def __init__(self, title: str, description: str, width: int = WIDTH) -> None:
        self.title, self.description, self.width = title, description, width
        self.parts: list[str] = []
        self.text(MARGIN, 30, title, "title")

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        """Write words on a base line; kind is one or more of the classes."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}"{_class(kind)}'
            + (f' text-anchor="{anchor}"' if anchor != "start" else "")
            # Spaces count in what a terminal shows.
            + (' xml:space="preserve"' if "code" in kind else "")
            + f">{escape(words)}</text>"
        )

    def lines(
        self, x: float, y: float, lines: Iterable[str], kind: str = "", step: int = 19
    ) -> float:
        """Write several lines, and return the base line of the one that would follow."""
        for line in lines:
            self.text(x, y, line, kind)
            y += step
        return y

    def box(
        self, x: float, y: float, width: float, height: float, kind: str, round: int = 4
    ) -> None:
        """Draw a rectangle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{max(width, 1):g}" height="{height:g}" '
            f'rx="{round}"{_class(kind)}/>'
        )

    def squares(self, corners: Iterable[tuple[float, float]], side: float, kind: str) -> None:
        """Draw many small squares, as one shape."""
        way = "".join(f"M{x:g} {y:g}h{side:g}v{side:g}h-{side:g}z" for x, y in corners)
        self.parts.append(f'<path d="{way}"{_class(kind)}/>')

    def arrow(self, *points: tuple[float, float]) -> None:
        """Draw a line through points, with a head at its end."""
        (x0, y0), (x, y) = points[-2:]
        way = "".join(f"{'L' if count else 'M'}{a:g} {b:g}" for count, (a, b) in enumerate(points))
        self.parts.append(f'<path d="{way}" class="line"/>')
        length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
        across, along = (x - x0) / length, (y - y0) / length
        corners = [
            (x, y),
            (x - 8 * across - 4 * along, y - 8 * along + 4 * across),
            (x - 8 * across + 4 * along, y - 8 * along - 4 * across),
        ]
        drawn = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
        self.parts.append(f'<polygon points="{drawn}" class="head"/>')

    def svg(self, height: float) -> str:
        """Return the picture as the text of a file."""
        size = f'width="{self.width}" height="{height:g}" viewBox="0 0 {self.width} {height:g}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" '
                f'aria-labelledby="title description">',
                f'<title id="title">{escape(self.title)}</title>',
                f'<desc id="description">{escape(self.description)}</desc>',
                f"<style>{STYLE}</style>",
                f'<rect x="0.5" y="0.5" width="{self.width - 1}" height="{height - 1:g}" rx="8" '
                'class="paper"/>',
                *self.parts,
                "</svg>\n",
            ]
        )


def _class(kind: str) -> str:
    """Return the attribute for classes, if there are any."""
    return f" class={quoteattr(kind)}" if kind else ""


def wrapped(words: str, width: float, size: float = 15) -> list[str]:
    """Return words in lines that are at most so wide, as far as can be known without the font."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) * size * 0.53 <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
