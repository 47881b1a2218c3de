"""An update that is killed leaves the old overlay or the new one, whole; readers see one of them."""

import os
import random
import time

from e2e.safety.trees import CLEAN, kill_tree, state

SEED = 16
FILES = 40
WRITE = f"mkdir -p /v && for f in $(seq {FILES}); do echo {{}} >/v/$f || exit 1; done"
READ = "cat /v/* | sort | uniq -c"


def versions(text):
    """Return the versions that a listing of READ tells, and see that nothing is missing."""
    found = [line.split() for line in text.splitlines()]
    assert sum(int(number) for number, _version in found) == FILES, text
    return [int(version) for _number, version in found]


def test_killed(run, ok, start, make, scratch, rounds, count):
    """Killed whole at a random moment: one version, no damage, and nothing is in the way."""
    moments = random.Random(SEED)
    path = make("env.ext3", 24, 2)
    ok("run-overlay", "-q", "-o", "env.ext3", "--", "sh", "-c", WRITE.format(0))
    begin = time.monotonic()
    first = start("update-overlay", "-q", "env.ext3", "--", "sh", "-c", WRITE.format(1))
    assert first.wait() == 0
    span, now, new = time.monotonic() - begin, 1, 0
    number = rounds(4, 40)
    for turn in range(2, 2 + number):
        update = start("update-overlay", "-q", "env.ext3", "--", "sh", "-c", WRITE.format(turn))
        # Half of them near its end, where the new one takes the place of the old.
        time.sleep(span * moments.uniform(*moments.choice(((0, 1), (0.8, 1.4)))))
        kill_tree(update, path)
        (there,) = versions(ok("run-overlay", "-q", "-o", "env.ext3:ro", "--", "sh", "-c", READ))
        assert there in (now, turn)
        now, new = there, new + (there == turn)
        assert state(path) == CLEAN
        kept = [name for name in os.listdir(scratch) if name.startswith("env.ext3.~")]
        assert kept
        for name in kept:
            assert state(scratch / name) == CLEAN
    ok("update-overlay", "-q", "env.ext3", "--", "sh", "-c", WRITE.format(0))
    assert [name for name in os.listdir(scratch) if name.startswith(".overlay")] == []
    count(f"updates killed: {number} rounds, {new} were done, none lost")


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
