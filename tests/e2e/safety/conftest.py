"""Fixtures of the tests that nothing is ever lost."""

import contextlib
import os

import pexpect
import pytest
import slow_filesystem
from e2e.safety.trees import Session, holders, kill, kill_tree

_COUNTS = []


@pytest.fixture
def full():
    """Return whether the long form of a test is wanted: not here, but in tests/soak."""
    return False


@pytest.fixture
def rounds(full):
    """Return a function from two numbers of rounds to the one that is made.

    OVERLAY_ROUNDS in the environment overrules the long one.
    """
    return lambda short, long: int(os.environ.get("OVERLAY_ROUNDS") or long) if full else short


@pytest.fixture
def count():
    """Return a function that notes a line of counts, shown at the end of the tests."""
    return _COUNTS.append


def pytest_terminal_summary(terminalreporter):
    """Show the counts."""
    for line in _COUNTS:
        terminalreporter.write_line(line)


@pytest.fixture
def make(ok, scratch):
    """Return a function that makes an overlay of a name, MiB and thousands of files."""

    def make(name="a.ext3", size=64, files=4):
        ok("create-overlay", "-q", "--sparse", "-s", size, "-n", files, "-o", name)
        return scratch / name

    return make


@pytest.fixture
def start(words, environ, scratch):
    """Return a function that starts a program under test in the background."""
    started = []

    def start(name, *arguments, **options):
        options = {"env": environ, "cwd": scratch, "start_new_session": True, **options}
        session = Session([*words(name), *arguments], **options)
        started.append(session)
        return session

    yield start
    for session in started:
        with session:
            if session.poll() is None:
                kill_tree(session)
    for path in scratch.glob("*.ext3"):
        kill(holders(path))


@pytest.fixture
def hold(start):
    """Return a function that starts a session which stays until it is told to end()."""

    def hold(overlay="a.ext3", *options):
        line = "echo inside; read answer"
        session = start("run-overlay", "-o", overlay, *options, "--", "sh", "-c", line)
        session.says("inside")
        return session

    return hold


@pytest.fixture
def terminal(words, environ, scratch):
    """Return a function that starts a program in a terminal of its own."""
    started = []

    def terminal(name, *arguments):
        first, *rest = words(name) if "/" not in name else [name]
        child = pexpect.spawn(
            first,
            [*rest, *arguments],
            cwd=str(scratch),
            env={**environ, "TERM": "dumb"},
            encoding="utf-8",
            timeout=30,
            dimensions=(40, 200),
        )
        started.append(child)
        return child

    yield terminal
    for child in started:
        child.close(force=True)


@pytest.fixture
def slow(tmp_path):
    """Return a function that mounts a slow file system: see slow_filesystem.mounted()."""
    with contextlib.ExitStack() as stack:
        yield lambda *options: stack.enter_context(
            slow_filesystem.mounted(tmp_path / "far", *options)
        )
