"""The view is the same, writable or read-only: no markers, and what is deleted stays so."""

import os
import re
import subprocess
import time

import pytest
from e2e.safety.trees import CLEAN, debugfs, state
from support import BASE, execute, tool, wait_until

# All that find, tar and cp -a make of a tree, each after a line with its name. The size of a
# directory is its file system's own.
FIND = r"find . -type d -printf '%P %y %m\n' -o -printf '%P %y %m %s %l\n' | sort"
LISTING = f"""
cd /data && for way in find tar copy; do
    echo "== $way"
    case $way in
        find) {FIND} ;;
        tar) tar -cf - . | tar -tf - | sort ;;
        copy) cp -a . "$TARGET" && cd "$TARGET" && {FIND} ;;
    esac || exit 1
done
"""


def in_overlay(run, *layers, line, fakeroot=False):
    """Run a line of bash in layers, and return what it prints; it must end well and quietly."""
    words = [word for layer in layers for word in ("-o", layer)]
    flags = ["--fakeroot"] if fakeroot else []
    line = f"set -o pipefail; {line}"
    result = run("run-overlay", *words, *flags, "--", "bash", "-c", line)
    # The engine has remarks of its own that mean nothing.
    said = [line for line in result.stderr.splitlines() if not line.startswith("INFO:  ")]
    assert (result.status, said) == (0, []), result
    return result.stdout


@pytest.fixture
def plain(environ, scratch):
    """Return a function that runs a line of bash in one layer with the engine alone."""

    def plain(layer, line, *flags):
        words = ["/usr/bin/env", "apptainer", "-q", "exec", *flags, "--overlay", layer, BASE]
        result = execute([*words, "bash", "-c", line], environ=environ, cwd=scratch)
        assert result.status == 0, result

    return plain


# The short form leaves out only what pip itself does to install itself.
ENVIRONMENT = {
    False: "python3 -m venv --without-pip /data/env && cd /data/env/lib/python3*/site-packages"
    " && python3 -m zipfile -e /usr/share/python-wheels/pip-*.whl .",
    True: "python3 -m venv /data/env",
}
# An update removes and replaces.
UPDATE = (
    "cd /data/env/lib/python3*/site-packages/pip/_vendor && rm -r rich && rm six.py"
    " && rm -r idna && mkdir idna && echo new >idna/new"
)


@pytest.mark.parametrize("by", ["ours", "the plain engine"])
def test_environment(run, plain, environ, scratch, make, full, count, by):
    """A Python environment shows the same to find, tar and cp -a, writable or read-only."""
    path = make("a.ext3", 200, 10)
    for line in (f"mkdir /data && {ENVIRONMENT[full]}", UPDATE):
        if by == "ours":
            in_overlay(run, "a.ext3", line=line)
        else:
            plain("a.ext3", line)
    found = []
    for number, mode in enumerate((":ro", "", ":ro") if full else (":ro", "")):
        target = scratch / f"copy {number}"
        target.mkdir()
        environ["TARGET"] = str(target)
        found.append(in_overlay(run, f"a.ext3{mode}", line=LISTING))
    assert len(set(found)) == 1
    listed, tarred, copied = (part.splitlines() for part in found[0].split("== ")[1:])
    assert len(listed) == len(tarred) == len(copied) > 400
    assert listed[1:] == copied[1:]
    assert ".wh." not in found[0]
    assert state(path) == CLEAN
    count(f"environment by {by}: {len(listed)} entries, the same by find, tar and cp -a")


# ------------------------------------------------------------- deletion table --

