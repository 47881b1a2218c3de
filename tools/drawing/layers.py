"""What an overlay is made of: layers over each other, seen as one tree of files."""

from drawing.canvas import MARGIN, Canvas

# From the top: name, what it is, class, and the names in it, with the column of each.
LAYERS = (
    ("results.ext3", "first: takes what you write", "ours", {3: "/data"}),
    ("env.ext3", "read-only, for many at once", "good", {1: "/opt/env"}),
    ("base.sif", "the container", "other", {0: "/usr", 1: "/opt"}),
)
TREE = ("/usr", "/opt/env", "/scratch", "/data")
LEFT = MARGIN + 10
COLUMNS = (212, 262, 336, 410)


def draw(facts):
    """Return the picture; of the facts none is needed."""
    canvas = Canvas(
        "Layers, seen as one tree of files",
        "run-overlay -o results.ext3 -o env.ext3: a program inside sees one tree. /data comes from "
        "results.ext3, the first overlay, which takes all that is written. /opt/env comes from "
        "env.ext3, which is only read. /usr comes from the container base.sif at the bottom. "
        "/home and /scratch are the host's own and lie over all.",
    )
    whole = canvas.width - 2 * MARGIN
    canvas.text(MARGIN, 53, "run-overlay -o results.ext3 -o env.ext3", "code")
    canvas.box(MARGIN, 74, whole, 48, "empty")
    canvas.text(LEFT, 94, "what a program", "strong")
    canvas.text(LEFT, 113, "inside sees", "strong")
    for x, name in zip(COLUMNS, TREE):
        canvas.text(x, 103, name, "code strong")
    for top, (name, what, kind, names) in zip((160, 228, 296), LAYERS):
        canvas.box(MARGIN, top, whole, 56, kind)
        canvas.text(LEFT, top + 24, name, "code strong")
        canvas.text(LEFT, top + 44, what, "small")
        for number, path in names.items():
            canvas.text(COLUMNS[number], top + 34, path, "code")
    canvas.box(MARGIN, 364, whole, 56, "plain")
    canvas.text(LEFT, 388, "the host", "strong")
    canvas.text(LEFT, 408, "seen as it is, over all", "small")
    canvas.text(COLUMNS[2], 388, "/scratch", "code")
    canvas.text(COLUMNS[2], 408, "/home", "code")
    for column, bottom in ((0, 314), (1, 246), (3, 178), (2, 372)):
        canvas.arrow((COLUMNS[column] + 12, bottom), (COLUMNS[column] + 12, 126))
    return canvas.svg(436)
