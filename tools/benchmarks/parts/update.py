"""One more package in an environment: update-overlay, inside a session, by the engine alone."""

import os
import shutil


def measure(ground):
    """Install it in each way into a copy of the same overlay, on each file system."""
    env = ground.environment()
    files = ground.text(*ground.session(f"{env}:ro"), "sh", "-c", "find /opt/env | wc -l")
    for place, directory in ground.places():
        ours, session, plain = (
            os.path.join(directory, f"{name}.ext3") for name in ("ours", "session", "plain")
        )
        for path in (ours, session, plain):
            ground.run("cp", "--sparse=always", env, path)
            ground.forget(path)
        outside = os.path.join(directory, "outside")
        into = ground.install(ground.one_more, "/opt/env", outside)
        inside = ("sh", "-c", ground.install(ground.one_more, "/opt/env"))
        update = ("update-overlay", ours, *ground.binds(), "--", *inside)
        mine = ground.seconds(ground.command(*update))
        others = {
            "inside, the engine alone": ground.seconds(
                ground.command(*ground.engine(plain), *inside)
            ),
            "inside, `run-overlay`": ground.seconds(
                ground.command(*ground.session(session), *inside)
            ),
            "into a directory": ground.seconds(
                ground.command(*ground.session(f"{session}:ro"), "sh", "-c", into)
            ),
        }
        what = f"one more package, beside {int(files):,} files"
        ground.row("update", what, mine, others, way="`update-overlay`", place=place)
        shutil.rmtree(outside)
        for name in os.listdir(directory):
            if name.startswith(("ours.ext3", "session.ext3", "plain.ext3")):
                os.remove(os.path.join(directory, name))
