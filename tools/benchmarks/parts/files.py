"""Many small files: a directory of the file system, an overlay by the engine, ours."""

import os
import shutil

from benchmarks.ground import Failed

# Names, types, modes, times, links and the content of all files, as one checksum.
SUMMARY = (
    'cd /tree && { find . ! -name . -printf "%P %y %m %Ts %n %l\\n" | sort; '
    "find . -type f | sort | xargs cat | md5sum; } "
    '| sed "s/^\\(\\S* d [0-7]* [0-9]*\\) [0-9]*/\\1/" | md5sum'
)
LIST = "find {}"
READ = "tar -C {} -cf - . | wc -c"


def measure(ground):
    """Write them, walk and read them, on each file system."""
    for place, directory in ground.places():
        number = ground.count(20000 if place == "local" else 1500, 40)
        _write(ground, place, directory, number)
        _read(ground, place, directory, number)
        _remove(directory)


def _write(ground, place, directory, number):
    """Bring the same tree in: at once, and inside a session."""
    tree = ground.tree(number)
    filled, by_hand, by_engine = (
        os.path.join(directory, name) for name in ("filled.ext3", "hand.ext3", "engine.ext3")
    )
    outside = os.path.join(directory, "tree")
    copy = f"cp -a {tree} /tree"
    runs = ground.runs(3)

    def fresh():
        if os.path.exists(filled):
            os.remove(filled)

    at_once = ground.seconds(
        ground.command("create-overlay", "-q", "--from", f"{tree}:/tree", "-o", filled), runs, fresh
    )
    for path in (by_hand, by_engine):
        size, files = ground.count(400, 32), ground.count(40)
        ground.run("create-overlay", "-q", "-s", str(size), "-n", str(files), "-o", path)
    plain = ground.seconds(ground.command(*ground.engine(by_engine), "sh", "-c", copy))
    ours = ground.seconds(ground.command(*ground.session(by_hand), "sh", "-c", copy))
    direct = ground.seconds(ground.command("cp", "-a", tree, outside))
    if len({_summary(ground, path) for path in (filled, by_hand, by_engine)}) != 1:
        raise Failed("what was filled at once, and what was written inside, differ")
    others = {"`cp -a` inside, the engine alone": plain, "`cp -a` into a directory": direct}
    what = f"bring in {number:,} small files"
    ground.row("files", what, at_once, others, way="`create-overlay --from`", place=place)
    ground.row(
        "files",
        f"write {number:,} small files inside",
        ours,
        others,
        way="`run-overlay`",
        place=place,
    )


def _read(ground, place, directory, number):
    """Walk over them and read them, when nothing of their content is in memory."""
    filled, packed = (os.path.join(directory, name) for name in ("filled.ext3", "filled.sqsh"))
    outside = os.path.join(directory, "tree")
    ground.run("pack-overlay", filled, "-o", packed, "--open")
    # On a slow file system what is slowest there is done once.
    runs, few = ground.runs(3), ground.runs(3 if place == "local" else 1)
    sessions = {
        "ours": (ground.session(f"{filled}:ro"), filled),
        "plain": (ground.engine(f"{filled}:ro"), filled),
        "packed": (ground.session(packed), packed),
    }
    for what, line in (("walk over", LIST), ("read", READ)):
        inside, found = line.format("/tree"), {name: [] for name in sessions}
        for _ in range(runs):
            # In turn, so that what the machine does meanwhile is in all.
            for name, (words, layer) in sessions.items():
                found[name] += ground.within(words, inside, cold=layer)
        direct = {"a directory": ground.within([], line.format(outside), few, outside)}
        what = f"{what} {number:,} small files"
        others = {"the engine alone": found["plain"], **direct}
        way = "`run-overlay`, :ro"
        ground.row("files", what, found["ours"], others, way=way, place=place)
        way = "`run-overlay`, .sqsh"
        ground.row("files", f"{what}, packed", found["packed"], direct, way=way, place=place)


def _summary(ground, overlay):
    """Return a checksum of the tree in an overlay, as a session sees it."""
    return ground.text(*ground.session(f"{overlay}:ro"), "sh", "-c", SUMMARY)


def _remove(directory):
    """Remove what lies there."""
    shutil.rmtree(os.path.join(directory, "tree"))
    for name in ("filled.ext3", "filled.sqsh", "hand.ext3", "engine.ext3"):
        os.remove(os.path.join(directory, name))
