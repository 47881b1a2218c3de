"""What was written and synced is there after a SIGKILL, whenever it comes."""

import os
import random
import re
import signal
import subprocess
import time

import pytest
from e2e.safety.trees import (
    CLEAN,
    SERVERS,
    debugfs,
    descendants,
    e2fsck,
    holders,
    kill,
    kill_tree,
    named,
    program,
    state,
    superblock,
)
from support import wait_until

SEED = 3

# Writes numbered files, each synced before its number is printed; other files come and go.
WRITER = """
import itertools, os, sys
place = sys.argv[1]
os.makedirs(place, exist_ok=True)
for number in itertools.count(int(sys.argv[2])):
    directory = f"{place}/{number // 20}"
    os.makedirs(directory, exist_ok=True)
    with open(f"{directory}/junk", "wb") as junk:
        junk.write(b"j" * 30000)
    with open(f"{directory}/{number}", "wb") as file:
        file.write(b"%09d " % number * (number * 37 % 4000 + 1))
        file.flush()
        os.fsync(file.fileno())
    print(number, flush=True)
    if number % 3 == 0:
        os.unlink(f"{directory}/junk")
"""

# Prints how many of so many files are there with their content.
READER = """
import sys
place, right = sys.argv[1], 0
for number in range(int(sys.argv[2])):
    try:
        with open(f"{place}/{number // 20}/{number}", "rb") as file:
            right += file.read() == b"%09d " % number * (number * 37 % 4000 + 1)
    except OSError as error:
        print(error, file=sys.stderr)
print(right)
"""


def write_and_kill(start, path, first, delay, spare=()):
    """Kill a session that writes; return how many files are synced, and whom we spared."""
    session = start("run-overlay", "-o", path.name, "--", "python3", "-c", WRITER, "/data", first)
    assert session.stdout.readline() == f"{first}\n", session.stderr.read()
    time.sleep(delay)
    spared = kill_tree(session, path, spare=spare)
    return int([str(first), *session.stdout.read().split()][-1]) + 1, spared


def gone(pids):
    """Wait until no server is among some processes."""
    wait_until(lambda: not named(pids, *SERVERS))


def check(run, path, mode, synced):
    """See that the next session finds all that was synced, and leaves the image clean."""
    result = run(
        "run-overlay",
        "-o",
        path.name + mode,
        "--",
        "python3",
        "-c",
        READER,
        "/data",
        synced,
    )
    assert (result.status, result.stdout) == (0, f"{synced}\n"), result
    assert state(path) == CLEAN, e2fsck(path)
    return result


def test_whole_tree(run, start, make, rounds, count):
    """The whole tree killed while it writes: what was synced is there, in every round."""
    path = make("a.ext3", 600, 30)
    moments = random.Random(SEED)
    synced = unclean = 0
    number = rounds(3, 20)
    for turn in range(number):
        synced, _spared = write_and_kill(start, path, synced, moments.uniform(0, 1.5))
        unclean += superblock(path)["Filesystem state"] != "clean"
        result = check(run, path, ":ro" if turn % 2 else "", synced)
        assert "a.ext3 was left unclean by the session before" in result.stderr
    count(f"killed whole: {number} rounds, {unclean} left unclean, {synced} of {synced} files")


def test_server_left_alive(run, start, make, rounds, count):
    """fuse2fs left behind: refused with the way out; --recover loses nothing."""
    path = make("a.ext3", 600, 30)
    moments = random.Random(SEED + 1)
    synced = 0
    number = rounds(2, 20)
    for turn in range(number):
        delay = moments.uniform(0, 1.5)
        synced, spared = write_and_kill(start, path, synced, delay, spare=SERVERS)
        left = named(spared, "fuse2fs")
        assert len(left) == 1
        refused = run("run-overlay", "-o", "a.ext3", "--", "true")
        assert (refused.status, refused.stderr) == (
            75,
            "run-overlay: error: a.ext3 is in use: a killed session left processes behind that"
            f" hold it ({left[0]})\n"
            "run-overlay: hint: check-overlay --recover a.ext3\n",
        )
        recovered = run("check-overlay", "--recover", "a.ext3")
        assert recovered.status == 0, recovered
        assert f"fuse2fs {left[0]}" in recovered.stderr
        assert recovered.stdout.startswith("a.ext3: ")
        gone(spared)
        assert not holders(path)
        result = check(run, path, ":ro" if turn % 2 else "", synced)
        assert result.stderr == ""
    count(f"server left alive: {number} rounds, {synced} of {synced} files")


