"""An update that is killed leaves the old overlay or the new one, whole; readers see one of them."""

import os
import random
from collections import Counter

import pytest
from e2e.safety.trees import CLEAN, Session, kill_tree, state
from support import wait_until

SEED = 16
FILES = 40
WRITE = f"mkdir -p /v && for f in $(seq {FILES}); do echo {{}} >/v/$f || exit 1; done"
READ = "cat /v/* | sort | uniq -c"


def versions(text):
    """Return the versions that a listing of READ tells, and see that nothing is missing."""
    found = [line.split() for line in text.splitlines()]
    assert sum(int(number) for number, _version in found) == FILES, text
    return [int(version) for _number, version in found]


# What changes anything, and the wait for the commands: by these the progress of an update is told.
CALLS = (
    "copy_file_range,pwrite64,write,truncate,ftruncate,fsync,fchmod,mkdir,unlink,unlinkat,rmdir,rename,"
    "renameat,renameat2,linkat,fsetxattr,fremovexattr,rt_sigtimedwait"
)
WAIT = "rt_sigtimedwait"
STOPPED = "--- stopped by SIGSTOP ---"


@pytest.fixture
def update(words, environ, scratch):
    """Return a function that starts an update which is traced, and stops at a call if that is given.

    It is given what the commands do, and (name, number) of a call; it returns a Session. Its calls
    stand in the file log.
    """
    started = []

    def update(line, call=None):
        inject = ["-e", "inject={}:signal=SIGSTOP:when={}".format(*call)] if call else []
        trace = ["strace", "-o", "log", "-e", f"trace={CALLS}", *inject]
        inside = [*words("update-overlay"), "-q", "env.ext3", "--", "sh", "-c", line]
        started.append(Session([*trace, *inside], env=environ, cwd=scratch, start_new_session=True))
        return started[-1]

    yield update
    for session in started:
        with session:
            if session.poll() is None:
                kill_tree(session)


def calls_of(scratch):
    """Return (name, how many of that name until then) of the calls in the log, in order."""
    counts, found = Counter(), []
    for line in (scratch / "log").read_text().splitlines():
        name = line.partition("(")[0]
        if name in CALLS.split(","):
            counts[name] += 1
            found.append((name, counts[name]))
    return found


def wait_for_stop(session, log):
    """Wait until a traced process has been stopped, or has come to its end without."""
    wait_until(lambda: (log.exists() and STOPPED in log.read_text()) or session.poll() is not None)


def test_killed(ok, update, make, scratch, rounds, count):
    """Killed whole in its midst, wherever that is: one version, no damage, nothing is in the way.

    Where is a matter of progress: at a call of the update before, in or behind the commands, or at
    one of the files that these write.
    """
    path = make("env.ext3", 24, 2)
    ok("run-overlay", "-q", "-o", "env.ext3", "--", "sh", "-c", WRITE.format(0))
    # Before, because Python writes what it has compiled when it is first started.
    ok("update-overlay", "-q", "env.ext3", "--", "sh", "-c", WRITE.format(0))
    assert update(WRITE.format(1)).end()[0] == 0
    calls = calls_of(scratch)
    session = [number for number, call in enumerate(calls) if call[0] == WAIT]
    parts = {
        "before the commands": calls[: session[0]],
        "in the commands": list(range(1, FILES + 1)),
        "behind them": calls[session[-1] + 1 :],
    }
    moments, now, found = random.Random(SEED), 1, Counter()
    number = rounds(4, 40)
    for turn in range(2, 2 + number):
        # As often behind the commands, where the new one takes its place, as in all else.
        part = ("behind them", "in the commands", "behind them", "before the commands")[turn % 4]
        at = moments.choice(parts[part])
        if part == "in the commands":
            line = f"[ $f != {at} ] || {{ echo here >&2; read x; }}; echo {turn} >/v/$f"
            session = update(f"for f in $(seq {FILES}); do {line}; done")
            session.complains("here")
        else:
            session = update(WRITE.format(turn), at)
            wait_for_stop(session, scratch / "log")
        found[part if session.poll() is None else "done by then"] += 1
        kill_tree(session, path)
        (there,) = versions(ok("run-overlay", "-q", "-o", "env.ext3:ro", "--", "sh", "-c", READ))
        assert there in (now, turn)
        now, found["were the new one"] = there, found["were the new one"] + (there == turn)
        assert state(path) == CLEAN
        kept = [name for name in os.listdir(scratch) if name.startswith("env.ext3.~")]
        assert kept
        for name in kept:
            assert state(scratch / name) == CLEAN
        (scratch / "log").unlink()
    ok("update-overlay", "-q", "env.ext3", "--", "sh", "-c", WRITE.format(0))
    assert [name for name in os.listdir(scratch) if name.startswith(".overlay")] == []
    told = ", ".join(f"{times} {part}" for part, times in sorted(found.items()) if times)
    count(f"updates killed: {number} rounds, {told}; none lost")


def test_readers(ok, start, make, rounds, count):
    """Readers at work through updates: each sees one version from its beginning to its end."""
    make("env.ext3", 24, 2)
    ok("run-overlay", "-q", "-o", "env.ext3", "--", "sh", "-c", WRITE.format(0))
    line = f"echo begun; {{ {READ}; sleep 1; read x; {READ}; }} | sort | uniq -c"
    readers, updates = rounds(3, 20), rounds(2, 10)
    at_work = []
    for turn in range(1, updates + 1):
        while len(at_work) < readers * turn // updates:
            reader = start("run-overlay", "-q", "-o", "env.ext3:ro", "--", "sh", "-c", line)
            reader.says("begun")
            at_work.append((turn - 1, reader))
        ok("update-overlay", "-q", "env.ext3", "--", "sh", "-c", WRITE.format(turn))
    for version, reader in at_work:
        output, errors = reader.communicate("\n", timeout=120)
        assert (reader.returncode, output.split()) == (0, ["2", str(FILES), str(version)]), errors
    count(f"readers through {updates} updates: {len(at_work)}, each saw one version")
