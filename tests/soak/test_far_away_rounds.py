"""Overlays of 200 GB and 1 TB on a file system with 5 ms an operation, ours beside the plain engine."""

import os
import time

import pytest
from support import BASE


def timed(run, *words):
    """Return the Result of a command, and the seconds that it took."""
    start = time.monotonic()
    result = run(*words)
    return result, time.monotonic() - start


@pytest.mark.parametrize("size", ["200G", "1T"])
def test_start(slow, ok, run, engine, count, size):
    """Ours starts, and its server reads no bitmap; the engine's reads each, and is given 10 s."""
    there = slow("--delay", "5", "--cached")
    for name in ("ours", "plain"):
        words = ("-q", "--sparse", "-s", size, "-n", "100")
        ok("create-overlay", *words, "-o", there.behind / f"{name}.ext3")
    ours, seconds = timed(run, "run-overlay", "-v", "-o", there.path / "ours.ext3", "--", "true")
    assert ours.status == 0, ours
    assert "its bitmaps were read ahead in " in ours.stderr
    assert len([one for one in there.operations("read") if one.program == "fuse2fs"]) < 32
    there.forget()
    plain, longer = timed(engine, "exec", "--overlay", there.path / "plain.ext3", BASE, "true")
    asked = len([one for one in there.operations("read") if one.program == "fuse2fs"])
    count(
        f"{size}, 5 ms an operation, {os.cpu_count()} processors: ours {seconds:.1f} s; the engine"
        f" {'fails' if plain.status else 'starts'} after {longer:.1f} s and {asked:,} reads"
    )
    assert asked > 1000
    there.forget()
    done, seconds = timed(run, "check-overlay", there.path / "ours.ext3")
    assert done.status == 0, done
    count(f"{size}: check-overlay {seconds:.1f} s")
    assert len([one for one in there.operations("read") if one.program == "e2fsck"]) < 200
