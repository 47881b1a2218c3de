"""resize-overlay and check-overlay --own: larger, smaller, more files, and nothing lost."""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import stat
import time

import pytest
from e2e.listing import listed, plant, unlock
from e2e.safety.conftest import count, full, hold, make, rounds, start  # noqa: F401
from e2e.safety.trees import CLEAN, debugfs, descendants, kill_tree, named, state, superblock
from overlay.image import ext3
from overlay.image.ext3_read import Reader
from support import digests, tool, wait_until

MIB = 1 << 20
SEED = 5
MARK = "user.note"


@pytest.fixture(scope="session")
def planted(tmp_path_factory):
    """Return a tree with one of everything."""
    tree = plant(tmp_path_factory.mktemp("planted") / "tree")
    for directory in ("directory 0",):  # not needed here: test_fill has it
        (tree / directory).chmod(0o700)
    yield tree
    unlock(tree)


# Files of others, whiteouts, a replaced directory: what only a session can make.
CHANGE = """
mkdir -p /opt/z && echo 1 >/opt/z/1 && chown 33:44 /opt/z/1 && chmod 600 /opt/z/1
rm /etc/issue && rm -r /usr/share/base-passwd
rm -r /usr/share/debconf && mkdir /usr/share/debconf && echo new >/usr/share/debconf/new
echo high >/opt/z/high && chown 65534:65534 /opt/z/high
"""


@pytest.fixture(scope="session")
def prototype(tmp_path_factory):
    """Return the place of an overlay with one of everything, once it is made."""
    return tmp_path_factory.mktemp("prototype") / "a.ext3"


@pytest.fixture
def rich(ok, scratch, planted, prototype):
    """Return an overlay with one of everything, of 120 MiB and 3000 files."""
    if not prototype.exists():
        words = ["-s", "120", "-n", "3", "--from", planted, "-o", prototype.with_suffix(".new.img")]
        ok("create-overlay", "-q", *words)
        name = prototype.with_suffix(".new.img")
        ok("run-overlay", "-o", name, "--fakeroot", "--", "sh", "-ec", CHANGE)
        name.rename(prototype)
    path = scratch / "a.ext3"
    shutil.copyfile(prototype, path)
    os.posix_fallocate(os.open(path, os.O_RDWR), 0, path.stat().st_size)
    return path


LINKS = 4  # the place of that number in what listed() says of a file


def content(ok, name="a.ext3"):
    """Return lists of all that a rich overlay holds, owners included."""
    tree = listed(ok, [f"{name}:ro"], "/tree")
    rest = listed(ok, [f"{name}:ro"], "/opt", "owners", fakeroot=True)
    line = "ls -A /usr/share/debconf; ls -d /etc/issue /usr/share/base-passwd 2>&1 | sort"
    said = ok("run-overlay", "-o", f"{name}:ro", "--", "sh", "-c", line)
    with_owners = tool("debugfs", "-R", "ls -l /upper/opt/z", name).stdout
    return tree, rest, said, re.findall(r"\d+ +\d+ \(\d\) +(\d+) +(\d+) ", with_owners)


def without_links(tree):
    """Return a list of a tree without how many names a file has.

    fuse-overlayfs, by which directories of others are read, says 1 of all; the kernel knows it.
    """
    return {name: [*found[:LINKS], *found[LINKS + 1 :]] for name, found in tree.items()}


def facts(path):
    """Return what resize keeps of the file itself."""
    status = os.stat(path)
    acl = [name for name in os.listxattr(path) if "overlay" not in name]
    return stat.S_IMODE(status.st_mode), {name: os.getxattr(path, name) for name in acl}


@pytest.mark.parametrize(
    ("options", "size", "least"),
    [
        (["-s", "+1G"], 1144, 25000),
        (["-s", "80"], 80, 1500),
        (["-n", "20"], 120, 20000),
        (["-n", "+10K"], 120, 13000),
        (["-s", "70", "-n", "1"], 70, 1000),
    ],
    ids=str,
)
def test_resize(ok, scratch, rich, options, size, least):
    """The size is exact, the files are promised, the content is the same to the last bit."""
    os.setxattr(rich, MARK, b"note")
    rich.chmod(0o640)
    before, kept = content(ok), facts(rich)
    told = json.loads(ok("resize-overlay", "a.ext3", *options, "--json"))
    assert told["size"] == os.stat(rich).st_size == size * MIB
    assert state(rich) == CLEAN
    assert int(superblock(rich)["Inode count"]) >= least
    assert content(ok) == before
    assert facts(rich) == kept
    assert os.stat(rich).st_blocks * 512 >= size * MIB  # reserved as before
    assert os.listdir(scratch) == ["a.ext3"]
    line = "rm -r /tree && touch /new && rm /opt/z/high"
    ok("run-overlay", "-o", "a.ext3", "--fakeroot", "--", "sh", "-c", line)