# What is there before, what is done to it, and how it is seen that this holds.
MAKE = "; ".join(
    f"mkdir -p {{at}}/{name} && touch {{at}}/{name}/a {{at}}/{name}/b" for name in "123"
)
DELETE = {
    "file": ("rm {at}/1/a", "test ! -e {at}/1/a && test -e {at}/1/b"),
    "directory": ("rm -r {at}/2", "test ! -e {at}/2"),
    "replaced directory": (
        "rm -r {at}/3 && mkdir {at}/3 && echo new >{at}/3/new",
        'test "$(ls -A {at}/3)" = new && test "$(cat {at}/3/new)" = new',
    ),
}
# Nowhere a marker, and nothing that find or tar stumble over.
SWEEP = """
    test -z "$(find {at} -name '.wh.*')" || echo markers >&2
    find {at} >/dev/null || echo find >&2
    tar -C {at} -cf /dev/null . || echo tar >&2
"""
WAYS = pytest.mark.parametrize("by", ["ours", "the plain engine"])


def delete(at, what=DELETE):
    """Return the line that deletes all of the table."""
    return " && ".join(line.format(at=at) for line, _test in what.values())


def gone(run, at, *layers, what=DELETE, **options):
    """See that what was deleted is gone in a stack, and that nothing else is wrong with it."""
    tests = [f"( {test} ) || echo {name!r} is back >&2" for name, (_, test) in what.items()]
    in_overlay(run, *layers, line="\n".join([*tests, SWEEP, ":"]).format(at=at), **options)


BASE_FILES = "/usr/share/base-files"
IN_BASE = {
    "file": ("rm {at}/motd", "test ! -e {at}/motd && test -e {at}/profile"),
    "directory": ("rm -r {at}/../base-passwd", "test ! -e {at}/../base-passwd"),
    "replaced directory": (
        "rm -r {at}/../debconf && mkdir {at}/../debconf && echo new >{at}/../debconf/new",
        'test "$(ls -A {at}/../debconf)" = new',
    ),
}


@WAYS
def test_deleted_from_base(run, plain, make, by):
    """Deleted from the base image with --fakeroot: gone, writable and read-only."""
    path = make()
    test = "cd {at}; test -e motd && test -e ../base-passwd && test -e ../debconf"
    in_overlay(run, "a.ext3:ro", line=test.format(at=BASE_FILES))
    if by == "ours":
        in_overlay(run, "a.ext3", fakeroot=True, line=delete(BASE_FILES, IN_BASE))
    else:
        plain("a.ext3", delete(BASE_FILES, IN_BASE), "--fakeroot")
    gone(run, BASE_FILES, "a.ext3:ro", what=IN_BASE)
    gone(run, BASE_FILES, "a.ext3:ro", what=IN_BASE, fakeroot=True)
    gone(run, BASE_FILES, "a.ext3", what=IN_BASE)
    assert state(path) == CLEAN


@WAYS
def test_deleted_from_lower(run, plain, make, by):
    """Deleted from an overlay below: gone over it, writable and read-only; there without it."""
    top, lower = make("a.ext3"), make("b.ext3")
    in_overlay(run, "b.ext3", line=MAKE.format(at="/data"))
    if by == "ours":
        in_overlay(run, "a.ext3", "b.ext3", line=delete("/data"))
    else:
        plain("a.ext3", delete("/data"), "--overlay", "b.ext3:ro")
    gone(run, "/data", "a.ext3:ro", "b.ext3:ro")
    gone(run, "/data", "a.ext3", "b.ext3")
    in_overlay(run, "b.ext3:ro", line="cd /data && ls 1/a 1/b 2/a 3/a")
    # Alone the top shows only what it holds itself, and no markers.
    assert in_overlay(run, "a.ext3:ro", line="cd /data && find . | sort").split() == [
        ".",
        "./1",
        "./3",
        "./3/new",
    ]
    assert (state(top), state(lower)) == (CLEAN, CLEAN)


@WAYS
def test_deleted_own(run, plain, make, by):
    """Deleted from what the overlay itself has: gone, alone and over another."""
    make("a.ext3")
    make("b.ext3")
    for line in (MAKE.format(at="/data"), delete("/data")):
        if by == "ours":
            in_overlay(run, "a.ext3", line=line)
        else:
            plain("a.ext3", line)
    for layers in (["a.ext3:ro"], ["a.ext3:ro", "b.ext3:ro"], ["a.ext3"], ["a.ext3", "b.ext3"]):
        gone(run, "/data", *layers)


