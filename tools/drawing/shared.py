"""Many tasks on a node: a session each, or one that they join."""

from drawing.canvas import MARGIN, Canvas

TASKS = 3
HALF = 216


def draw(facts):
    """Return the picture.

    facts  "tasks": how many were started at once; "apart" and "joined": what that took, in words;
           "memory tasks", "memory apart", "memory joined": the same of the memory
    """
    tasks = facts["tasks"]
    canvas = Canvas(
        "Tasks that join one session",
        f"Without --share each of the tasks on a node starts an engine and servers of its own: {tasks} "
        f"starts at once take {facts['apart']}. With run-overlay --share the first task starts a "
        f"session, and the others join it: {tasks} starts take {facts['joined']}. The memory of "
        f"{facts['memory tasks']} sessions is {facts['memory apart']}, joined {facts['memory joined']}.",
    )
    right = canvas.width - MARGIN - HALF
    for left, title in ((MARGIN, "a session each"), (right, "--share")):
        canvas.text(left, 62, title, "strong" if left == MARGIN else "code strong")
    step = HALF / TASKS
    for left in (MARGIN, right):
        for number in range(TASKS):
            canvas.box(left + step * number, 78, step - 8, 34, "good")
            canvas.text(left + step * number + (step - 8) / 2, 100, "task", "small", "middle")
    for number in range(TASKS):
        x = MARGIN + step * number
        canvas.arrow((x + (step - 8) / 2, 114), (x + (step - 8) / 2, 138))
        canvas.box(x, 140, step - 8, 62, "plain")
        for line, word in enumerate(("engine", "and", "servers")):
            canvas.text(x + (step - 8) / 2, 159 + 16 * line, word, "small", "middle")
        canvas.arrow((x + (step - 8) / 2, 204), (MARGIN + 74 + number * 30, 238))
        canvas.arrow(
            (right + step * number + (step - 8) / 2, 114),
            (right + step * number + (step - 8) / 2, 138),
        )
    canvas.box(right, 140, HALF - 8, 62, "ours")
    canvas.text(right + HALF / 2 - 4, 166, "one session", "", "middle")
    canvas.text(right + HALF / 2 - 4, 186, "engine and servers", "small", "middle")
    canvas.arrow((right + HALF / 2 - 4, 204), (right + HALF / 2 - 4, 238))
    for left in (MARGIN, right):
        canvas.box(left + 34, 240, 140, 32, "other")
        canvas.text(left + 104, 261, "env.ext3:ro", "code", "middle")
    rows = (
        (f"{tasks} starts at once", "apart", "joined"),
        (f"memory of {facts['memory tasks']} sessions", "memory apart", "memory joined"),
    )
    y = 304
    for what, apart, joined in rows:
        for left, name in ((MARGIN, apart), (right, joined)):
            canvas.text(left, y, what, "small faint")
            canvas.text(left, y + 21, facts[name], "strong")
        y += 52
    return canvas.svg(y - 16)