@pytest.fixture
def unreserved(ok, rich):
    """Take from an overlay what it has reserved for its growth, as images of other makers are."""
    for words in (["tune2fs", "-O", "^resize_inode"], ["e2fsck", "-fy"]):
        assert tool(*words, rich).returncode in (0, 1)
    return rich


def test_nothing_reserved(ok, scratch, unreserved):
    """What has no reserve grows in its place as far as nothing moves, else on a copy."""
    before, inode = content(ok), os.stat(unreserved).st_ino
    for size, is_same in ((200, True), (17000, False)):
        if not is_same:  # all its blocks are its own else
            assert tool("fallocate", "--dig-holes", unreserved).returncode == 0
        ok("resize-overlay", "a.ext3", "-s", size)
        assert (os.stat(unreserved).st_ino == inode) == is_same
        assert state(unreserved) == CLEAN
        assert content(ok) == before


def test_no_room_for_a_copy(run, unreserved):
    """Where something has to move, and there is no room for a copy, it stays as it is."""
    before = unreserved.read_bytes()
    result = run("resize-overlay", "a.ext3", "-s", "4000G")
    assert (result.status, "there is no room" in result.stderr) == (73, True), result
    assert unreserved.read_bytes() == before


def test_what_was_saved(ok, make):  # noqa: F811
    """What repairs have put into lost+found, directories too, is in the new image of -n as well."""
    path = make()
    line = "mkdir -p /data/d/e; echo one >/data/d/one; chmod 640 /data/d/one; seq 99999 >/data/two"
    ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line)
    debugfs(path, "unlink /upper/data/d", "unlink /upper/data/two", "ssv state 0")
    ok("check-overlay", "--repair", "a.ext3")

    def saved():
        lines = tool("debugfs", "-R", "ls -p /lost+found", path).stdout.splitlines()
        rows = [line.split("/") for line in lines if "/#" in line]
        places = sorted(row[5] + ("/one" if row[2].startswith("04") else "") for row in rows)
        return {
            place: tool("debugfs", "-R", f"cat /lost+found/{place}", path).stdout
            for place in places
        }

    before = saved()
    assert len(before) == 2 and "one\n" in before.values()
    ok("resize-overlay", "a.ext3", "-n", "+1K")
    assert saved() == before
    assert state(path) == CLEAN


def test_sparse(ok, scratch, make):  # noqa: F811
    """A sparse one stays sparse, and grows to 20 GB in a moment."""
    path = make("a.ext3", 1000, 20)
    ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "mkdir /data; echo text >/data/f")
    begin = time.monotonic()
    ok("resize-overlay", "a.ext3", "-s", "20G")
    assert time.monotonic() - begin < 60  # tools/benchmark has the figure
    status = os.stat(path)
    assert (status.st_size, status.st_blocks * 512 < 1000 * MIB) == (20 << 30, True)
    for options in (["-s", "500"], ["-n", "30"], ["-s", "+500"]):
        ok("resize-overlay", "a.ext3", *options)
        assert os.stat(path).st_blocks * 512 < 200 * MIB
        assert ok("run-overlay", "-o", "a.ext3:ro", "--", "cat", "/data/f") == "text\n"
    assert state(path) == CLEAN


def test_smallest(ok, run, scratch, rich):
    """Below what is used is refused with a size, or number, that would do; that one works."""
    for options, rest in (
        (["-s", "5"], []),
        (["-n", "0.1"], []),
        (["-s", "5", "-n", "2"], ["-n", "2"]),
    ):
        result = run("resize-overlay", "a.ext3", *options)
        assert (result.status, result.stdout) == (2, ""), result
        assert (os.listdir(scratch), rich.stat().st_size) == (["a.ext3"], 120 * MIB)
        option, amount = re.search(r"hint: .*: (-[sn]) (\S+)\n", result.stderr).groups()
        shutil.copyfile(rich, scratch / "b.ext3")
        ok("resize-overlay", "b.ext3", option, amount, *rest)
        assert state(scratch / "b.ext3") == CLEAN
        assert content(ok, "b.ext3")[0] == content(ok)[0]
        (scratch / "b.ext3").unlink()


