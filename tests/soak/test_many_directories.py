"""More than 65,000 directories in one, which ext3 has no number for: usable, and never ext4."""

import os
import subprocess

from overlay.image import ext3
from overlay.image.ext3_read import Reader
from support import tool

MANY = 65_100


def names(path):
    """Return how many directories there are in the one that holds so many."""
    with open(path, "rb") as file:
        reader = Reader(file.fileno(), ext3.read_superblock(file.fileno()))
        return sum(1 for _entry in reader.entries(reader.lookup(b"upper/many")[1])) - 2


def test_many(words, environ, scratch, ok):
    """Filled, gone on with, checked, turned into ext4 by e2fsck -y and used again."""
    for number in range(MANY):
        os.makedirs(scratch / "many" / str(number))
    line = ["-q", "--sparse", "-s", "800", "-n", "75", "--from", "many", "-o", "a"]
    subprocess.run([*words("create-overlay"), *line], env=environ, cwd=scratch, check=True)
    # To list so many takes fuse2fs minutes; to use the overlay does not need that.
    ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "echo one >/one")
    assert names(scratch / "a.ext3") == MANY
    assert ok("check-overlay", "a.ext3") == "a.ext3: clean\n"
    before = (scratch / "a.ext3").read_bytes()
    assert ok("check-overlay", "a.ext3") == ok("check-overlay", "--repair", "a.ext3")
    assert (scratch / "a.ext3").read_bytes() == before
    tool("e2fsck", "-fy", scratch / "a.ext3")
    assert "dir_nlink" in tool("dumpe2fs", "-h", scratch / "a.ext3").stdout
    assert ok("run-overlay", "-o", "a.ext3", "--", "cat", "/one") == "one\n"
    assert "dir_nlink" not in tool("dumpe2fs", "-h", scratch / "a.ext3").stdout
    assert names(scratch / "a.ext3") == MANY
    assert ok("check-overlay", "a.ext3") == "a.ext3: clean\n"
