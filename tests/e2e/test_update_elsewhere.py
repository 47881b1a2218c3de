"""update-overlay on file systems that lack what it would use: attributes, exchanges, hard links."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import tool, wait_until

CHANGE = ("--", "sh", "-c", "echo two >/opt/x/f")

# Becomes a program for which link(2) and renameat2(2), and attributes where they are asked for, are
# what they are on a file system that has none: the kernel answers so, by a filter of its own.
WITHOUT = """
import ctypes, os, struct, sys
calls = {"x86_64": (0xC000003E, {1: (86, 265), 22: (316,), 95: (188, 189, 190, 191, 192, 193)}),
         "aarch64": (0xC00000B7, {1: (37,), 22: (276,), 95: (5, 6, 7, 8, 9, 10)})}
machine, numbers = calls[os.uname().machine]
lines = [(0x20, 0, 0, 4), (0x15, 1, 0, machine), (0x06, 0, 0, 0x7FFF0000), (0x20, 0, 0, 0)]
for error in map(int, sys.argv[1].split(",")):
    for number in numbers[error]:
        lines += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error)]
lines.append((0x06, 0, 0, 0x7FFF0000))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
program = ctypes.c_char_p(struct.pack("HP", len(lines), ctypes.addressof(code)))
prctl = ctypes.CDLL(None).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def bare(tmp_path):
    """Return a directory on a file system without extended attributes and without exchanges."""
    image, place = tmp_path / "bare.img", tmp_path / "bare"
    place.mkdir()
    owner = f"root_owner={os.getuid()}:{os.getgid()}"
    done = tool("mke2fs", "-q", "-t", "ext2", "-O", "^ext_attr", "-E", owner, image, "200M")
    assert done.returncode == 0, done
    subprocess.run(["fuse2fs", image, place], check=True, capture_output=True)
    wait_until(lambda: os.path.ismount(place))
    yield place
    subprocess.run(["fusermount3", "-uz", place], check=True)


@pytest.fixture
def make(ok):
    """Return a function that makes an overlay with a file in some directory."""

    def make(place):
        ok("create-overlay", "-q", "--sparse", "-s", "24", "-n", "1", "-o", place / "env.ext3")
        line = "mkdir -p /opt/x; echo one >/opt/x/f"
        ok("run-overlay", "-q", "-o", place / "env.ext3", "--", "sh", "-c", line)
        return place / "env.ext3"

    return make


@pytest.fixture
def read(ok):
    """Return a function that says what is in the file of an overlay."""
    return lambda path: ok("run-overlay", "-q", "-o", f"{path}:ro", "--", "cat", "/opt/x/f")


def names(place):
    """Return what a user sees in a directory, and what begins with a dot."""
    found = sorted(set(os.listdir(place)) - {"lost+found"})
    return [name for name in found if name[0] != "."], [name for name in found if name[0] == "."]


def test_no_attributes(ok, bare, make, read):
    """Versions are known without attributes, do not pile up, and go back without an exchange."""
    with pytest.raises(OSError, match="not supported"):
        os.setxattr(bare, "user.x", b"")
    path = make(bare)
    (bare / "env.ext3.~1~").write_text("of cp --backup=numbered")
    for text in ("two", "three", "four"):
        ok("update-overlay", "-q", path, "--", "sh", "-c", f"echo {text} >/opt/x/f")
    assert names(bare) == (
        ["env.ext3", "env.ext3.~1~", "env.ext3.~4~"],
        [".overlay-version.env.ext3.~4~"],
    )
    assert (read(path), read(f"{path}.~4~")) == ("four\n", "three\n")
    assert "~4~" in ok("show-overlay", path)
    for expected in ("three\n", "four\n", "three\n"):
        ok("update-overlay", "-q", "--undo", path)
        assert read(path) == expected
    ok("update-overlay", "-q", "--forget", path)
    assert names(bare) == (["env.ext3", "env.ext3.~1~"], [])


@pytest.mark.parametrize(
    ("lacks", "kept"),
    [("1", True), ("1,95", True), ("1,22", False), ("22,95", True)],
    ids=["links", "links-attributes", "links-exchanges", "exchanges-attributes"],
)
def test_lacking(ok, words, environ, scratch, make, read, lacks, kept):
    """The update ends well, the new one has the name; the old one keeps one where it can have one."""
    path = make(scratch)
    start = [sys.executable, "-IS", "-c", WITHOUT, lacks, *words("update-overlay")]
    for text in ("two", "three"):
        line = ["env.ext3", "--", "sh", "-c", f"echo {text} >/opt/x/f"]
        done = subprocess.run(
            [*start, *line], env=environ, cwd=scratch, capture_output=True, text=True
        )
        assert done.returncode == 0, done
        assert read(path) == f"{text}\n"
        assert ("not kept" in done.stdout) != kept, done
    before = [name for name in names(scratch)[0] if name.startswith("env.ext3.~")]
    assert len(before) == kept
    for name in before:
        assert read(Path(scratch, name)) == "two\n"
    if "1" not in lacks.split(","):
        subprocess.run([*start, "-q", "--undo", "env.ext3"], env=environ, cwd=scratch, check=True)
        assert read(path) == "two\n"