def test_directories_of_the_engine(ok, scratch, make):  # noqa: F811
    """What the engine makes in a first session is there, also when there is no room for it."""
    path = make("a.ext3", 20, 1)
    for files in (None, "2"):
        if files:
            ok("resize-overlay", "a.ext3", "-n", files)
        with open(path, "rb") as file:
            reader = Reader(file.fileno(), ext3.read_superblock(file.fileno()))
            assert reader.lookup(b"work/work")[1].is_directory


@pytest.mark.parametrize(
    ("options", "status", "word"),
    [
        ([], 2, "neither a new size nor a new number of files"),
        (["-s", "x"], 2, "-s"),
        (["-s", "-5"], 2, ""),
        (["-s", "+100T"], 2, "more than an ext3 image can be"),
        (["-s", "0"], 2, ""),
        (["-n", "0"], 2, ""),
        (["-n", "+0"], 2, ""),
        (["-n", "9M"], 2, "do not fit into 120 MiB"),
        (["-s", "121", "-n", "9M"], 2, "the smallest possible size"),
    ],
    ids=str,
)
def test_refused(run, scratch, rich, options, status, word):
    """What cannot be is refused, and nothing changed."""
    result = run("resize-overlay", "a.ext3", *options)
    assert (result.status, result.stdout) == (status, ""), result
    assert word in result.stderr
    assert (os.listdir(scratch), rich.stat().st_size) == (["a.ext3"], 120 * MIB)
    assert state(rich) == CLEAN


def test_no_overlay(run, scratch, colleague):
    """What is missing, no image, damaged, or another's is refused; nothing is changed."""
    (scratch / "d").mkdir()
    (scratch / "garbage").write_bytes(bytes(1024 + 56) + b"\x53\xef" + bytes(100000))
    (scratch / "empty").touch()
    shutil.copyfile(colleague / "0644.ext3", scratch / "copy.ext3")
    before = digests(scratch)
    for name, status in (
        ("no", 66),
        ("d", 65),
        ("garbage", 65),
        ("empty", 65),
        ("copy.ext3", 77),
        (colleague / "0644.ext3", 77),
        (colleague / "0600.ext3", 66),
    ):
        for options in (["-s", "100"], ["-n", "2"], ["-s", "8"]):
            result = run("resize-overlay", name, *options)
            assert (result.status, result.stdout) == (status, ""), result
    assert digests(scratch) == before


def test_in_use(run, scratch, rich, hold):  # noqa: F811
    """While a session uses it, reading or writing, it is refused with who that is."""
    for mode in ("", ":ro"):
        session = hold(f"a.ext3{mode}")
        for options in (["-s", "300"], ["-n", "20"], ["-s", "80"]):
            result = run("resize-overlay", "a.ext3", *options)
            assert (result.status, result.stdout) == (75, ""), result
            assert re.search(r"a\.ext3 is in use: .*\(process \d+ on this host", result.stderr)
        assert session.end() == (0, "")
    assert os.stat(rich).st_size == 120 * MIB


def test_nobody_comes_in(run, start, scratch, rich):  # noqa: F811
    """While it is written anew, sessions are refused, and another resize too."""
    session = start("resize-overlay", "a.ext3", "-n", "20")
    wait_until(lambda: len(os.listdir(scratch)) > 1)  # the new one has been begun
    os.kill(session.pid, signal.SIGSTOP)
    refusals = [
        run("run-overlay", "-o", "a.ext3", "--", "true").status,
        run("resize-overlay", "a.ext3", "-s", "200").status,
    ]
    os.kill(session.pid, signal.SIGCONT)
    assert (session.end()[0], refusals) == (0, [75, 75])
    assert os.listdir(scratch) == ["a.ext3"]


LIMITS = "[site]\nlock = create.max_size create.max_files create.min_size\n[create]\n"


def test_policy(ok, run, scratch, site, site_text, make):  # noqa: F811
    """The site's limits hold; an overlay that fits them exactly can be resized within them."""
    make("a.ext3", 100, 2)
    site.write_text(f"{site_text}{LIMITS}max_size = 150M\nmax_files = 2K\nmin_size = 60M\n")
    variables = {"OVERLAY_CREATE_MAX_SIZE": "1T", "OVERLAY_CREATE_MAX_FILES": "1M"}
    for options in (["-s", "151"], ["-s", "59"], ["-n", "3"], ["-s", "+51"]):
        result = run("resize-overlay", "a.ext3", *options, variables=variables)
        assert (result.status, "not allowed here" in result.stderr) == (77, True), result
    ok("resize-overlay", "a.ext3", "-s", "80")
    ok("resize-overlay", "a.ext3", "-n", "2")


