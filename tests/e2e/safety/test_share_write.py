"""--share on a writable overlay: several commands write into it, as safely as one alone."""

import os
import re
import signal
import subprocess

import pytest
from e2e.safety.trees import CLEAN, debugfs, holders, state
from e2e.test_share import LEASE, files, keepers, local  # noqa: F401
from support import wait_until

SHARE = ["run-overlay", "--share", "-o", "a.ext3", "--"]


@pytest.fixture
def inside(start):
    """Return a function that starts a command in the session of a.ext3, and waits until it runs.

    It prints "in", waits for a line, and then does what is asked.
    """

    def inside(line, *options):
        words = ["run-overlay", "--share", *options, "-o", "a.ext3", "--"]
        session = start(*words, "sh", "-c", f"echo in; read x; {line}")
        session.says("in")
        return session

    return inside


def session_of(result):
    """Return the number of the session that a command has joined."""
    return LEASE.search(result.stderr)[1]


def test_all_is_there(run, make, start, inside, local):  # noqa: F811
    """What several write at once is there, and all ends with the last of them; statuses are kept."""
    path = make()
    first = inside("echo one >/one; exit 3")
    second = inside("cat /three >/two; kill -TERM $$")
    assert len(keepers(local)) == 1
    joined = run(*SHARE[:1], "-v", *SHARE[1:], "sh", "-c", "echo three >/three; cat /three")
    assert joined[:2] == (0, "three\n")
    assert session_of(joined)
    assert second.end() == (-signal.SIGTERM, "")
    assert len(keepers(local)) == 1
    assert first.end() == (3, "")
    # The last one has waited for all of it.
    assert not holders(path)
    assert state(path) == CLEAN
    wait_until(lambda: not keepers(local))
    assert not files(local)
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "cat", "/one", "/two", "/three") == (
        (0, "one\nthree\nthree\n", "")
    )


def test_eight_at_once(words, make, environ, scratch, run, local):  # noqa: F811
    """Many first commands start one session, whatever the order in which they come and go."""
    path = make()
    for turn in range(3):
        lines = [f"mkdir -p /d; echo {n} >>/d/{turn}.{n}; exit {n}" for n in range(8)]
        started = [
            subprocess.Popen(
                [*words("run-overlay"), "-v", *SHARE[1:], "sh", "-c", line],
                env=environ,
                cwd=scratch,
                stderr=subprocess.PIPE,
                text=True,
            )
            for line in lines
        ]
        errors = [one.communicate(timeout=120)[1] for one in started]
        assert [one.returncode for one in started] == list(range(8)), errors
        assert all(LEASE.search(text) for text in errors)
        assert state(path) == CLEAN
    result = run("run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", "cat /d/*")
    assert result.stdout.split() == list("01234567") * 3
    wait_until(lambda: not files(local))


def test_looked_at_before_and_after(run, make, local):  # noqa: F811
    """An unclean overlay is repaired first; the session is noted, needless markers are removed."""
    path = make()
    line = "mkdir -p /data/a/b /data/c; echo >/data/a/b/f"
    result = run("run-overlay", "-v", *SHARE[1:], "sh", "-c", line)
    assert result[:2] == (0, ""), result
    assert re.search(r"/a\.ext3'?: [4-9] needless deletion markers removed\n", result.stderr)
    fields = os.getxattr(path, "user.overlay.session").decode()
    assert re.search(r"^pid=\d+$", fields, re.M)
    assert re.search(r"^ended=\d+$", fields, re.M)
    debugfs(path, "set_super_value state 0")
    result = run(*SHARE, "ls", "/data/a/b")
    assert result[:2] == (0, "f\n"), result
    assert "a.ext3 was left unclean by the session before: checking it\n" in result.stderr
    assert state(path) == CLEAN


