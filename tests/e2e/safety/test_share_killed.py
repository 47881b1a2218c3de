"""Shared sessions of which something is killed: nobody hangs, nothing is left, the next works."""

import os
import random
import signal
import time

import pytest
from e2e.safety.trees import descendants, holders, kill, program
from e2e.test_share import end_sessions, files, keepers, local  # noqa: F401
from support import execute, wait_until

SEED = 17
LINE = """
set -o pipefail
for f in 1 2 3 4 5 6 7 8; do cat /data/$f | wc -c || exit 9; read -t 0.05 x; done <>/dev/zero
exit 0
"""
WHOLE = "65536\n" * 8
KINDS = ("task", "guard", "keeper", "any", "engine", "shell", "fuse2fs", "squashfuse_ll")


def victim(kind, tasks, path, moments):
    """Return the number of a process of a kind; None when there is none."""
    alive = [task.pid for task in tasks if task.poll() is None]
    held = keepers(path)
    tree = [pid for keeper in held for pid in descendants(keeper)]
    names = {pid: program(pid) or "" for pid in tree}
    found = {
        "task": alive,
        "keeper": held,
        "engine": [pid for pid in tree if names[pid].startswith("starter")],
        "shell": [pid for pid in tree if names[pid] == "sh"],
        "guard": [pid for pid in tree if names[pid].startswith("overlay-")],
        "any": [*alive, *held, *tree],
    }.get(kind, [pid for pid in tree if names[pid] == kind])
    return moments.choice(found) if found else None


@pytest.fixture
def data(ok, make):
    """Make an overlay with some files of 64 KiB."""
    path = make("env.ext3", 16, 1)
    line = "mkdir /data; for f in 1 2 3 4 5 6 7 8; do head -c 65536 /dev/urandom >/data/$f; done"
    ok("run-overlay", "-q", "-o", "env.ext3", "--", "sh", "-c", line)
    return path


def test_killed(ok, start, data, local, rounds, count):  # noqa: F811
    """KILL for one process at a random moment: the others end, and the next command works."""
    moments = random.Random(SEED)
    number, tasks_of_a_round = rounds(4, 30), rounds(4, 16)
    longest, failed = 0.0, 0
    words = ["--share", "-o", "env.ext3:ro", "--", "bash", "-c", LINE]
    for turn in range(number):
        tasks = [start("run-overlay", *words) for _task in range(tasks_of_a_round)]
        if turn % 2:
            wait_until(lambda: keepers(local))
        time.sleep(moments.uniform(0, 0.5))
        doomed = victim(KINDS[turn % len(KINDS)], tasks, local, moments)
        if doomed is not None:
            kill([doomed])
        begun = time.monotonic()
        for task in tasks:
            output, errors = task.communicate(timeout=60)
            good = (task.returncode, output) == (0, WHOLE)
            # Nothing is read wrong: what is not whole has an error, or was killed.
            assert good or task.returncode != 0, (task.returncode, output, errors)
            assert WHOLE.startswith("\n".join(output.split("\n")[:-2])), output
            failed += not good
        longest = max(longest, time.monotonic() - begun)
        assert ok("run-overlay", *words) == WHOLE
    end_sessions(local)
    wait_until(lambda: not holders(data))
    assert not files(local)
    assert longest < 45
    count(
        f"shared sessions: {number} rounds of {tasks_of_a_round}, {failed} commands failed,"
        f" the last ended {longest:.1f} s after a KILL"
    )


CALLS = "clone close fcntl flock ftruncate openat pidfd_open pipe2 poll pwrite64 read setsid write"


def test_killed_while_it_starts(ok, words, environ, scratch, data, local, rounds, count):  # noqa: F811
    """KILL for whichever process of a start comes to some system call first: the next command works."""
    moments = random.Random(SEED)
    environ["OVERLAY_LAUNCH_LINGER"] = "1"
    number, killed = rounds(3, 40), 0
    line = ["--share", "-o", "env.ext3:ro", "--", "bash", "-c", LINE]
    for _turn in range(number):
        call, when = moments.choice(CALLS.split()), moments.randint(1, 9)
        inject = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}"]
        trace = ["strace", "-f", "-qq", "-o", "/dev/null", *inject]
        result = execute([*trace, *words("run-overlay"), *line], environ=environ, cwd=scratch)
        killed += result.status != 0
        assert ok("run-overlay", *line) == WHOLE
    end_sessions(local)
    wait_until(lambda: not holders(data))
    assert os.listdir(local) in ([], [f"overlay-{os.getuid()}"])
    count(f"shared sessions: {number} starts of which a process was killed, {killed} failed")


@pytest.mark.parametrize("kind", ["keeper", "fuse2fs", "squashfuse_ll", "shell", "engine"])
def test_next_one(ok, start, data, local, kind):  # noqa: F811
    """The session's own processes killed while a command is in it: the next has a new session."""
    session = start(
        "run-overlay",
        "--share",
        "-o",
        "env.ext3:ro",
        "--",
        "sh",
        "-c",
        "echo in; read x; cat /data/1 | wc -c; exit 3",
    )
    session.says("in")
    first = keepers(local)
    doomed = victim(kind, [], local, random)
    shell = victim("shell", [], local, random)
    kill([doomed])
    wait_until(lambda: not program(doomed) and not program(shell))
    assert ok("run-overlay", "--share", "-o", "env.ext3:ro", "--", "bash", "-c", LINE) == WHOLE
    assert keepers(local) != first
    status, _errors = session.end()
    assert status in (3, 127, 126, 135, -signal.SIGKILL, -signal.SIGBUS)
    end_sessions(local)
    wait_until(lambda: not holders(data))
    assert os.listdir(local) in ([], [f"overlay-{os.getuid()}"])
