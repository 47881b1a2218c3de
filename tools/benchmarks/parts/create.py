"""Make an empty overlay: create-overlay, mke2fs, the engine's own command, dd and mkfs."""

import os

OURS = "`create-overlay`"


def measure(ground):
    """Make overlays of 500 MB for 700 thousand files, and a large one."""
    for place, directory in ground.places():
        _of_500(ground, place, directory)
    _large(ground)


def _of_500(ground, place, directory):
    """The example of the documentation, which the engine's command makes as well."""
    size, files = ground.count(500, 64), ground.count(700)
    path = os.path.join(directory, "o.ext3")
    removed = _remover(path)
    words = ("-q", "-s", str(size), "-n", str(files), "-o", path)
    bare = f"truncate -s {size}M {path}; mke2fs -q -F -t ext3 -b 4096 -I 256 -N {files}000 {path}"
    reserved = f"{bare}; fallocate -l {size}M {path}"

    def timed(*command):
        return ground.seconds(ground.command(*command), ground.runs(5), before=removed)

    what = f"create {size} MB for {files}K files"
    if place == "local":
        ours = timed("create-overlay", "--sparse", *words)
        others = {"mke2fs alone": timed("sh", "-ec", bare)}
        ground.row("create", f"{what}, sparse", ours, others, way=OURS)
    ours = timed("create-overlay", *words)
    engine = ("apptainer", "overlay", "create", "--size", str(size), path)
    others = {
        "mke2fs and fallocate": timed("sh", "-ec", reserved),
        "`apptainer overlay create`": ground.seconds(
            ground.command(*engine), ground.runs(3), before=removed
        ),
    }
    ground.row("create", f"{what}, reserved", ours, others, way=OURS, place=place)
    removed()


def _large(ground):
    """A large one, by the recipe that many sites give to their users."""
    size, path = ground.count(2000, 64), ground.path("o.ext3")
    removed = _remover(path)
    words = ("create-overlay", "-q", "-s", str(size), "-n", str(ground.count(200)), "-o", path)
    recipe = f"dd if=/dev/zero of={path} bs=1M count={size} && mkfs.ext3 -q -F {path}"
    ours = ground.seconds(ground.command(*words), ground.runs(5), before=removed)
    dd = ground.seconds(ground.command("sh", "-c", recipe), before=removed)
    ground.row("create", f"create {size} MB, reserved", ours, {"dd and mkfs.ext3": dd}, way=OURS)
    removed()


def _remover(path):
    """Return what removes a file, when it is there."""

    def remove():
        if os.path.exists(path):
            os.remove(path)

    return remove
