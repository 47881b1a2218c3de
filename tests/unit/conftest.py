"""Fixtures of the unit tests: the Python that runs them also runs the programs."""

import os
import signal
import sys

import pytest
from overlay.image import ext3_size
from support import ROOT, tool

# Stands where an engine would: it keeps its arguments, one after each NUL.
RECORDER = """#!/bin/sh
printf '%s\\0' "$@" > "$RECORD"
env -0 > "$RECORD.environ"
"""


@pytest.fixture
def words():
    """Return a function from the name of a program to the words that start it."""
    return lambda name: [sys.executable, "-IS", os.path.join(ROOT, "bin", name)]


@pytest.fixture
def recorder(tmp_path):
    """Return the path of a program called apptainer that writes down its arguments."""
    path = tmp_path / "engine" / "apptainer"
    path.parent.mkdir()
    path.write_text(RECORDER)
    path.chmod(0o755)
    return path


@pytest.fixture
def base(tmp_path):
    """Return the path of what stands for a base image where none is started."""
    path = tmp_path / "base.sif"
    path.write_bytes(b"hsqs")
    return path


@pytest.fixture
def site_text(recorder, base):
    """Return the site's overlay.ini: the recording engine, and one image."""
    return (
        f"[engine]\ncommands = {recorder}\n[images]\ndefault = base\nbase = {base}\n"
        "[binds]\npaths =\n[launch]\ngpu = none\n"
    )


@pytest.fixture
def limit():
    """Return a function that ends the test when what follows takes longer than seconds."""

    def late(_number, _frame):
        raise AssertionError("it takes too long")

    old = signal.signal(signal.SIGALRM, late)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


@pytest.fixture
def make_image(tmp_path):
    """Return a function that makes an image with the real mke2fs, as our own are made."""

    def make_image(name="image.ext3", mib=16, options=None, directories=("upper", "work")):
        path, content = tmp_path / name, tmp_path / f"{name}.content"
        for directory in directories:
            (content / directory).mkdir(parents=True, exist_ok=True)
        content.mkdir(exist_ok=True)
        with open(path, "wb") as file:
            file.truncate(mib << 20)
        if options is None:
            options = ext3_size.mke2fs_options(mib << 20, 1000)
        done = tool("mke2fs", "-q", "-F", *options, "-d", content, path)
        assert (done.returncode, done.stderr) == (0, "")
        return path

    return make_image
