"""Make an environment with pip: create-overlay -f, inside an overlay, in a directory."""

import os
import shutil


def measure(ground):
    """The same lines in each way; nothing is downloaded meanwhile."""
    recipe = ground.recipe("env.txt")
    nothing = ground.path("nothing.txt")
    with open(nothing, "w", encoding="utf-8"):
        pass
    # The first build on a node unpacks the base image.
    ground.run("create-overlay", "-q", "-f", nothing, "-s", "20", "-n", "1", "-o", "first")
    words = ["create-overlay", "-q", "-f", recipe, *ground.binds(), *ground.room()]
    ours = ground.seconds(ground.command(*words, "-o", ground.path("env.ext3")))
    others = {}
    sessions = {"the engine alone": ground.engine, "`run-overlay`": ground.session}
    for way, session in sessions.items():
        ground.run("create-overlay", "-q", *ground.room(), "-o", "inside")
        others[f"`pip` inside, {way}"] = ground.seconds(
            ground.command(*session(ground.path("inside.ext3")), "sh", recipe)
        )
        os.remove(ground.path("inside.ext3"))
    outside = ground.path("outside")
    os.mkdir(outside)
    recipe = ground.recipe("outside.txt", outside)
    # In a session that reads, for the same Python; what it writes goes to the host.
    host = [*ground.session(ground.path("first.ext3:ro")), "sh", recipe]
    others["`pip` into a directory"] = ground.seconds(ground.command(*host))
    shutil.rmtree(outside)
    os.remove(ground.path("first.ext3"))
    files = ground.text(*ground.session("env.ext3:ro"), "sh", "-c", "find /opt/env | wc -l")
    what = f"an environment of {int(files):,} files"
    ground.row("build", what, ours, others, way="`create-overlay -f`")
