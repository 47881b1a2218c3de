"""The report as a page: one file that needs no network, with a table that sorts, and charts."""

from __future__ import annotations

import html
import time

from overlay import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from overlay.doctor.report import Owner

# The first line of every page, by which the next one knows what it may replace.
FIRST_LINE = "<!doctype html><!-- overlay-admin report -->"

_BARS = 12  # owners that a chart shows, all others are one bar
_BAR, _GAP, _NAMES, _WIDTH, _FIGURES = 18, 8, 130, 420, 150  # of a chart, in its own units

# Heading, figure, how it is written, and what it means.
_COLUMNS: tuple[tuple[str, str, Callable[[int], str], str], ...] = (
    ("Overlays", "overlays", size.format_count, "how many"),
    ("Size", "size", size.format_size, "of the files, as ls shows it"),
    ("On disk", "allocated", size.format_size, "what of that takes room"),
    ("Data", "used", size.format_size, "what is inside"),
    ("Files", "files", size.format_count, "files and directories inside"),
    ("Not clean", "not_clean", size.format_count, "left so by a session; nobody uses them"),
    ("In use", "in_use", size.format_count, "open in a session"),
    ("Old", "old", size.format_count, "nothing was written for {older} days"),
    ("Expiring", "expiring", size.format_count, "the site's purge removes them in {soon} days"),
    ("Nearly full", "nearly_full", size.format_count, "of data or of files"),
    ("Too large", "too_large", size.format_count, "far larger than what is in them"),
    ("Damaged", "damaged", size.format_count, "what is said to be in them cannot be"),
    ("Unreadable", "unreadable", size.format_count, "for who asked"),
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5c6b7a; --line: #d7dee5;
  --back: #fff; --one: #2f6db5; --two: #9dc3ea }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4eaf0; --soft: #9aa8b6; --line: #34414e; --back: #14191f; --one: #6ea8e6;
    --two: #2f5379 } }
body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: var(--ink);
  background: var(--back); font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin-bottom: 0 } h2 { font-size: 1.1rem; margin: 0 0 .5rem }
