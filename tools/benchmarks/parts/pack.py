"""Pack an overlay into one compressed file: pack-overlay, mksquashfs of the same files."""

import os


def measure(ground):
    """Pack many small files; ours reads all again and compares."""
    number = ground.count(20000, 40)
    tree, full = ground.tree(number), ground.path("full.ext3")
    checked, unchecked, plain = (
        ground.path(name) for name in ("checked.sqsh", "unchecked.sqsh", "plain.sqsh")
    )
    ground.run("create-overlay", "-q", "--from", f"{tree}:/tree", "-o", full)
    ours = ground.seconds(ground.command("pack-overlay", full, "-o", checked))
    others = {
        "the same, `--no-verify`": ground.seconds(
            ground.command("pack-overlay", full, "-o", unchecked, "--no-verify")
        ),
        "mksquashfs of a directory": ground.seconds(
            ground.command("mksquashfs", tree, plain, "-quiet", "-no-progress", "-comp", "zstd")
        ),
    }
    ground.row("pack", f"pack {number:,} small files", ours, others, way="`pack-overlay`")
    for path in (full, checked, unchecked, plain):
        os.remove(path)