@pytest.mark.parametrize("kind", ["directory", "squashfs"])
def test_other_kinds(run, plain, scratch, make, kind):
    """Markers in a directory overlay, and in a squashfs file made of one, are honoured."""
    make("b.ext3")
    (scratch / "d").mkdir()
    in_overlay(run, "b.ext3", line=MAKE.format(at="/data"))
    plain("d", delete("/data"), "--overlay", "b.ext3:ro")
    name = "d"
    if kind == "squashfs":
        name = "s.sqsh"
        words = ["mksquashfs", "d/upper", name, "-quiet", "-no-progress", "-all-root"]
        subprocess.run(words, cwd=scratch, check=True, capture_output=True)
    gone(run, "/data", f"{name}:ro", "b.ext3")
    make("w.ext3")
    gone(run, "/data", "w.ext3", name, "b.ext3")


def test_three_layers(run, make):
    """What the middle one deleted stays deleted, also where the top adds to the directory."""
    for name in "abc":
        make(f"{name}.ext3")
    in_overlay(run, "c.ext3", line=MAKE.format(at="/data"))
    in_overlay(run, "b.ext3", "c.ext3", line="rm -r /data/1; mkdir /data/1; echo >/data/1/middle")
    in_overlay(run, "a.ext3", "b.ext3", "c.ext3", line="echo >/data/1/top")
    listing = "ls -A /data/1 | tr '\\n' ' '"
    for layers, names in (
        (["a.ext3", "b.ext3", "c.ext3"], "middle top "),
        (["a.ext3:ro", "b.ext3", "c.ext3"], "middle top "),
        (["b.ext3:ro", "a.ext3", "c.ext3"], "middle "),
        (["a.ext3:ro", "c.ext3"], "a b top "),
    ):
        assert in_overlay(run, *layers, line=listing) == names


# --------------------------------------------------------- what stays and goes --


def markers(path):
    """Return the names of the markers in an image, as the system's own debugfs lists them."""
    listing, pending = [], ["/upper"]
    while pending:
        place = pending.pop()
        done = tool("debugfs", "-R", f'ls -p "{place}"', path)
        for line in done.stdout.splitlines():
            fields = line.split("/")
            if len(fields) < 6 or fields[5] in (".", ".."):
                continue
            if fields[5].startswith(".wh."):
                listing.append(f"{place}/{fields[5]}")
            elif fields[2].startswith("04"):
                pending.append(f"{place}/{fields[5]}")
    return sorted(listing)


NO_MARKER = "test -z \"$(find / -xdev -name '.wh.*' 2>/dev/null)\""


def free_inodes(path):
    """Return how many files an image can still hold."""
    return int(re.search(r"Free inodes: *(\d+)", tool("dumpe2fs", "-h", path).stdout).group(1))


def test_needless_markers_go(run, make):
    """After a session of ours no needless marker is left, and -v says how many there were."""
    path = make()
    before = free_inodes(path)
    result = run(
        "run-overlay",
        "-v",
        "-o",
        "a.ext3",
        "--",
        "sh",
        "-c",
        "mkdir -p /data/a/b /data/c; echo >/data/a/b/f",
    )
    assert result.status == 0
    said = re.search(
        r"^run-overlay: a\.ext3: (\d+) needless deletion markers removed$", result.stderr, re.M
    )
    assert said and int(said.group(1)) >= 4, result
    assert markers(path) == []
    # /data, a, b, c and f, and the directory that the first mount makes.
    assert before - free_inodes(path) <= 7
    assert state(path) == CLEAN
    # What is of the same second as the session before is left alone.
    wait_until(lambda: int(time.time()) > int(path.stat().st_mtime))
    result = run("run-overlay", "-o", "a.ext3", "--", "mkdir", "/more")
    assert result == (0, "", "")
    assert markers(path) == []


