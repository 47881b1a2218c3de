"""Nothing of a session outlives run-overlay and its like when these are killed."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from e2e.safety.trees import (
    CLEAN,
    descendants,
    holders,
    kill,
    named,
    program,
    state,
)
from support import wait_until

KEEPER = "overlay-keeper"
SYNCED = "mkdir /data; echo kept >/data/f; sync /data/f; echo inside"

# What commands may do with a TERM, and where they may run.
LINES = {
    "heeds": "exec sleep 300",
    "ignores": "trap '' TERM; while :; do sleep 0.2; done",
    "background": "setsid sleep 300 & (sleep 300 &); trap '' TERM; sleep 300 & wait; wait",
}


def below(session):
    """Return the numbers of the session's processes, all of them."""
    return {session.pid, *descendants(session.pid)}


def all_gone(pids):
    """Wait until none of some processes is left."""
    wait_until(lambda: not any(program(pid) for pid in pids))


@pytest.mark.parametrize("how", LINES)
@pytest.mark.parametrize("group", [False, True])
def test_killed(run, start, make, how, group):
    """kill -9, of run-overlay alone or of its group: all ends, and what was synced is there."""
    path = make()
    session = start("run-overlay", "-o", "a.ext3", "--", "bash", "-c", f"{SYNCED}; {LINES[how]}")
    session.says("inside")
    if group:
        time.sleep(2.5)  # a session that is older than its start takes
    elif how == "background":
        wait_until(lambda: len(named(descendants(session.pid), "sleep")) >= 2)
    pids = below(session) | holders(path)
    assert named(pids, KEEPER) and named(pids, "fuse2fs")
    (os.killpg if group else os.kill)(session.pid, signal.SIGKILL)
    session.wait()
    all_gone(pids)
    assert not holders(path)
    assert state(path) == CLEAN
    found = run("run-overlay", "-o", "a.ext3:ro", "--", "cat", "/data/f")
    assert (found.status, found.stdout) == (0, "kept\n"), found


@pytest.mark.parametrize("how", ["heeds", "ignores"])
@pytest.mark.parametrize(
    "typed",
    [
        ("run-overlay", "-o", "a.ext3", "--", "cat", "/data/f"),
        ("check-overlay", "--recover", "a.ext3"),
        ("check-overlay", "a.ext3"),
        ("resize-overlay", "-q", "a.ext3", "-s", "+32"),
    ],
    ids=["run-overlay", "recover", "check-overlay", "resize-overlay"],
)
def test_used_at_once(run, start, make, how, typed):
    """What is typed right after the kill works: it waits for the end of the rest."""
    path = make()
    session = start("run-overlay", "-o", "a.ext3", "--", "bash", "-c", f"{SYNCED}; {LINES[how]}")
    session.says("inside")
    session.kill()
    session.wait()  # until then it is still in use
    result = run(*typed)
    assert result.status == 0, result
    assert not holders(path)
    assert state(path) == CLEAN


def test_killed_while_it_starts(run, start, make, rounds):
    """At whatever moment of the start it is killed, nothing is left, and nothing is damaged."""
    path = make()
    number = rounds(12, 60)
    for turn in range(number):
        mark = f"MARK=overlay-{os.getpid()}-{turn}"
        line = f"exec env {mark} sleep 300"
        session = start("run-overlay", "-o", "a.ext3", "--", "bash", "-c", line)
        time.sleep(0.03 + turn * 0.3 / number)
        session.kill()
        session.wait()
        wait_until(lambda: not holders(path))
        left = [file for file in Path("/proc").glob("[0-9]*/environ") if has(file, mark)]
        assert not left
        result = run("run-overlay", "-o", "a.ext3", "--", "true")
        assert result.status == 0, result
        assert state(path) == CLEAN


def has(file, mark):
    """Return whether an environment, of a process that may have ended, has a variable."""
    try:
        return mark.encode() in file.read_bytes().split(b"\0")
    except OSError:
        return False


@pytest.mark.parametrize("name", ["mount-overlay", "run-overlay"])
def test_in_a_terminal(terminal, run, make, name):
    """A shell, which ignores TERM, does not stay behind in the terminal either."""
    path = make()
    if name == "mount-overlay":
        child = terminal(name, "-q", "-o", "a.ext3")
        child.expect_exact("[a.ext3]")
        child.sendline("echo kept >/f; sync /f; echo rea''dy")
    else:
        child = terminal(
            name, "-o", "a.ext3", "--", "bash", "-c", f"{SYNCED}; echo ready; {LINES['ignores']}"
        )
    child.expect("ready\r\n")
    pids = {child.pid, *descendants(child.pid), *holders(path)}
    child.kill(signal.SIGKILL)
    child.wait()
    all_gone(pids)
    assert state(path) == CLEAN
    assert run("run-overlay", "-o", "a.ext3", "--", "true") == (0, "", "")


# Commands that need an overlay for themselves.
TYPED = [
    ("run-overlay", "-o", "a.ext3", "--", "true"),
    ("check-overlay", "a.ext3"),
    ("resize-overlay", "-q", "a.ext3", "-s", "+32"),
]
READ = ("run-overlay", "-o", "a.ext3:ro", "--", "bash", "-c")