def test_recover_leaves_others_alone(run, hold, make):
    """--recover touches nothing where somebody is inside, and is a check where nobody is."""
    make()
    session = hold()
    result = run("check-overlay", "--recover", "a.ext3")
    assert (result.status, result.stdout) == (75, "")
    assert f"process {session.pid} on this host" in result.stderr
    assert session.end() == (0, "")
    assert run("check-overlay", "--recover", "a.ext3") == (0, "a.ext3: clean\n", "")


@pytest.fixture
def reader():
    """Return a function that starts a program which only has a file open, as cp(1) has."""
    started = []

    def reader(path):
        with open(path, "rb") as file:
            started.append(subprocess.Popen(["sleep", "600"], stdin=file))
        return started[-1]

    yield reader
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("mode", ["", ":ro"])
def test_whose_session_it_is(run, hold, make, reader, mode):
    """Named is who holds the lock, and not who had the file open before."""
    bystander = reader(make())
    session = hold("a.ext3" + mode)
    for words in (["run-overlay", "-o", "a.ext3", "--", "true"], ["check-overlay", "a.ext3"]):
        result = run(*words)
        assert result.status == 75, result
        named_pid = re.search(r"\(process (\d+) on this host", result.stderr)[1]
        assert int(named_pid) in {session.pid, *descendants(session.pid)} - {bystander.pid}, result
    assert session.end() == (0, "")


def test_reader_hides_nothing(run, start, make, reader):
    """Who copies an overlay is no reason not to end what a killed session has left."""
    path = make()
    _synced, spared = write_and_kill(start, path, 0, 0, spare=SERVERS)
    bystander = reader(path)
    refused = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert (refused.status, refused.stderr.count("left processes behind")) == (75, 1), refused
    assert run("check-overlay", "--recover", "a.ext3").status == 0
    gone(spared)
    assert bystander.poll() is None
    assert run("run-overlay", "-o", "a.ext3", "--", "true").status == 0


MANY = "mkdir -p /data; cd /data; mkdir $(seq 500); for d in *; do echo $d >$d/f; done; echo end"


def at_work(session, program):
    """Wait until a session has started a program, or has ended."""
    end = session.poll
    while end() is None and not named(descendants(session.pid), program):
        time.sleep(0.001)


def test_end_of_session(run, start, make, rounds, count):
    """Killed while it ends or removes needless markers: the next has all files, no damage.

    Killed before the server has let go, what nobody has synced may be gone: what is there is right.
    """
    moments = random.Random(SEED + 2)
    states = []
    number = rounds(6, 21)
    # Chance has it where the kill hits: more rounds, until both have been seen.
    for turn in range(5 * number):
        if turn >= number and len(set(states)) > 1:
            break
        path = make(f"{turn}.ext3", 100, 8)
        session = start("run-overlay", "-o", path.name, "--", "sh", "-c", MANY)
        session.says("end")
        if turn % 3:  # else the server still writes what it holds
            at_work(session, "debugfs" if turn % 3 == 1 else "unsquashfs")
            time.sleep(moments.uniform(0, 0.04 if turn % 3 == 1 else 0.1))
        kill_tree(session, path)
        errors, found = state(path)
        states.append(found)
        assert found != "clean" or errors == 0, "it says clean and is not"
        line = "cd /data && grep . */f || true"
        words = ok_words(run("run-overlay", "-o", path.name, "--", "sh", "-c", line))
        right = {f"{number}/f:{number}" for number in range(1, 501)}
        assert set(words) == right if turn % 3 else set(words) <= right
        assert state(path) == CLEAN
        path.unlink()
    unclean = sum(found != "clean" for found in states)
    assert 0 < unclean < len(states)
    count(f"end of a session killed: {len(states)} rounds, {unclean} unclean, all right")


