"""Shared sessions that write, of which something is killed: what was synced is there."""

import random
import re
import signal
import time

import pytest
from e2e.safety.test_share_killed import victim
from e2e.safety.trees import CLEAN, descendants, holders, kill, program, state
from e2e.test_share import files, keepers, local  # noqa: F401
from support import wait_until

SEED = 20
SHARE = ["--share", "-o", "a.ext3", "--"]

# Says what is synced.
LINE = """
mkdir -p /d || exit 9
for n in 1 2 3 4 5 6 7 8 9 10 11 12; do
    echo $0.$n >/d/$0.$n && sync /d/$0.$n && echo $0.$n || exit 9
done
"""
KINDS = (
    "task",
    "command",
    "keeper",
    "fuse2fs",
    "any",
    "engine",
    "fuse-overlayfs",
    "shell",
    "guard",
)
OWN = ("fuse2fs", "fuse-overlayfs", "engine", "shell", "keeper")


def doomed(kind, tasks, path, moments):
    """Return the number of a process of a kind; None when there is none."""
    if kind == "command":
        found = [pid for task in tasks for pid in descendants(task.pid)]
        return moments.choice(found) if found else None
    return victim(kind, tasks, path, moments)


def test_killed(run, start, make, local, rounds, count):  # noqa: F811
    """KILL for one process at a random moment: what a task has synced is there, all end."""
    path = make("a.ext3", 32, 8)
    moments = random.Random(SEED)
    number, tasks_of_a_round = rounds(5, 36), rounds(4, 16)
    longest, failed, told = 0.0, 0, 0
    synced = set()
    for turn in range(number):
        tasks = [
            start("run-overlay", *SHARE, "sh", "-c", LINE, f"{turn}-{task}")
            for task in range(tasks_of_a_round)
        ]
        wait_until(lambda: keepers(local))  # noqa: B023
        time.sleep(moments.uniform(0, 0.8))
        pid = doomed(KINDS[turn % len(KINDS)], tasks, local, moments)
        if pid is not None:
            kill([pid])
        begun = time.monotonic()
        for number_, task in enumerate(tasks):
            output, errors = task.communicate(timeout=60)
            words = output.split()
            synced.update(words[:-1] if output[-1:] != "\n" else words)
            assert task.returncode != 0 or len(words) == 12, (number_, output, errors)
            failed += task.returncode != 0
            told += task.returncode == 74
        longest = max(longest, time.monotonic() - begun)
        wait_until(lambda: not holders(path))
        assert state(path) == CLEAN or state(path)[1] != "clean"
    result = run("run-overlay", *SHARE, "sh", "-c", "cd /d && grep . *")
    assert result.status == 0, result
    found = dict(line.split(":") for line in result.stdout.split())
    assert not {name for name in synced if found.get(name) != name}
    assert state(path) == CLEAN
    wait_until(lambda: not files(local))
    assert longest < 45
    count(
        f"shared sessions that write: {number} rounds of {tasks_of_a_round}, {len(synced)} files"
        f" synced, none lost; {failed} commands failed, {told} with 74;"
        f" the last ended {longest:.1f} s after a KILL"
    )


@pytest.mark.parametrize("kind", OWN)
def test_each_is_told(ok, start, make, local, kind):  # noqa: F811
    """What holds the session is killed: the status of each who is in it tells."""
    path = make()
    tasks = []
    for task in range(3):
        line = f"echo in; read x; echo {task} >/{task}; exit 0"
        tasks.append(start("run-overlay", *SHARE, "sh", "-c", line))
        tasks[-1].says("in")
    assert tasks[0].end() == (0, "")
    pid = victim(kind, [], local, random)
    shell = victim("shell", [], local, random)
    kill([pid])
    wait_until(lambda: not program(pid) and not program(shell))
    for task in tasks[1:]:
        status, errors = task.end()
        assert (status, kind) in ((74, kind), (-signal.SIGKILL, "engine")), (status, errors)
        if status == 74:
            assert re.search(r"the session of .*a\.ext3'? (was killed|ended before)", errors)
    wait_until(lambda: not holders(path))
    # What a command wrote that had ended is there.
    assert ok("run-overlay", *SHARE, "cat", "/0") == "0\n"
    assert state(path) == CLEAN
    wait_until(lambda: not files(local))


def test_task_killed(run, start, make, local):  # noqa: F811
    """The process beside a command is killed: so is the command, the others go on."""
    path = make()
    line = "trap '' TERM; echo in; while :; do sleep 0.1; done"
    first = start("run-overlay", *SHARE, "sh", "-c", line)
    first.says("in")
    second = start("run-overlay", *SHARE, "sh", "-c", "echo in; read x; echo 2 >/2")
    second.says("in")
    below = descendants(first.pid)
    assert below
    kill([first.pid])
    wait_until(lambda: not any(map(program, below)))
    assert second.end() == (0, "")
    assert state(path) == CLEAN
    third = start("run-overlay", *SHARE, "sh", "-c", line)
    third.says("in")
    kill([third.pid])
    wait_until(lambda: not holders(path))
    assert state(path) == CLEAN
    assert run("run-overlay", *SHARE, "cat", "/2") == (0, "2\n", "")
    wait_until(lambda: not files(local))
