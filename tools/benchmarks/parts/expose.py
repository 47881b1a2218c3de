"""A Python of an overlay as a command of the host, many times in turn."""

import os
import shutil

ENGINE = "the engine alone"


def measure(ground):
    """Start it over and over, and see what it takes more than the host's own."""
    ground.environ.update(OVERLAY_SCRATCH_LOCAL=ground.path(), OVERLAY_LAUNCH_LINGER="600")
    number, runs = ground.count(100, 4), ground.runs(3)
    recipe = ground.path("expose.txt")
    with open(recipe, "w", encoding="utf-8") as file:
        file.write("set -e\npython3 -m venv --without-pip /opt/env\n")
    overlay, there = ground.path("expose.ext3"), ground.path("exposed")
    ground.run("create-overlay", "-q", "-f", recipe, "-s", "32", "-n", "2", "-o", overlay)
    ground.run("expose-overlay", "-q", "-o", overlay, there)
    program = [os.path.join(there, "bin", "python"), "-c", "pass"]
    plain = [*ground.engine(f"{overlay}:ro"), "/opt/env/bin/python", "-c", "pass"]
    host = ["/usr/bin/python3", "-c", "pass"]
    few = ground.count(10, 2)

    def each(words, count):
        """Return the milliseconds of one start."""
        found = ground.seconds(ground.in_turn(count, words), runs)
        return [seconds * 1000 / count for seconds in found]

    try:
        ground.run(*program)
        ours = each(program, number)
        others = {ENGINE: each(plain, few), "the host's own Python": each(host, number)}
    finally:
        ground.run("overlay-admin", "sessions", "-q", "--end")
        for name in ("OVERLAY_SCRATCH_LOCAL", "OVERLAY_LAUNCH_LINGER"):
            del ground.environ[name]
    ground.row("expose", "one start of Python", ours, others, way="an exposed program", unit="ms")
    os.remove(overlay)
    shutil.rmtree(there)