p { color: var(--soft); margin: .2rem 0 1rem }
.charts { display: flex; flex-wrap: wrap; gap: 2rem; margin: 1.5rem 0 }
figure { flex: 1 1 26rem; margin: 0; min-width: 0 } svg { width: 100%; height: auto }
svg text { fill: var(--ink); font-size: 12px } .one { fill: var(--one) } .two { fill: var(--two) }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap }
th:first-child, td:first-child { text-align: left } tfoot td { font-weight: 600 }
th button { all: unset; cursor: pointer; font-weight: 600 }
th button:focus-visible { outline: 2px solid var(--one) }
th[aria-sort=descending] button::after { content: " \\2193" }
th[aria-sort=ascending] button::after { content: " \\2191" }
"""

_SCRIPT = """
document.querySelectorAll("th button").forEach(button => button.onclick = () => {
  const head = button.parentNode, place = head.cellIndex, body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") === "descending" || (place === 0 && !head.ariaSort);
  head.parentNode.querySelectorAll("th").forEach(one => one.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = row => row.cells[place].dataset.value ?? row.cells[place].textContent;
  [...body.rows].sort((a, b) => (up ? 1 : -1) * (place
    ? value(a) - value(b) : value(a).localeCompare(value(b)))).forEach(row => body.append(row));
});
"""


def page(
    owners: Sequence[Owner],
    total: Owner,
    *,
    directories: Iterable[str],
    now: float,
    older: int,
    soon: int,
) -> str:
    """Return the page, in HTML.

    owners       the one with most bytes first, as report.collect() returns them
    total        the Owner that stands for all
    directories  that were looked through, as they were named
    now          seconds since 1970
    older, soon  days after which an overlay is old, and in which one expires
    """
    # Columns of which every figure is 0 say nothing.
    columns = [column for column in _COLUMNS[:5]]
    columns += [column for column in _COLUMNS[5:] if getattr(total, column[1])]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(now))
    where = ", ".join(map(_text, directories))
    most_files = sorted(owners, key=lambda one: -one.kept_off)
    return "\n".join(
        (
            FIRST_LINE,
            '<html lang="en"><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            # Nothing is fetched, whatever an owner's name may hold.
            '<meta http-equiv="Content-Security-Policy" content="default-src '
            "'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">",
            f"<title>Overlays by owner, {when}</title>",
            f"<style>{_STYLE}</style>",
            "<h1>Overlays by owner</h1>",
            f"<p>{where}, {when}. {_text(size.format_files(total.kept_off))} are inside that the"
            " file system need not hold.</p>",
            '<div class="charts">',
            _chart(
                "Room on disk, and of it data inside",
                owners,
                (lambda one: one.allocated, lambda one: min(one.used, one.allocated)),
                size.format_size,
            ),
            _chart(
                "Files kept off the file system",
                most_files,
                (lambda one: one.kept_off,),
                size.format_count,
            ),
            "</div>",
            *_table(owners, total, columns, older, soon),
            f"<script>{_SCRIPT}</script></html>\n",
        )
    )


def _table(
    owners: Iterable[Owner],
    total: Owner,
    columns: Iterable[tuple[str, str, Callable[[int], str], str]],
    older: int,
    soon: int,
) -> list[str]:
    """Return the lines of the table."""
    heads = [("Owner", "of the files"), *((one[0], one[3]) for one in columns)]
    first, *rows = (
        f"<tr><td>{_text(one.name)}</td>"
        + "".join(
            f'<td data-value="{getattr(one, figure)}">{_text(form(getattr(one, figure)))}</td>'
            for _, figure, form, _ in columns
        )
        + "</tr>"
        for one in (total, *owners)
    )
    return [
        '<div class="scroll"><table><thead><tr>',
        *(
            f'<th scope="col" title="{_text(words.format(older=older, soon=soon))}">'
            f'<button type="button">{head}</button></th>'
            for head, words in heads
        ),
        "</tr></thead><tbody>",
        *rows,
        f"</tbody><tfoot>{first}</tfoot></table></div>",
    ]


def _chart(
    title: str,
    owners: Sequence[Owner],
    figures: Sequence[Callable[[Owner], int]],
    form: Callable[[int], str],
) -> str:
    """Return a figure of one horizontal bar an owner, the first of the figures the longest."""
    shown = [(one.name, [figure(one) for figure in figures]) for one in owners[:_BARS]]
    others = owners[_BARS:]
    if others:
        sums = [sum(figure(one) for one in others) for figure in figures]
        shown.append((f"{size.format_count(len(others))} others", sums))
    most = max([amounts[0] for _, amounts in shown], default=0) or 1
    lines = []
    for number, (name, amounts) in enumerate(shown):
        top = number * (_BAR + _GAP)
        line = top + _BAR * 3 // 4
        short = name if len(name) <= 18 else name[:17] + "\N{HORIZONTAL ELLIPSIS}"
        said = " / ".join(map(form, amounts))
        lines.append(f"<g><title>{_text(name)}: {_text(said)}</title>")
        lines.append(f'<text x="{_NAMES - 8}" y="{line}" text-anchor="end">{_text(short)}</text>')
        # The part that is filled lies in the bar of the whole.
        for amount, style in zip(amounts, ("two", "one") if len(amounts) > 1 else ("one",)):
            length = max(1, round(amount / most * _WIDTH)) if amount else 0
            lines.append(
                f'<rect class="{style}" x="{_NAMES}" y="{top}" width="{length}" height="{_BAR}"/>'
            )
        end = _NAMES + round(amounts[0] / most * _WIDTH) + 6
        lines.append(f'<text x="{end}" y="{line}">{_text(said)}</text></g>')
    whole = _NAMES + _WIDTH + _FIGURES
    height = max(1, len(shown)) * (_BAR + _GAP)
    return "\n".join(
        (
            f"<figure><h2>{title}</h2>",
            f'<svg viewBox="0 0 {whole} {height}" role="img" aria-label="{title}">',
            *lines,
            "</svg></figure>",
        )
    )


def _text(text: str) -> str:
    """Return text as it stands in HTML; names may hold anything."""
    return html.escape(text.encode(errors="replace").decode())