def test_markers_with_a_meaning_stay(run, make):
    """Those that hide something of the layers below stay."""
    make("b.ext3")
    path = make("a.ext3")
    in_overlay(run, "b.ext3", line=MAKE.format(at="/data"))
    line = "rm -r /data/1; mkdir -p /data/1/deep /new/deep; touch /data/1/new"
    in_overlay(run, "a.ext3", "b.ext3", line=line)
    left = markers(path)
    assert any(name.startswith("/upper/data/1/.wh.") for name in left)
    assert not any(name.startswith("/upper/new") for name in left)


def test_markers_of_a_plain_session_stay(run, plain, make):
    """Who knows over which layers a plain session was: its markers are left alone."""
    path = make()
    plain("a.ext3", "mkdir -p /data/plain")
    left = markers(path)
    assert any(name.startswith("/upper/data/plain/.wh.") for name in left)
    in_overlay(run, "a.ext3", line="mkdir -p /data/ours /data/plain/ours")
    assert [name for name in left if name not in markers(path)] == []
    assert not any("ours" in name for name in markers(path))
    in_overlay(run, "a.ext3:ro", line=NO_MARKER)
    in_overlay(run, "a.ext3", line=NO_MARKER)


def test_markers_known_stay_right(run, plain, make):
    """What is remembered of an image is not believed once a plain session has changed it."""
    make("b.ext3")
    make("a.ext3")
    in_overlay(run, "b.ext3", line=MAKE.format(at="/data"))
    in_overlay(run, "a.ext3", line="mkdir /x")
    in_overlay(run, "a.ext3:ro", "b.ext3:ro", line="test -e /data/1/a")
    plain("a.ext3", "rm /data/1/a", "--overlay", "b.ext3:ro")
    in_overlay(run, "a.ext3:ro", "b.ext3:ro", line="test ! -e /data/1/a")


def test_whiteouts_of_the_kernel(run, scratch, make):
    """A character device 0/0, the other form of a deletion, hides what is below as well."""
    make("b.ext3")
    path = make("a.ext3")
    in_overlay(run, "b.ext3", line=MAKE.format(at="/data"))
    mine = [
        f"sif {place} {field} {number}"
        for place in ("/upper/data", "/upper/data/1")
        for field, number in (("uid", os.getuid()), ("gid", os.getgid()))
    ]
    debugfs(
        path, "mkdir /upper/data", "mkdir /upper/data/1", *mine, "cd /upper/data/1", "mknod a c 0 0"
    )
    line = 'test "$(ls /data/1)" = b'
    make("w.ext3")
    a_b = ["a.ext3", "b.ext3"]
    for layers in (["a.ext3:ro", "b.ext3:ro"], a_b, ["w.ext3:ro", *a_b], ["w.ext3", *a_b]):
        in_overlay(run, *layers, line=line)


@pytest.mark.parametrize("layers", [["a.ext3:ro"], ["a.ext3:ro", "b.ext3:ro"]])
def test_read_only_stays_so(run, make, layers):
    """Where markers make a read-only session take another way, it is still read-only."""
    make("a.ext3")
    make("b.ext3")
    in_overlay(run, "b.ext3", line=MAKE.format(at="/data"))
    in_overlay(run, "a.ext3", "b.ext3", line="rm -r /data/1")
    words = [word for layer in layers for word in ("-o", layer)]
    result = run("run-overlay", *words, "--", "sh", "-c", "echo x >/x")
    assert result.status != 0
    assert "Read-only file system" in result.stderr


def test_staged_dry_run(run, make):
    """A planned session on a copy shows deletions as the session itself does."""
    make("a.ext3")
    in_overlay(run, "a.ext3", fakeroot=True, line="rm /etc/issue")
    words = ["--stage", "-o", "a.ext3:ro", "--dry-run", "--", "true"]
    assert "--writable-tmpfs" in run("run-overlay", *words).stdout