def test_full_disk(run, ok, small, rich):
    """On a disk without room: refused, or undone; the content is the same."""
    name = small / "b.ext3"
    ok("create-overlay", "-q", "-s", "40", "-n", "1", "-o", name)
    ok(
        "run-overlay",
        "-o",
        name,
        "--",
        "sh",
        "-c",
        "mkdir /data; head -c 9000000 /dev/zero >/data/f",
    )
    before = listed(ok, [f"{name}:ro"], "/data")
    for options in (["-s", "100"], ["-n", "5"], ["-s", "30"]):
        result = run("resize-overlay", name, *options, cwd=small)
        assert (result.status, result.stdout) == (73, ""), result
        assert state(name) == CLEAN
        assert os.listdir(small) == ["b.ext3"]
        assert os.stat(name).st_size == 40 * MIB
    assert listed(ok, [f"{name}:ro"], "/data") == before


def test_sparse_on_a_full_disk(run, ok, small):
    """A sparse one whose tables the disk cannot take: undone, whole, nothing left."""
    name = small / "b.ext3"
    ok("create-overlay", "-q", "--sparse", "-s", "60", "-n", "60", "-o", name, cwd=small)
    before = os.stat(name).st_size
    with open(small / "filler", "wb") as file:
        free = os.statvfs(small)
        file.write(bytes(free.f_bavail * free.f_frsize - 2 * MIB))
    result = run("resize-overlay", name, "-s", "50G", cwd=small)
    assert result.status == 73, result
    assert (state(name), os.stat(name).st_size) == (CLEAN, before)
    assert sorted(os.listdir(small)) == ["b.ext3", "filler"]


def test_half_done(ok, rich):
    """A file that is longer than the file system in it grows to that length."""
    before = content(ok)
    os.truncate(rich, 300 * MIB)
    ok("resize-overlay", "a.ext3", "-s", "300")
    shown = tool("dumpe2fs", "-h", rich).stdout
    assert int(re.search(r"Block count: +(\d+)", shown)[1]) * 4096 == 300 * MIB
    assert content(ok) == before


# ------------------------------------------------------------------ interrupted --

WAYS = {"grow": ["-s", "900"], "shrink": ["-s", "90"], "files": ["-n", "40"]}
PROGRAMS = {"grow": "resize2fs", "shrink": "e2image", "files": "mke2fs"}


@pytest.mark.parametrize(
    ("way", "number"),
    [
        ("grow", signal.SIGINT),
        ("grow", signal.SIGTERM),
        ("shrink", signal.SIGTERM),
        ("files", signal.SIGINT),
    ],
)
def test_interrupted(ok, start, scratch, rich, way, number):  # noqa: F811
    """Ctrl-C and TERM: the old one, or the new one, clean, and nothing beside it."""
    before = content(ok)
    session = start("resize-overlay", "a.ext3", *WAYS[way])
    end = session.poll
    while end() is None and not named(descendants(session.pid), PROGRAMS[way]):
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):  # it was quicker
        os.killpg(session.pid, number)
    status, _errors = session.end()
    assert status in (0, 128 + number, -number)
    assert os.listdir(scratch) == ["a.ext3"]
    assert state(rich) == CLEAN
    assert content(ok) == before


@pytest.fixture
def kills(ok, start, scratch, rich, count):  # noqa: F811
    """Return a function that kills so many resizes at random moments, and sees all is whole."""

    def kills(number):
        before, original = content(ok), rich.read_bytes()
        moments, done = random.Random(SEED), 0
        for turn in range(number):
            way = list(WAYS)[turn % len(WAYS)]
            rich.write_bytes(original)
            session = start("resize-overlay", "a.ext3", *WAYS[way])
            delay = moments.uniform(0, 0.6 if turn % 2 else 0.25)
            if turn % 4 == 3:
                while session.poll() is None and not named(descendants(session.pid), PROGRAMS[way]):
                    time.sleep(0.001)
                delay = moments.uniform(0, 0.05)
            time.sleep(delay)
            kill_tree(session)
            # As a user goes on: the next command of any kind finds it whole.
            if turn % 3 == 0:
                assert ok("check-overlay", "a.ext3").startswith("a.ext3: ")
            assert content(ok) == before, (turn, way)
            assert state(rich) == CLEAN, (turn, way)
            done += os.stat(rich).st_size != 120 * MIB or way == "files"
            ok("resize-overlay", "a.ext3", "-s", "150")
            assert state(rich) == CLEAN
            assert os.listdir(scratch) == ["a.ext3"], (turn, way)
        count(f"resize killed: {number} rounds, never damaged, content equal")

    return kills


