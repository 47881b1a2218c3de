"""Make an overlay larger: resize-overlay, e2fsck and resize2fs by hand."""

import os


def measure(ground):
    """From 1 GB to 3 GB, reserved; the engine has no command for it."""
    old, new = ground.count(1000, 32), ground.count(3000, 64)
    path = ground.path("grow.ext3")

    def fresh():
        if os.path.exists(path):
            os.remove(path)
        ground.run("create-overlay", "-q", "-s", str(old), "-n", str(ground.count(100)), "-o", path)

    by_hand = f"e2fsck -fy {path}; fallocate -l {new}M {path}; resize2fs {path}"
    runs = ground.runs(3)
    ours = ground.seconds(
        ground.command("resize-overlay", "-q", path, "-s", str(new)), runs, before=fresh
    )
    others = {
        "e2fsck and resize2fs": ground.seconds(
            ground.command("sh", "-c", by_hand), runs, before=fresh
        )
    }
    ground.row("grow", f"grow {old} MB to {new} MB", ours, others, way="`resize-overlay`")
    os.remove(path)