def test_readers(run, start, make):
    """kill -9 of a session that only reads: its servers end, and what it left in the background."""
    path = make()
    line = "setsid sleep 300 & echo $!; (sleep 300 & echo $!); echo inside; sleep 300"
    session = start(*READ, line)
    left = {int(session.stdout.readline()) for _count in range(2)}
    session.says("inside")
    wait_until(lambda: named(left, "sleep") == [*left])
    pids = left | below(session) | holders(path)
    assert named(pids, KEEPER) and named(pids, "fuse2fs") and named(pids, "squashfuse_ll")
    session.kill()
    session.wait()  # until then it is still in use
    assert run("run-overlay", "-o", "a.ext3", "--", "true") == (0, "", "")
    all_gone(pids)


@pytest.mark.parametrize("typed", TYPED, ids=[words[0] for words in TYPED])
def test_readers_without_keeper(run, start, make, typed):
    """Where that was killed, too, whoever needs the overlay ends what serves nobody any more."""
    path = make()
    session = start(*READ, "echo inside; exec sleep 300")
    session.says("inside")
    inside = named(descendants(session.pid), "sleep")
    kill([*named(descendants(session.pid), KEEPER), session.pid])
    session.wait()
    all_gone(inside)  # the kernel ends it with the engine
    assert named(holders(path), "fuse2fs")
    result = run(*typed)
    assert result.status == 0, result
    wait_until(lambda: not holders(path))


def test_readers_background(start, make):
    """What a session that only reads leaves running when it ends by itself is not ended."""
    make()
    session = start(*READ, "setsid sleep 300 & echo inside; read x; echo $!")
    session.says("inside")
    (keeper,) = named(descendants(session.pid), KEEPER)
    session.stdin.write("\n")
    session.stdin.flush()
    left = int(session.stdout.readline())
    try:
        session.wait()
        all_gone({keeper})
        assert program(left) == "sleep"
    finally:
        kill([left])


@pytest.mark.parametrize("options", [("--discard-writes",), ("--per-task", "--keep", ".")])
def test_layer(run, start, make, environ, tmp_path, options):
    """A session over a layer of its own ends as well, and its overlays are free."""
    path = make()
    (tmp_path / "tmp").mkdir()
    environ["TMPDIR"] = str(tmp_path / "tmp")
    line = f"echo inside; {LINES['ignores']}"
    session = start("run-overlay", *options, "-o", "a.ext3", "--", "bash", "-c", line)
    session.says("inside")
    pids = below(session) | holders(path)
    session.kill()
    session.wait()
    all_gone(pids)
    assert run("run-overlay", "-o", "a.ext3", "--", "true") == (0, "", "")


@pytest.mark.parametrize("group", [False, True])
def test_build(run, start, scratch, group):
    """create-overlay -f: the commands do not work on, and no overlay is made."""
    (scratch / "build").write_text(f"echo inside; {LINES['background']}\n")
    session = start("create-overlay", "-s", "64", "-n", "1", "-o", "b.ext3", "-f", "build")
    session.complains("inside")
    if group:
        time.sleep(2.5)
    wait_until(lambda: len(named(descendants(session.pid), "sleep")) >= 2)
    pids = below(session)
    (os.killpg if group else os.kill)(session.pid, signal.SIGKILL)
    session.wait()
    all_gone(pids)
    assert not (scratch / "b.ext3").exists()
    (scratch / "build").write_text("echo again\n")
    assert (
        run("create-overlay", "-q", "-s", "64", "-n", "1", "-o", "b.ext3", "-f", "build").status
        == 0
    )


def test_left_behind_all_the_same(run, start, make):
    """Where the keeper was killed too, what still runs is named with the line that ends it."""
    path = make()
    line = f"{SYNCED}; {LINES['ignores']}"
    session = start("run-overlay", "-o", "a.ext3", "--", "bash", "-c", line)
    session.says("inside")
    shell = named(descendants(session.pid), "bash")
    kill([*named(descendants(session.pid), KEEPER), session.pid])
    session.wait()
    for typed in (
        ("run-overlay", "-o", "a.ext3", "--", "true"),
        ("check-overlay", "--recover", "a.ext3"),
    ):
        result = run(*typed)
        assert result.status == 75
        assert re.fullmatch(
            rf"{typed[0]}: error: a\.ext3 is in use: a killed session left commands behind that"
            rf" still run: .*\({shell[0]}\).*\n"
            rf"{typed[0]}: hint: to end them: kill -KILL [\d ]*\b{shell[0]}\b[\d ]*;"
            r" then: check-overlay --recover a\.ext3\n",
            result.stderr,
        ), result.stderr
    end = re.search(r"kill -KILL ([\d ]+);", result.stderr).group(1)
    kill(map(int, end.split()))
    assert run("check-overlay", "--recover", "a.ext3") == (0, "a.ext3: clean\n", "")
    found = run("run-overlay", "-o", "a.ext3:ro", "--", "cat", "/data/f")
    assert (found.status, found.stdout) == (0, "kept\n"), found
    assert not holders(path)


def test_keeper(start, make):
    """It is in nobody's way: no pipe is kept open by it, no signal ends it, it ends with us."""
    path = make()
    session = start("run-overlay", "-o", "a.ext3", "--", "bash", "-c", "echo inside; read x")
    session.says("inside")
    (keeper,) = named(descendants(session.pid), KEEPER)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
        os.kill(keeper, number)
    time.sleep(0.2)
    assert program(keeper) == KEEPER
    links = {os.readlink(link) for link in Path(f"/proc/{keeper}/fd").iterdir()}
    assert {link for link in links if link.startswith("/") and link != "/dev/null"} == {str(path)}
    assert len([link for link in links if link.startswith("pipe:")]) == 1
    assert os.readlink(f"/proc/{keeper}/cwd") == "/"
    assert session.end() == (0, "")
    assert program(keeper) is None