def test_killed(kills, rounds):  # noqa: F811
    """Killed at a random moment: never damaged at the next use, content equal."""
    kills(rounds(4, 30))


# -------------------------------------------------------------------------- own --


@pytest.fixture
def foreign(rich):
    """Return an overlay all of whose inside belongs to another uid."""
    names = [
        "/upper",
        "/work",
        "/upper/tree",
        "/upper/tree/deep",
        "/upper/tree/deep/7",
        "/upper/opt",
    ]
    lines = [f"sif {name} {field} 54321" for name in names for field in ("uid", "gid")]
    debugfs(rich, *lines)
    return rich


TOUCH = "touch /new /tree/new /opt/new && echo more >>/tree/deep/7 && rm /tree/deep/8 && echo done"


def test_own(ok, run, scratch, foreign):
    """A copy of another's is refused for writing with the command that makes it one's own."""
    result = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert "mounted read-only" in result.stderr
    assert "check-overlay --own a.ext3" in result.stderr
    before = without_links(content(ok)[0])
    ok("check-overlay", "--own", "a.ext3")
    assert state(foreign) == CLEAN
    assert without_links(content(ok)[0]) == before
    assert ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", TOUCH) == "done\n"
    line = "find /tree /opt ! -user $(id -u) 2>&1; chmod -R u+w /tree; rm -r /tree /opt/z"
    assert ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line) == ""


def test_own_of_a_colleague(ok, run, scratch, colleague):
    """An overlay copied from another user, who made it: `touch` works inside."""
    shutil.copyfile(colleague / "0644.ext3", scratch / "a.ext3")
    ok("check-overlay", "--own", "a.ext3")
    line = "touch /data/new; cat /data/hello /data/secret; rm /data/secret; ls /data"
    assert ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line) == (
        "hello from a colleague\nnot for everybody\nhello\nnew\n"
    )
    result = run("check-overlay", "--own", colleague / "0644.ext3")
    assert result.status == 77, result


def test_own_in_use(run, foreign, hold):  # noqa: F811
    """Not while a session reads it."""
    session = hold("a.ext3:ro")
    before = foreign.read_bytes()
    assert run("check-overlay", "--own", "a.ext3").status == 75
    assert foreign.read_bytes() == before
    assert session.end() == (0, "")


def test_own_killed(ok, start, foreign):  # noqa: F811
    """Killed in its midst: done again it completes."""
    for delay in (0.05, 0.08, 0.12):
        session = start("check-overlay", "--own", "a.ext3")
        time.sleep(delay)
        kill_tree(session)
    ok("check-overlay", "--own", "a.ext3")
    assert ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", TOUCH) == "done\n"
    assert state(foreign) == CLEAN


def test_far_too_large(ok, run, scratch):
    """What is far larger than what is in it is shown, and the line that is proposed makes it smaller."""
    made = run("create-overlay", "--sparse", "-s", "200G", "-n", "20", "-o", "big one")
    assert made.status == 0, made
    assert "200 GiB is large: every new file or directory in an overlay takes time" in made.stderr
    assert "resize-overlay 'big one.ext3' -s +SIZE" in made.stderr
    ok("create-overlay", "-q", "--sparse", "-s", "64", "-n", "2", "-o", "small")
    ok("run-overlay", "-o", "big one.ext3", "--", "mkdir", "/kept")
    *table, line = ok("list-overlays").splitlines()
    assert [one.split()[-1] for one in table if "too large" in one] == ["one.ext3'"]
    found = re.fullmatch(
        r"1 of them is far larger than what is inside: 200 GiB for .* of data, .* on disk, and new"
        r" files take longer; to make smaller: (resize-overlay 'big one\.ext3' -s 10G -n \d+)",
        line,
    )
    assert found, line
    report = ok("overlay-admin", "report", ".")
    assert "TOO LARGE" in report
    assert report.splitlines()[-1] == line.replace("'big one.ext3'", "'./big one.ext3'")
    ok(*shlex.split(found[1]))
    assert (scratch / "big one.ext3").stat().st_size == 10 << 30
    assert "too large" not in ok("list-overlays")
    assert ok("run-overlay", "-o", "big one.ext3:ro", "--", "ls", "-d", "/kept") == "/kept\n"
