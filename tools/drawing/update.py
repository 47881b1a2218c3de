"""What update-overlay does: a copy is changed, and takes the place when all went well."""

from drawing.canvas import MARGIN, Canvas

STEPS = (
    ("copied", "to a disk of the node", "other"),
    ("changed", "your commands run in the copy", "ours"),
    ("looked at", "checked, and synced", "ours"),
    ("renamed", "into its place, in one step", "good"),
)
LEFT, WIDE = MARGIN + 110, 338


def draw(facts):
    """Return the picture; of the facts none is needed."""
    canvas = Canvas(
        "update-overlay: all or nothing",
        "update-overlay env.ext3 copies the overlay to a disk of the node, runs your commands in the "
        "copy, checks it and writes it beside the overlay, and then renames it into its place. When a "
        "command fails before that, env.ext3 stays as it was. Jobs that read the old one go on with "
        "it; the next ones see the new one. The version before stays as env.ext3.~1~, and --undo takes "
        "it back.",
    )
    canvas.text(MARGIN, 53, "update-overlay env.ext3 -- pip install numpy", "code")
    canvas.box(MARGIN, 74, 92, 36, "plain")
    canvas.text(MARGIN + 46, 97, "env.ext3", "code", "middle")
    canvas.arrow((MARGIN + 94, 92), (LEFT - 4, 92))
    y = 74
    for number, (what, how, kind) in enumerate(STEPS):
        canvas.box(LEFT, y, WIDE, 36, kind)
        canvas.text(LEFT + 10, y + 23, f"{number + 1}. {what}", "strong")
        canvas.text(LEFT + 122, y + 23, how, "small")
        if number + 1 < len(STEPS):
            canvas.arrow((LEFT + 20, y + 38), (LEFT + 20, y + 56))
        y += 58
    last = y - 58
    canvas.arrow((LEFT - 2, last + 18), (MARGIN + 98, last + 18))
    canvas.box(MARGIN, last, 92, 36, "good")
    canvas.text(MARGIN + 46, last + 23, "env.ext3", "code", "middle")
    canvas.arrow((MARGIN + 20, 112), (MARGIN + 20, last - 4))
    canvas.text(MARGIN + 30, 150, "jobs that", "small faint")
    canvas.text(MARGIN + 30, 167, "read go on", "small faint")
    y = last + 66
    canvas.box(MARGIN, y, 152, 32, "bad")
    canvas.text(MARGIN + 10, y + 21, "a command fails", "small strong")
    canvas.text(MARGIN + 164, y + 21, "env.ext3 stays as it was", "small")
    y += 42
    canvas.box(MARGIN, y, 152, 32, "other")
    canvas.text(MARGIN + 10, y + 21, "env.ext3.~1~", "code")
    canvas.text(MARGIN + 164, y + 21, "the version before, until the next update", "small")
    y += 54
    canvas.text(MARGIN, y, "update-overlay --undo env.ext3", "code")
    canvas.text(MARGIN + 262, y, "takes it back", "small")
    return canvas.svg(y + 18)