def ok_words(result):
    """Return the words that a command which ended well has printed."""
    assert result.status == 0, result
    return result.stdout.split()


def test_repair_before_a_session(run, start, make, rounds, count):
    """Killed while e2fsck repairs: the one after repairs again, and nothing is lost."""
    path = make("a.ext3", 600, 30)
    moments = random.Random(SEED + 3)
    synced = 0
    number = rounds(3, 20)
    for _turn in range(number):
        synced, _spared = write_and_kill(start, path, synced, moments.uniform(0, 0.5))
        session = start("run-overlay", "-o", "a.ext3:ro", "--", "true")
        at_work(session, "e2fsck")
        time.sleep(moments.uniform(0, 0.03))
        kill_tree(session)
        check(run, path, "", synced)
    count(f"repair killed: {number} rounds, {synced} of {synced} files")


@pytest.fixture
def damaged(run, make):
    """Return a function that makes an overlay with files whose directory is destroyed."""

    def damaged(name="a.ext3"):
        path = make(name, 200, 2)
        line = "mkdir -p /data/lost; cd /data; echo one >lost/1; head -c 90000000 /dev/zero >big"
        assert run("run-overlay", "-o", name, "--", "sh", "-c", line).status == 0
        debugfs(path, "clri /upper/data/lost", "ssv state 0")
        return path

    return damaged


def test_repair_on_a_copy(run, start, damaged, rounds, count):
    """check-overlay --repair killed: the old or the new is whole, the next run clears up."""
    path = damaged()
    old = path.read_bytes()
    moments = random.Random(SEED + 4)
    mode = path.stat().st_mode
    kept = replaced = 0
    number = rounds(4, 20)
    for turn in range(number):
        path.write_bytes(old)
        inode = path.stat().st_ino
        session = start("check-overlay", "--repair", "a.ext3")
        if turn % 2:
            wait_until(lambda inode=inode: path.stat().st_ino != inode)
        else:
            at_work(session, "e2fsck")
            time.sleep(moments.uniform(0, 0.02))
        kill_tree(session, path)
        if path.read_bytes() == old:
            kept += 1
        else:
            assert e2fsck(path)[0] == 0
            replaced += 1
    assert kept and replaced
    path.write_bytes(old)
    result = run("check-overlay", "--repair", "a.ext3")
    assert result.status == 0, result
    assert e2fsck(path)[0] == 0
    assert path.stat().st_mode == mode
    assert os.listdir(path.parent) == ["a.ext3"]
    count(f"--repair killed: {number} rounds, {kept} times the old, {replaced} times the new")


def test_creation(run, start, scratch, rounds, count):
    """create-overlay killed: nothing or a whole overlay of that name; the next run clears."""
    moments = random.Random(SEED + 5)
    made = 0
    number = rounds(4, 20)
    path = scratch / "a.ext3"
    for turn in range(number):
        session = start("create-overlay", "-s", "300", "-n", "200", "-o", "a")
        if turn % 2:
            wait_until(path.exists)
        else:
            at_work(session, "mke2fs")
            time.sleep(moments.uniform(0, 0.02))
        kill_tree(session)
        if path.exists():
            made += 1
            assert state(path) == CLEAN
            path.unlink()
    assert 0 < made < number
    assert run("create-overlay", "-q", "-s", "16", "-n", "1", "-o", "a") == (0, "", "")
    assert os.listdir(scratch) == ["a.ext3"]
    count(f"create-overlay killed: {number} rounds, {made} times whole")


def test_engine_failed(start, make):
    """An engine that is gone at once, with its commands: its servers are ended, all is written."""
    path = make()
    line = "mkdir /data; echo kept >/data/f; sync /data/f; echo inside; exec sleep 60"
    session = start("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    session.says("inside")
    below = descendants(session.pid)
    kill([pid for pid in below if program(pid) not in SERVERS])
    assert session.wait(timeout=30) == -signal.SIGKILL
    assert "the engine failed, and what it left behind was ended (fuse2fs " in session.stderr.read()
    assert not holders(path) and state(path) == CLEAN
