"""Stacks of several overlays: every file is itself, whatever the layers number them."""

import os
import subprocess

import pytest
from e2e.safety.test_view import in_overlay
from e2e.safety.trees import CLEAN, debugfs, state
from overlay.launch import stack as stacks
from support import ROOT, shell, wait_until

NAMES = "abc"
PAIRS = 20  # of files with two names, in each overlay

# The content of all files below where we are, and which of them are names of one.
CONTENT = r"find . -type f | sort | xargs sha256sum"
LINKS = r"find . -type f -printf '%D.%i %p\n' | sort -k2"


@pytest.fixture
def three(ok, scratch):
    """Make three overlays with a tree of their own each, of files of equal sizes and times.

    ext3 gives out its numbers in order, so these meet.
    """
    for name in NAMES:
        tree = scratch / f"tree.{name}"
        tree.mkdir()
        for number in range(PAIRS):
            path = tree / f"f{number:02}"
            path.write_text(f"{name}{number:02}\n")
            os.utime(path, (1_700_000_000, 1_700_000_000))
            os.link(path, tree / f"g{number:02}")
        ok("create-overlay", "-q", "--from", f"{tree}:/t/{name}", "-o", name)
    return [f"{name}.ext3" for name in NAMES]


@pytest.fixture
def stack(run, ok, three, make, request):
    """Return the layers of a stack, as they are named after -o."""
    if request.param == "packed":
        for name in three:
            ok("pack-overlay", name)
        return [f"{name}.sqsh:ro" for name in NAMES]
    if request.param == "packed below a new one":
        for name in three:
            ok("pack-overlay", name)
        make("new.ext3")
        return ["new.ext3", *(f"{name}.sqsh" for name in NAMES)]
    if request.param == "packed below":
        ok("pack-overlay", three[1])
        return [three[0], "b.sqsh", three[2]]
    if request.param == "writable":
        return three
    if request.param == "read-only":
        return [f"{three[0]}:ro", *three[1:]]
    make("top.ext3")
    in_overlay(run, "top.ext3", *three, line="mkdir /t/d; rm -r /t/d; rm /t/b/f00 /t/b/g00")
    return ["top.ext3:ro", *three]


KINDS = pytest.mark.parametrize(
    "stack",
    [
        "read-only",
        "read-only, with deletions",
        "writable",
        "packed",
        "packed below",
        "packed below a new one",
    ],
    indirect=True,
)


@KINDS
def test_copies_are_the_same(run, scratch, environ, stack):
    """What cp -a, tar, mv and cp of one file to another make of hard links is what there was."""
    environ["TARGET"] = str(scratch)
    line = f"""
        content() {{ (cd "$1" && {CONTENT}) >"$TARGET/$2.content"; }}
        content /t original
        cp -a /t "$TARGET/cp" && content "$TARGET/cp" cp
        mkdir "$TARGET/tar" && tar -C /t -cf - . | tar -C "$TARGET/tar" -xf -
        content "$TARGET/tar" tar
        for name in b c; do test ! /t/a/f01 -ef /t/$name/f01 || echo one file; done
        cd /t && {LINKS}
    """
    listed = in_overlay(run, *stack, line=line).splitlines()
    original = (scratch / "original.content").read_text()
    files = len(original.splitlines())
    assert files == 2 * PAIRS * len(NAMES) - (2 if stack[0] == "top.ext3:ro" else 0)
    assert (scratch / "cp.content").read_text() == original
    assert (scratch / "tar.content").read_text() == original
    # Each file has a number of its own, its two names share it.
    numbers = [line.split()[0] for line in listed]
    assert len(numbers) == files
    assert len(set(numbers)) == files // 2


