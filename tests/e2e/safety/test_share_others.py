"""Shared sessions and other users: nobody else joins one, sees one, or makes one go elsewhere."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest
from e2e.conftest import alone
from e2e.safety.trees import program
from e2e.test_share import LEASE, end_sessions, files, keepers
from support import BASE, ROOT, execute, wait_until

MINE = f"overlay-{os.getuid()}"


@pytest.fixture
def node(environ, colleague):
    """Return a scratch directory that all users have, as /tmp."""
    path = colleague.parent / "node"
    environ.update(OVERLAY_SCRATCH_LOCAL=str(path), OVERLAY_LAUNCH_LINGER="60")
    with alone("node"):
        yield path
        for pid in keepers(path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGRTMIN + 9)
        wait_until(lambda: not ours(path))


@pytest.fixture
def theirs(as_colleague, environ, node):
    """Return a function that runs words as the colleague, who is in the same scratch."""
    environ = {**environ, "HOME": str(node), "USER": "overlay-colleague"}
    environ["OVERLAY_CONFIG"] = str(ROOT / "etc" / "overlay.ini")

    def theirs(*words):
        return execute([*as_colleague, *map(str, words)], environ=environ, cwd=node)

    yield theirs
    theirs(ROOT / "bin" / "overlay-admin", "sessions", "--end")
    theirs("sh", "-c", "rm -rf overlay-* .[!.]*")


def ours(path):
    """Return our own directories in a scratch."""
    return [one for one in path.glob(f"{MINE}*") if one.lstat().st_uid == os.getuid()]


@pytest.fixture
def typed(colleague):
    """Return what both type: an overlay that both may read."""
    return ["--share", "-c", BASE, "-o", f"{colleague / '0644.ext3'}:ro", "--"]


@pytest.fixture
def session(words, environ, node, typed):
    """Start a command in a shared session; it ends when a line is written to it."""
    child = subprocess.Popen(
        [*words("run-overlay"), *typed, "sh", "-c", "echo in; read line; exit 3"],
        env=environ,
        cwd=node,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "in\n"
    yield child
    child.kill()
    child.communicate()


def test_colleague(session, theirs, typed, node):
    """Another user with the same line has a session of their own, and cannot come into ours."""
    [keeper] = keepers(node)
    [lease] = node.glob(f"{MINE}/shared-*.lease")
    pid = lease.read_bytes().split(b"\0")[1].decode()[1:].split()[0]
    result = theirs(ROOT / "bin" / "run-overlay", "-v", *typed, "id", "-un")
    assert result[:2] == (0, "overlay-colleague\n")
    assert LEASE.search(result.stderr), result
    assert LEASE.search(result.stderr)[1] != pid
    for words in (
        ["ls", node / MINE],
        ["cat", lease],
        ["flock", "-n", lease, "true"],
        ["ln", lease, node / "mine"],
        ["mv", node / MINE, node / "moved"],
        ["nsenter", "-t", pid, "-U", "-m", "--preserve-credentials", "true"],
        ["ls", f"/proc/{pid}/root/"],
        ["kill", f"-{signal.SIGRTMIN + 9:d}", keeper],
        ["kill", "-KILL", pid],
    ):
        assert theirs(*words).status != 0, words
    shown = theirs(ROOT / "bin" / "overlay-admin", "sessions").stdout
    assert f"process {keeper} " not in shown
    assert shown.count("process ") == 1
    ended = theirs(ROOT / "bin" / "overlay-admin", "sessions", "--end")
    assert ended == (0, "", "overlay-admin: ended: 1\n")
    assert program(keeper) == "overlay-shared"
    session.communicate("\n")
    assert session.returncode == 3


def test_in_use(session, theirs, colleague, node):
    """The owner of the overlay is told how long others read it; it is let go for them."""
    check = [ROOT / "bin" / "check-overlay", "-q", colleague / "0644.ext3"]
    result = theirs(*check)
    assert result.status == 75
    assert "(one that several commands share, on another host or of another user; " in result.stderr
    assert "else 60 seconds later)" in result.stderr
    session.communicate("\n")
    assert len(keepers(node)) == 1
    assert theirs(*check).status == 0
    wait_until(lambda: not files(node))


PLANTED = {
    "directory": "mkdir -m 777 {0}",
    "link": "ln -s {1} {0}",
    "dangling": "ln -s {1}/not/there {0}",
    "pipe": "mkfifo -m 666 {0}",
    "file": "echo >{0}; chmod 666 {0}",
    "socket": "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"{0}\")'",
}


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_directory(run, theirs, typed, node, tmp_path, kind):
    """What others have made in the place of our directory is not used, and does not keep us."""
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    made = theirs("sh", "-c", PLANTED[kind].format(MINE, victim))
    assert made.status == 0, made
    before = (node / MINE).lstat()
    found = [run("run-overlay", "-v", *typed, "echo", "done") for _time in range(2)]
    assert [one[:2] for one in found] == [(0, "done\n")] * 2
    # Both are in one session, whose files lie beside what was planted.
    assert len({LEASE.search(one.stderr)[1] for one in found}) == 1
    [directory] = ours(node)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert list(directory.glob("shared-*.lease"))
    for pid in keepers(node):
        os.kill(pid, signal.SIGRTMIN + 9)
    wait_until(lambda: not ours(node))
    after = (node / MINE).lstat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(victim) == []


def plant(kind, path, other):
    """Put something in the place of a file of a session."""
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(f"/proc/self/fd/{os.open(path.parent, os.O_PATH)}/{path.name}")


@pytest.mark.parametrize("ending", [".lease", ".gate"])
@pytest.mark.parametrize("kind", ["directory", "link", "pipe", "socket"])
def test_planted_file(run, session, typed, node, tmp_path, ending, kind):
    """What is in the place of a file is not followed: it is replaced, or named and left."""
    session.communicate("\n")
    [name] = files(node, ending)
    end_sessions(node)
    other = tmp_path / "other"
    other.write_text("other\n")
    (node / MINE).mkdir(mode=0o700, exist_ok=True)
    plant(kind, node / MINE / name, other)
    result = run("run-overlay", "-v", *typed, "echo", "done", cwd=node)
    assert result[:2] == (0, "done\n")
    assert other.read_text() == "other\n"
    if ending == ".lease" and kind != "directory":
        assert LEASE.search(result.stderr)
    else:
        assert not LEASE.search(result.stderr), (name, files(node))
        why = re.search(r"a session of its own: (.*)", result.stderr)[1]
        assert why == f"{node}/{MINE}/{name} is in the way"
        assert not keepers(node)
        shutil.rmtree(node / MINE)  # no session was there whose end would do that
