"""Overlays of the plain ways in our commands, and ours in the plain engine."""

import gzip
import os
import subprocess

import pytest
from support import BASE, is_clean

MIB = 1 << 20


def recipe(scratch, *options):
    """Make an overlay with dd and mkfs.ext3, as the recipes of many sites do."""
    for name in ("upper", "work"):
        (scratch / "root" / name).mkdir(parents=True)
    words = ["dd", "if=/dev/zero", "of=p.ext3", "bs=1M", "count=32", "status=none"]
    subprocess.run(words, cwd=scratch, check=True)
    words = ["/usr/sbin/mkfs.ext3", "-q", "-F", *options, "-d", "root", "p.ext3"]
    subprocess.run(words, cwd=scratch, check=True)


def from_engine(scratch, engine):
    """Make an overlay with the engine's own command."""
    result = engine("overlay", "create", "--size", "64", "p.ext3")
    assert result.status == 0, result


def from_template(scratch, overlay):
    """Unpack an overlay that a site hands out compressed."""
    packed = gzip.compress(overlay("t.ext3").read_bytes(), 1)
    (scratch / "p.ext3.gz").write_bytes(packed)
    subprocess.run(["gunzip", "p.ext3.gz"], cwd=scratch, check=True)


@pytest.fixture
def make(scratch, engine, overlay):
    """Return a function that makes p.ext3 in one of the plain ways."""
    ways = {
        "dd": lambda: recipe(scratch),
        "1K blocks": lambda: recipe(scratch, "-b", "1024"),
        "-m 0": lambda: recipe(scratch, "-m", "0"),
        "-m 0, 4K, -N": lambda: recipe(scratch, "-m", "0", "-b", "4096", "-N", "5000"),
        "engine": lambda: from_engine(scratch, engine),
        "template": lambda: from_template(scratch, overlay),
    }
    return lambda way: ways[way]()


WAYS = ["dd", "1K blocks", "-m 0", "-m 0, 4K, -N", "engine", "template"]


@pytest.mark.parametrize("way", WAYS)
def test_plain_in_ours(ok, scratch, make, overlay, way):
    """An overlay made elsewhere is written, read, and read below one of ours."""
    make(way)
    ok("run-overlay", "-o", "p.ext3", "--", "sh", "-c", "mkdir /data; echo x > /data/f")
    assert ok("run-overlay", "-o", "p.ext3:ro", "--", "cat", "/data/f") == "x\n"
    overlay("top.ext3")
    assert ok("run-overlay", "-o", "top.ext3", "-o", "p.ext3", "--", "cat", "/data/f") == "x\n"
    assert is_clean(scratch / "p.ext3")


@pytest.mark.parametrize("way", WAYS)
def test_plain_and_back(ok, engine, make, way):
    """Written by the plain engine, by us, and by the plain engine again: all is there."""
    make(way)

    def plain(line):
        result = engine("exec", "--overlay", "p.ext3", BASE, "sh", "-c", line)
        assert (result.status, result.stderr) == (0, ""), result
        return result.stdout

    plain("mkdir /data; echo one >> /data/f")
    ok(
        "run-overlay",
        "-o",
        "p.ext3",
        "--",
        "sh",
        "-c",
        "echo two >> /data/f; touch /data/g",
    )
    assert plain("echo three >> /data/f; rm /data/g; cat /data/f") == "one\ntwo\nthree\n"
    words = ["run-overlay", "-o", "p.ext3", "--", "sh", "-c", "cat /data/f; ls /data"]
    assert ok(*words) == "one\ntwo\nthree\nf\n"


def test_ours_in_plain_shell(ok, engine, overlay):
    """Our overlays work in `apptainer shell`, two of them, with the engine's order."""
    for name in ("a", "b"):
        overlay(f"{name}.ext3")
        line = f"mkdir /data; echo {name} > /data/f; mkdir -p /opt/{name}"
        ok("run-overlay", "-o", f"{name}.ext3", "--", "sh", "-c", line)
    words = ["shell", "--overlay", "a.ext3", "--overlay", "b.ext3:ro", BASE]
    result = engine(*words, stdin="cat /data/f; ls /opt; echo new > /opt/a/new\n")
    assert (result.status, result.stdout) == (0, "a\na\nb\n")
    assert ok("run-overlay", "-o", "a.ext3", "--", "cat", "/opt/a/new") == "new\n"


def test_deleted_in_plain(ok, engine, overlay):
    """What the plain engine has deleted stays deleted for us, read-only too."""
    overlay()
    ok(
        "run-overlay",
        "-o",
        "a.ext3",
        "--",
        "sh",
        "-c",
        "mkdir -p /data/d; touch /data/f /data/d/g",
    )
    result = engine("exec", "--overlay", "a.ext3", BASE, "rm", "-r", "/data/f", "/data/d")
    assert (result.status, result.stderr) == (0, "")
    for mode in (":ro", ""):
        assert ok("run-overlay", "-o", f"a.ext3{mode}", "--", "ls", "-A", "/data") == ""


def test_without_upper(run, scratch):
    """An image that nobody made as an overlay is refused; the engine cannot use it either."""
    owner = f"root_owner={os.getuid()}:{os.getgid()}"
    words = ["/usr/sbin/mke2fs", "-q", "-t", "ext3", "-E", owner, "p.ext3", "32M"]
    subprocess.run(words, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    for mode in (":ro", "", ":rw"):
        assert run("run-overlay", "-o", f"p.ext3{mode}", "--", "true") == (
            65,
            "",
            "run-overlay: error: p.ext3 holds no upper directory: it was not made as an overlay\n"
            + "run-overlay: hint: make one: create-overlay -s SIZE -n FILES\n",
        )