def test_moved(run, scratch, environ, three):
    """A tree that is moved out of a writable stack, or about in it, is the same afterwards."""
    environ["TARGET"] = str(scratch)
    line = f"""
        (cd /t && {CONTENT}) >"$TARGET/original"
        mv /t /u && (cd /u && {CONTENT}) >"$TARGET/moved" && test ! -e /t
        mv /u "$TARGET/out" && test ! -e /u
        cd "$TARGET/out" && {CONTENT} >"$TARGET/out.content"
    """
    in_overlay(run, *three, line=line)
    original = (scratch / "original").read_text()
    assert len(original.splitlines()) == 2 * PAIRS * len(NAMES)
    assert (scratch / "moved").read_text() == original
    assert (scratch / "out.content").read_text() == original
    in_overlay(run, f"{three[0]}:ro", *three[1:], line="test ! -e /t && test ! -e /u")


def test_new_beside_old(run, three):
    """A file that is new in the first overlay is none of those below."""
    line = "cd /t && for i in 1 2 3 4 5 6 7 8; do echo new$i >new$i; ln new$i also$i; done"
    in_overlay(run, *three, line=line)
    line = r"cd /t && find . -type f -printf '%D.%i\n' | sort -u | wc -l"
    line += "; cat new1 also1 b/f00 c/g00"
    for layers in (three, [f"{three[0]}:ro", *three[1:]]):
        assert in_overlay(run, *layers, line=line).split() == [
            str(PAIRS * len(NAMES) + 8),
            "new1",
            "new1",
            "b00",
            "c00",
        ]


def test_without_the_descriptor(environ, scratch, words, three):
    """Where our launcher cannot be told of the stack, it does without, which is said."""
    line = f"{words('run-overlay')[0]} -o a.ext3 -o b.ext3 -- cat /t/a/f00 /t/b/f00"
    result = shell(f"{line} {stacks.DESCRIPTOR}</dev/null", environ, scratch)
    assert (result.status, result.stdout) == (0, "a00\nb00\n")
    assert result.stderr.startswith(
        "run-overlay: cp -a, tar and mv can take files of two of these overlays"
    )
    assert shell(line, environ, scratch) == (0, "a00\nb00\n", "")


def test_where_users_may_not_mount(scratch):
    """A launcher that may not mount becomes fuse-overlayfs all the same, and leaves word."""
    for name in ("lower", "upper", "work", "target"):
        (scratch / name).mkdir()
    (scratch / "lower" / "f").write_text("below\n")
    launcher = ROOT / "lib" / "overlay" / "helpers" / "stack" / "fuse-overlayfs"
    options = ",".join(f"{name}dir={scratch / name}" for name in ("lower", "upper", "work"))
    told = scratch / "told"
    told.write_bytes(bytes(10240))  # an archive of nothing
    script = f'exec {stacks.DESCRIPTOR}<"$1" && shift && exec "$@"'
    words = ["bash", "-c", script, "bash", told, launcher, "-f", "-o", options, scratch / "target"]
    with subprocess.Popen(list(map(str, words))) as server:
        try:
            wait_until((scratch / "target" / "f").exists)
            assert told.read_text() == "alone\n"
        finally:
            subprocess.run(["fusermount3", "-u", scratch / "target"], check=True)
            server.wait()


def test_dry_run(run, environ, scratch, three):
    """The line that is printed works, too, if only as fuse-overlayfs alone does."""
    for mode in ("", ":ro"):
        in_overlay(run, *three, line="rm -f /t/b/f01 /t/b/g01")
        words = ["-o", f"a.ext3{mode}", "-o", "b.ext3", "--dry-run", "--", "ls", "/t/b"]
        printed = run("run-overlay", *words).stdout
        assert f"descriptor {stacks.DESCRIPTOR}" in printed
        listed = shell(printed, environ, scratch).stdout.split()
        assert len(listed) == 2 * PAIRS - 2 and "f01" not in listed


# ------------------------------------------------------- written through one name --

