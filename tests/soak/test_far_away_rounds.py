"""Overlays of 200 GB and 1 TB on a file system with 5 ms an operation, ours beside the plain engine."""

import os
import subprocess
import time

import pytest
from e2e.safety.trees import holders, kill
from support import BASE


def timed(run, *words):
    """Return the Result of a command, and the seconds that it took."""
    start = time.monotonic()
    result = run(*words)
    return result, time.monotonic() - start


def plain(path, environ):
    """Start a session with the plain engine and return its status; what it leaves behind is ended."""
    words = ["/usr/bin/env", "apptainer", "exec", "--overlay", path, BASE, "true"]
    # Not through a pipe: a server that the engine has given up holds that, and goes on.
    status = subprocess.run(words, env=environ, check=False, stderr=subprocess.DEVNULL).returncode
    kill(holders(path))
    return status


@pytest.mark.parametrize("size", ["200G", "1T"])
def test_start(slow, ok, run, environ, count, size):
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
    status, longer = timed(plain, there.path / "plain.ext3", environ)
    asked = len([one for one in there.operations("read") if one.program == "fuse2fs"])
    count(
        f"{size}, 5 ms an operation, {os.cpu_count()} processors: ours {seconds:.1f} s; the engine"
        f" {'fails' if status else 'starts'} after {longer:.1f} s and {asked:,} reads"
    )
    assert asked > 1000
    there.forget()
    done, seconds = timed(run, "check-overlay", there.path / "ours.ext3")
    assert done.status == 0, done
    count(f"{size}: check-overlay {seconds:.1f} s")
    assert len([one for one in there.operations("read") if one.program == "e2fsck"]) < 200