def test_stack(run, make, start, local):  # noqa: F811
    """Over other overlays it is the same; deletions and files of the lower ones too."""
    make("b.ext3")
    path = make()
    line = "mkdir /d; echo 1 >/d/1; echo 2 >/d/2; ln /d/2 /d/3"
    assert run("run-overlay", "-o", "b.ext3", "--", "sh", "-c", line).status == 0
    words = ["run-overlay", "-v", "--share", "-o", "a.ext3", "-o", "b.ext3", "--", "sh", "-c"]
    first = start(*words, "echo in; read x; rm /d/1; echo new >>/d/3")
    first.says("in")
    joined = run(*words, "cat /d/1; echo 4 >/d/4")
    assert joined[:2] == (0, "1\n")
    assert session_of(joined)
    status, errors = first.end()
    assert status == 0, errors
    assert session_of(joined) in errors
    assert state(path) == CLEAN
    found = run("run-overlay", "-o", "a.ext3:ro", "-o", "b.ext3", "--", "sh", "-c", "cd /d; tail *")
    assert found == (0, "==> 2 <==\n2\nnew\n\n==> 3 <==\n2\nnew\n\n==> 4 <==\n4\n", "")


def test_stack_that_is_new(words, make, environ, scratch, local):  # noqa: F811
    """What is noted on a lower overlay at its first use parts no two who start at once."""
    for turn in range(3):
        make(f"a{turn}.ext3")
        make(f"b{turn}.ext3")
        line = [
            *words("run-overlay"),
            "-v",
            "--share",
            "-o",
            f"a{turn}.ext3",
            "-o",
            f"b{turn}.ext3",
        ]
        started = [
            subprocess.Popen(
                [*line, "--", "sh", "-c", f"echo {task} >/{task}"],
                env=environ,
                cwd=scratch,
                stderr=subprocess.PIPE,
                text=True,
            )
            for task in range(6)
        ]
        errors = [one.communicate(timeout=120)[1] for one in started]
        assert [one.returncode for one in started] == [0] * 6, errors
        assert all(LEASE.search(text) for text in errors)


def test_disk_is_full(run, start, small, local):  # noqa: F811
    """The disk below fills up: the status of each tells, of the last and of those before."""
    path = small / "a.ext3"
    words = ["-q", "--sparse", "-s", "128", "-n", "1", "-o", path]
    assert run("create-overlay", *words).status == 0
    line = (
        "until ! head -c 1000000 /dev/zero 2>/dev/null >/$0.$n; do n=$((n + 1)); done;"
        " echo failed; read x; exit 0"
    )
    share = ["--share", "-q", "-o", path, "--", "sh", "-c", line]
    tasks = [start("run-overlay", *share, task) for task in "123"]
    for task in tasks:
        task.says("failed")
    for task in tasks[:2]:
        status, errors = task.end()
        assert status == 74
        assert re.search(r"a\.ext3'? takes no more writes", errors), errors
    status, errors = tasks[2].end()
    assert status == 74
    assert re.search(r"a\.ext3'? was not closed properly", errors), errors


def test_directory(words, run, environ, scratch, local):  # noqa: F811
    """An empty directory becomes an overlay for all who want it at once."""
    for turn in range(3):
        (scratch / f"d{turn}").mkdir()
        line = [*words("run-overlay"), "--share", "-q", "-o", f"d{turn}", "--", "sh", "-c"]
        started = [
            subprocess.Popen(
                [*line, f"echo {task} >/{task}; exit {task}"],
                env=environ,
                cwd=scratch,
                stderr=subprocess.PIPE,
                text=True,
            )
            for task in range(6)
        ]
        errors = [one.communicate(timeout=120)[1] for one in started]
        assert [one.returncode for one in started] == list(range(6)), errors
        result = run("run-overlay", "-q", "-o", f"d{turn}:ro", "--", "sh", "-c", "cat /[0-5]")
        assert result.stdout.split() == list("012345")


def test_who_else(run, make, inside, local):  # noqa: F811
    """Who wants it for another session is told that it is in use; so is who only reads it."""
    make()
    session = inside("exit 0")
    for words in (["-o", "a.ext3"], ["--share", "-o", "a.ext3:ro"], ["-o", "a.ext3:ro"]):
        result = run("run-overlay", *words, "--", "true")
        assert result.status == 75, result
        assert "a.ext3 is in use: a session is writing to it" in result.stderr
        assert "'a shared session', in it 'sh -c echo in; " in result.stderr
        assert ("--share" in result.stderr.split("hint: ")[1]) == (words == ["-o", "a.ext3"])
    assert (
        run("run-overlay", "--share", "-b", "/usr/share:/mnt", "-o", "a.ext3", "--", "true")[0]
        == 75
    )
    assert run("check-overlay", "a.ext3").status == 75
    assert session.end() == (0, "")
    assert run("run-overlay", "-o", "a.ext3", "--", "true").status == 0
