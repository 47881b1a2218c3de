"""One file outside, many inside: what a limit on the number of files counts."""

from drawing.canvas import MARGIN, Canvas, wrapped

ACROSS, STEP, DOT = 75, 6, 4


def draw(facts):
    """Return the picture.

    facts  "files": how many an environment of the first session has; "package": what was put in
    """
    files = facts["files"]
    each = 10
    canvas = Canvas(
        f"{files:,} files inside, one file outside",
        f"A directory with an environment of Python and {facts['package']} counts as {files:,} files "
        "against a limit on the number of files. The same environment in an overlay is one file, "
        "env.ext3.",
    )
    whole = canvas.width - 2 * MARGIN
    note = f"An environment with {facts['package']}, as a limit on files counts it. A square is {each} files."
    y = canvas.lines(MARGIN, 52, wrapped(note, whole, 13), "small faint", 17) + 12
    canvas.text(MARGIN, y, "in a directory", "strong")
    canvas.text(canvas.width - MARGIN, y, f"{files:,} files", "", "end")
    y += 12
    squares = round(files / each)
    corners = (
        (MARGIN + STEP * (count % ACROSS), y + STEP * (count // ACROSS)) for count in range(squares)
    )
    canvas.squares(corners, DOT, "mark")
    y += STEP * -(-squares // ACROSS) + 26
    canvas.text(MARGIN, y, "in an overlay", "strong")
    canvas.text(canvas.width - MARGIN, y, "1 file", "", "end")
    canvas.box(MARGIN, y + 12, 128, 34, "ours")
    canvas.text(MARGIN + 12, y + 34, "env.ext3", "code")
    return canvas.svg(y + 62)
