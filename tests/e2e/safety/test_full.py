"""A full overlay: what a command could not write, it is told, or the session ends with 74."""

import os
import re

import pytest
from e2e.safety.trees import CLEAN, state
from support import tool

# Each writes file number $i of 60,000 bytes, and ends well only if it believes that it did.
CONTENT = "printf '%060000d' $i"
WRITERS = {
    "printf": f"{CONTENT} >$i",
    "dd": f"{CONTENT} | dd of=$i bs=4096 status=none",
    "cp": f"{CONTENT} >/tmp/$TOKEN && cp /tmp/$TOKEN $i",
    "python": """python3 -c 'import sys
with open(sys.argv[1], "w") as file:
    file.write(sys.argv[1].rjust(60000, "0"))' $i""",
    "mmap": """python3 -c 'import mmap, os, sys
with open(sys.argv[1], "w+b") as file:
    file.truncate(60000)
    with mmap.mmap(file.fileno(), 0) as memory:
        memory[:] = sys.argv[1].rjust(60000, "0").encode()
        memory.flush()' $i""",
}
EMPTY = {
    "redirection": ": >$i",
    "touch": "touch $i",
    "mkdir": "mkdir $i",
    "python": "python3 -c 'import sys; open(sys.argv[1], \"x\")' $i",
}

# Writes until a writer fails; prints the last number that one believed to have written.
FILL = """
mkdir -p /data && cd /data || exit 9
{before}
for i in $(seq {last}); do
    {writer} 2>/tmp/$TOKEN.errors || break
    written=$i
done
cat /tmp/$TOKEN.errors >&2
rm -f /tmp/$TOKEN*
{then}
echo $written
exit 0
"""

# Takes most of the room, or of the files, of the smallest overlay.
BLOCKS = "head -c 9000000 /dev/zero >big"
FILES = "seq 1001 1250 | xargs touch"

# Prints the numbers of the files that are not what they should be.
WRONG = "cd /data; for i in $(seq {last}); do {test} || echo $i; done"
SAME = f'[ "$({CONTENT} | md5sum)" = "$(md5sum <$i)" ]'


@pytest.fixture
def fill(run, environ, tmp_path):
    """Return a function that fills a.ext3 with a writer; returns (Result, last written)."""
    environ["TOKEN"] = f"overlay-test.{os.getpid()}"

    def fill(writer, before="", last=500, then="", **variables):
        text = FILL.format(writer=writer, before=before, last=last, then=then)
        result = run("run-overlay", "-o", "a.ext3", "-f", "-", stdin=text, variables=variables)
        return result, int(result.stdout.split()[-1])

    return fill


@pytest.fixture
def wrong(ok):
    """Return a function that lists which of the files are not as they were written."""

    def wrong(last, test=SAME):
        text = WRONG.format(last=last, test=test)
        return ok("run-overlay", "-q", "-o", "a.ext3:ro", "-f", "-", stdin=text).split()

    return wrong


@pytest.fixture
def apart(scratch):
    """Return PATH for an engine whose helpers lie where ours cannot stand before them."""
    place = scratch.parent / "helpers"
    place.mkdir()
    for name in ("fuse-overlayfs", "fuse2fs"):
        (place / name).symlink_to(f"/usr/bin/{name}")
    return f"{place}:/usr/local/bin:/usr/bin:/bin"


THEN = {"full at the end": "", "one deleted": "truncate -s 0 2; rm 2"}


@pytest.mark.parametrize("then", THEN)
@pytest.mark.parametrize("writer", WRITERS)
def test_blocks(fill, wrong, make, writer, then):
    """Full by blocks: a writer that cannot write is told, and what others wrote is there."""
    path = make("a.ext3", 16, 3)
    result, written = fill(WRITERS[writer], BLOCKS, then=THEN[then])
    assert result.status == 0, result
    assert 2 < written < 100
    assert "No space left on device" in result.stderr
    assert wrong(written) == (["2"] if THEN[then] else [])
    assert state(path) == CLEAN


@pytest.mark.parametrize("writer", EMPTY)
def test_files(fill, wrong, make, writer):
    """Full by files: the same."""
    path = make("a.ext3", 16, 0.3)
    result, written = fill(EMPTY[writer], FILES, then="rm -r 1")
    assert result.status == 0, result
    assert 20 < written < 200
    assert "No space left on device" in result.stderr
    assert wrong(written, "[ -e $i ]") == ["1"]
    assert state(path) == CLEAN


