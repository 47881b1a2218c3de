"""Start a session that does nothing: run-overlay, the engine alone."""

import os


def measure(ground):
    """Writable and read-only, on each file system, the two ways in turn."""
    for place, directory in ground.places():
        path = os.path.join(directory, "launch.ext3")
        size = ("--sparse", "-s", str(ground.count(500, 32)), "-n", str(ground.count(50)))
        ground.run("create-overlay", "-q", *size, "-o", path)
        for kind, overlay in (("writable", path), ("read-only", f"{path}:ro")):
            ours, plain = [], []
            for _ in range(ground.runs(9 if place == "local" else 5)):
                # In turn, so that what the machine does meanwhile is in both.
                plain += ground.seconds(ground.command(*ground.engine(overlay), "true"))
                ours += ground.seconds(ground.command(*ground.session(overlay), "true"))
            others = {"the engine alone": plain}
            what = f"start a session, {kind}"
            ground.row("launch", what, ours, others, way="`run-overlay`", place=place)
        os.remove(path)
