"""Fixtures of the end-to-end tests: a real engine, as an ordinary user.

OVERLAY_COLLEAGUE and OVERLAY_SMALL name what tests/prepare-colleague has made.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from support import BASE, PATH, ROOT, execute, from_environment


@pytest.fixture(scope="session", autouse=True)
def ordinary_user():
    """See that the tests run as an ordinary user on a machine that has what they need."""
    assert os.getuid() != 0, "these tests are for an ordinary user: tools/as-user overlay-tester"
    assert os.path.exists(BASE), f"{BASE} is missing: tools/setup image"


@pytest.fixture
def site_text():
    """Return the site's overlay.ini: one image, called base."""
    return f"[images]\ndefault = base\nbase = {BASE}\n"


def copy(source, target):
    """Copy an image, its holes as holes."""
    subprocess.run(["cp", "--sparse=always", "--", source, target], check=True)
    return target


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """Return the path of a small overlay that create-overlay has made."""
    path = tmp_path_factory.mktemp("template") / "template.ext3"
    environ = {
        "PATH": PATH,
        "OVERLAY_CONFIG": str(ROOT / "etc" / "overlay.ini"),
        "HOME": "/",
    }
    words = [
        ROOT / "bin" / "create-overlay",
        "-q",
        "--sparse",
        "-s",
        "16",
        "-n",
        "1",
        "-o",
        path,
    ]
    result = execute(words, environ=environ, cwd=path.parent)
    assert result == (0, "", "")
    return path


@pytest.fixture
def overlay(template, scratch):
    """Return a function that puts a fresh overlay of some name into the scratch directory."""
    return lambda name="a.ext3": copy(template, scratch / name)


@pytest.fixture
def engine(environ, scratch):
    """Return a function that runs the plain engine and returns its Result."""

    def engine(*arguments, **options):
        words = ["/usr/bin/env", "apptainer", *map(str, arguments)]
        return execute(words, environ=environ, cwd=scratch, **options)

    return engine


@contextlib.contextmanager
def alone(name):
    """Wait until no other run of the tests has what there is once only."""
    path = os.path.join(tempfile.gettempdir(), f"overlay-tests-{os.getuid()}.{name}")
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def small():
    """Return an empty directory on a file system of 64 MB."""
    path = from_environment("OVERLAY_SMALL") / "my files"
    with alone("small"):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        yield path
        shutil.rmtree(path)


@pytest.fixture
def bashrc():
    """Return a function that sets the user's ~/.bashrc until the end of the test."""
    path = Path("~/.bashrc").expanduser()
    with alone("bashrc"):
        before = path.read_bytes() if path.exists() else None
        yield path.write_text
        if before is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(before)