# What is done to a file with three names, all looked up before; and by which it is seen then.
WRITES = {
    "append": ("echo more >>d/b", "a d/b d/e/c"),
    "overwrite": ("echo x >a", "a d/b d/e/c"),
    "mode": ("chmod 600 d/b", "a d/b d/e/c"),
    "time": ("touch -d 2001-02-03 d/e/c", "a d/b d/e/c"),
    "empty": (": >d/b", "a d/b d/e/c"),
    "rename": ("mv d/b d/z; echo more >>d/z", "a d/z d/e/c"),
    "rename two": ("mv d/b d/z; mv a y", "y d/z d/e/c"),
    "link": ("ln a d/y; echo more >>d/y", "a d/b d/e/c d/y"),
    "delete": ("rm a; echo more >>d/b", "d/b d/e/c"),
    "directory moved": ("cp -a d f; rm -r d; echo more >>a", "a"),
    "in a new name": ("echo new >n; mv n a", "d/b d/e/c"),
}
SHOW = r"""stat -c '%a %s' $names; sha256sum $names; ls -AR
for name in $names; do stat -c %D.%i $name; done | sort -u | wc -l"""


def shown():
    """Return the line that shows what has become of all of WRITES."""
    return "; ".join(
        f"cd '/data/{name}' && names='{names}' && {SHOW}" for name, (_line, names) in WRITES.items()
    )


def test_written_by_one_name(run, make):
    """What is written by one name of a lower file shows under all, then and in later sessions."""
    low, top = make("low.ext3"), make("top.ext3")
    made = [
        f"mkdir -p '/data/{name}/d/e' && cd '/data/{name}' && echo old content >a && touch -d 2000-01-01 a"
        " && ln a d/b && ln a d/e/c"
        for name in WRITES
    ]
    in_overlay(run, "low.ext3", line="; ".join(made))
    lines = [
        f"cd '/data/{name}' && cat a d/b d/e/c >/dev/null && {{ {line}; }}"
        for name, (line, _names) in WRITES.items()
    ]
    inside = in_overlay(run, "top.ext3", "low.ext3", line="; ".join([*lines, shown()]))
    for layers in (["top.ext3:ro", "low.ext3"], ["top.ext3", "low.ext3"]):
        assert in_overlay(run, *layers, line=shown()) == inside
    assert (state(top), state(low)) == (CLEAN, CLEAN)
    assert in_overlay(run, "low.ext3:ro", line="cat /data/*/a | sort -u") == "old content\n"


def test_written_by_one_name_in_the_middle(run, make):
    """Names that an overlay between hides or has anew are left alone."""
    for name in ("low.ext3", "middle.ext3", "top.ext3"):
        make(name)
    line = "mkdir -p /data/d; cd /data; echo old >a; ln a d/b; ln a d/c; ln a d/e; ln a f"
    in_overlay(run, "low.ext3", line=line)
    line = "cd /data; rm d/b; rm d/c; echo middle >d/c; rm f; mkdir f"
    in_overlay(run, "middle.ext3", "low.ext3", line=line)
    layers = ["middle.ext3", "low.ext3"]
    times = "stat -c '%a %Y' /data/d"
    before = in_overlay(run, "middle.ext3:ro", "low.ext3", line=times)
    in_overlay(run, "top.ext3", *layers, line="echo more >>/data/a")
    assert in_overlay(run, "top.ext3:ro", *layers, line=times) == before
    line = "cd /data; ls; ls d; cat a d/c d/e"
    expected = "a d f c e old more middle old more".split()
    for top in ("top.ext3:ro", "top.ext3"):
        assert in_overlay(run, top, *layers, line=line).split() == expected


def test_names_that_cannot_be_made(run, scratch, make):
    """Where the other names cannot be had, they are named, and the status is 74."""
    path = make("low.ext3")
    make("top.ext3")
    in_overlay(run, "low.ext3", line="mkdir -p /data/d; cd /data; echo old >a; ln a d/b")
    debugfs(path, "sif /upper/data/d uid 0")
    words = ["run-overlay", "-o", "top.ext3", "-o", "low.ext3", "--", "sh", "-c"]
    result = run(*words, "echo more >>/data/a")
    assert (result.status, result.stdout) == (74, "")
    assert result.stderr == (
        "run-overlay: top.ext3: files of a lower overlay with several names were written, and"
        " under these they show what they were before: /data/d/b\n"
    )
    assert run(*words, "cat /data/a; cat /data/d/b").stdout == "old\nmore\nold\n"
