"""Squashfs files that no session can read: said in our words, before anything is started."""

import os

import pytest
from support import tool


@pytest.fixture
def packed(scratch):
    """Return a function that makes a.sqsh with a file in it, compressed in some way."""

    def packed(compression):
        (scratch / "tree").mkdir()
        (scratch / "tree" / "file").write_text("content")
        words = ("-comp", compression, "-quiet", "-no-progress")
        assert tool("mksquashfs", scratch / "tree", scratch / "a.sqsh", *words).returncode == 0
        return scratch / "a.sqsh"

    return packed


@pytest.mark.parametrize(
    "named", [["a.sqsh"], ["a.ext3", "-o", "a.sqsh"], ["a.sqsh:ro", "--stage"]], ids=" ".join
)
def test_lzma(run, ok, overlay, packed, named):
    """Only unsquashfs reads lzma; what the hint says makes an overlay of the same content."""
    overlay()
    packed("lzma")
    result = run("run-overlay", "-o", *named, "--", "cat", "/file")
    how = "create-overlay --from a.sqsh:/ -o NAME.sqsh"
    assert result == (
        65,
        "",
        "run-overlay: error: a.sqsh is compressed with lzma, which sessions cannot read\n"
        f"run-overlay: hint: pack it anew: {how}\n",
    )
    ok("create-overlay", "-q", "--from", "a.sqsh:/", "-o", "new.sqsh")
    assert ok("run-overlay", "-o", "new.sqsh:ro", "--", "cat", "/file") == "content"


@pytest.mark.parametrize(
    ("place", "data", "what"),
    [
        (28, b"\3\0", "is a squashfs file of version 3, and sessions read version 4"),
        (20, b"\11\0", "is compressed with a method that is not known, which sessions cannot read"),
    ],
)
def test_other_formats(run, packed, place, data, what):
    """An older version, and what is newer than we are."""
    descriptor = os.open(packed("gzip"), os.O_WRONLY)
    os.pwrite(descriptor, data, place)
    os.close(descriptor)
    for words in (
        ("run-overlay", "-o", "a.sqsh:ro", "--", "true"),
        ("mount-overlay", "-o", "a.sqsh"),
    ):
        result = run(*words)
        assert (result.status, what in result.stderr) == (65, True), result


@pytest.mark.parametrize("compression", ["gzip", "lzo", "xz", "lz4", "zstd"])
def test_readable(ok, packed, compression):
    """Those that this node's squashfuse reads are not refused."""
    packed(compression)
    assert ok("run-overlay", "-o", "a.sqsh:ro", "--", "cat", "/file") == "content"