@pytest.mark.parametrize("writer", ["printf", "dd", "mmap"])
def test_without_our_launcher(fill, wrong, make, apart, writer):
    """An engine that does not take our launcher: a full overlay at the end shows it.

    One that was full in between does not: nothing of the image tells.
    """
    path = make("a.ext3", 16, 3)
    result, written = fill(WRITERS[writer], BLOCKS, last=80, PATH=apart)
    lost = set(wrong(written))
    assert lost or written < 80, "it has not run full"
    assert result.status == 74 or not lost, (lost, result)
    if result.status:
        said = [line for line in result.stderr.splitlines() if line.startswith("run-overlay: ")]
        assert re.match(r"run-overlay: a\.ext3 (is|ran) full", said[0]), result.stderr
        assert "lost" in said[0]
    assert state(path) == CLEAN


def test_whole_by_chance(fill, wrong, make, apart):
    """An engine that does not take our launcher, and enough room: status 0, and no word."""
    make("a.ext3", 16, 3)
    result, written = fill(WRITERS["printf"], last=20, PATH=apart)
    assert (result.status, result.stderr, written) == (0, "", 20)
    assert wrong(written) == []


def test_full_one_starts(fill, run, make):
    """A session starts on a full overlay, is warned, and can delete and write again."""
    path = make("a.ext3", 16, 3)
    fill(WRITERS["dd"], BLOCKS)
    line = "cd /data && for i in 1 2 3 4 5 6; do truncate -s 0 $i; done && rm 1 && echo new >7"
    result = run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    assert result.status == 0
    assert result.stderr.startswith("run-overlay: a.ext3 is nearly full: ")
    assert run("run-overlay", "-q", "-o", "a.ext3:ro", "--", "cat", "/data/7").stdout == "new\n"
    assert state(path) == CLEAN


def test_status_of_failed_commands_stays(fill, run, make):
    """Commands that failed because of it keep their own status."""
    make("a.ext3", 16, 3)
    line = "head -c 30000000 /dev/zero >/big || exit 5"
    result = run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    assert result.status == 5
    assert "No space left on device" in result.stderr


# ------------------------------------------------------------------- warnings --


@pytest.mark.parametrize(
    ("low", "warned"),
    [("0%", False), ("5%", False), ("90%", True)],
)
def test_nearly_full(run, make, low, warned):
    """A warning below the site's threshold, at the start of a writable session only."""
    make("a.ext3", 16, 1)
    result = run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "head -c 4000000 /dev/zero >/f")
    assert (result.status, result.stderr) == (0, "")
    variables = {"OVERLAY_SAFETY_LOW": low}
    result = run("run-overlay", "-q", "-o", "a.ext3", "--", "true", variables=variables)
    assert (result.status, bool(result.stderr)) == (0, warned)
    if warned:
        amount = r"[\d.]+ (MiB|KiB)"
        assert re.match(rf"run-overlay: a.ext3 is nearly full: {amount} and .* left", result.stderr)
    result = run("run-overlay", "-o", "a.ext3:ro", "--", "true", variables=variables)
    assert result == (0, "", "")


def test_nearly_full_of_files(run, make):
    """Few files left is as bad as little room."""
    make("a.ext3", 16, 0.3)
    line = "mkdir /d; cd /d; seq 295 | xargs touch"
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line).status == 0
    result = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert result.status == 0
    assert "a.ext3 is nearly full: " in result.stderr


def test_sparse_and_the_disk_nearly_full(ok, run, scratch):
    """A sparse overlay that may still grow by more than the disk has is warned about."""
    room = os.statvfs(scratch).f_bavail * os.statvfs(scratch).f_frsize >> 20
    ok("create-overlay", "-q", "--sparse", "-s", room + 20000, "-n", "1", "-o", "a")
    result = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert result.status == 0
    assert re.search(
        r"^run-overlay: a\.ext3 is sparse and may still grow by [\d.]+ GiB, but its file system"
        r" has [\d.]+ GiB left$",
        result.stderr,
        re.MULTILINE,
    ), result
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "true") == (0, "", "")
    assert tool("du", "-m", scratch / "a.ext3").stdout.split()[0] != "0"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cat /dev/zero >/x 2>/dev/null; true", r"\d+ KiB and 1,\d+ files left;.* -s \+SIZE"),
        (
            "mkdir /d; cd /d; touch $(seq 1500) 2>/dev/null; true",
            r".* and \d files left;.* -n \+FILES",
        ),
    ],
    ids=["room", "files"],
)
def test_said_in_the_end(run, make, line, said):
    """A session that fills its overlay ends with one line, whatever its commands have said."""
    make("a.ext3", 16, 1)
    result = run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    assert (result.status, result.stdout) == (0, ""), result
    assert re.fullmatch(rf"run-overlay: a\.ext3 is full: {said}\n", result.stderr), result
    # What was full before is told at the start, and not again.
    result = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert re.fullmatch(r"run-overlay: a\.ext3 is nearly full: .*\n", result.stderr), result
