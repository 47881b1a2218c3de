"""Overlays that are packed from the start: create-overlay --from SOURCE -o NAME.sqsh."""

import json
import os
import re
import stat
import tarfile

import pytest
from support import tool

LOOK = "cd /data; find . -printf '%P %y %m %s %n %l\\n' | sort; cat two; sha256sum large"


@pytest.fixture
def tree(scratch):
    """Make a directory with what directories hold."""
    top = scratch / "tree"
    (top / "closed").mkdir(parents=True)
    (top / "closed" / "within").write_text("within")
    (top / "one").write_text("content")
    os.link(top / "one", top / "two")
    (top / "link").symlink_to("../away")
    (top / "large").write_bytes(os.urandom(3_000_000))
    (top / "run").touch(0o755)
    os.setxattr(top / "one", "user.note", b"note")
    return top


@pytest.mark.parametrize("kind", ["directory", "archive", "both"])
def test_content(ok, run, scratch, tree, kind):
    """What is in it is what an ext3 overlay of the same sources holds; a step less, and no size."""
    with tarfile.open(scratch / "t.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(tree, ".")
    (tree / "closed").chmod(0)
    sources = {
        "directory": ["--from", "tree:/data"],
        "archive": ["--from", "t.tar:/data"],
        "both": ["--from", "t.tar:/data", "--from", "tree:/opt/tree"],
    }[kind]
    old = os.umask(0o022)
    result = run("create-overlay", *sources, "-o", "a.sqsh")
    os.umask(old)
    ok("create-overlay", "-q", *sources, "-o", "b")
    (tree / "closed").chmod(0o700)  # so that pytest can remove it
    assert result.status == 0, result
    first, second, *rest = result.stdout.splitlines()
    assert first == f"created {str(scratch / 'a.sqsh')!r}"
    assert re.fullmatch(r"  size   (2\.\d|3) MiB, packed, only to be read", second)
    assert (rest[-1], "  room " in result.stdout) == ("next: mount-overlay -o a.sqsh", False)
    assert stat.S_IMODE((scratch / "a.sqsh").stat().st_mode) == 0o644
    lines = [
        ok("run-overlay", "-o", f"{name}:ro", "--", "sh", "-c", LOOK + " 2>/dev/null")
        for name in ("a.sqsh", "b.ext3")
    ]
    views = [[one for one in text.splitlines() if " d " not in one] for text in lines]
    assert views[0] == views[1] and len(views[0]) > 4
    assert "one f 644 7 2 " in views[0]
    assert tool("unsquashfs", "-d", scratch / "out", scratch / "a.sqsh").returncode == 0
    if kind == "directory":
        assert os.getxattr(scratch / "out" / "data" / "one", "user.note") == b"note"
    mode = stat.S_IMODE((scratch / "out" / "data" / "closed").stat().st_mode)
    assert mode == (0 if kind == "directory" else 0o755)
    for closed in (scratch / "out").rglob("closed"):
        closed.chmod(0o700)
    if kind == "both":
        assert ok("run-overlay", "-o", "a.sqsh", "--", "cat", "/opt/tree/one") == "content"
    assert sorted(os.listdir(scratch)) == ["a.sqsh", "b.ext3", "out", "t.tar", "tree"]


def test_deletions(ok, scratch):
    """Deletions in a source delete, as in other overlays."""
    (scratch / "t" / "usr" / "share").mkdir(parents=True)
    (scratch / "t" / "usr" / "share" / ".wh.base-files").touch()
    ok("create-overlay", "-q", "--from", "t:/", "-o", "a.sqsh")
    seen = ok("run-overlay", "-o", "a.sqsh", "--", "ls", "-A", "/usr/share").split()
    assert ("base-files" in seen, ".wh.base-files" in seen, "doc" in seen) == (False, False, True)


def test_build(ok, run, scratch):
    """What commands make is packed, its environment is ready, and the recipe is in it."""
    (scratch / "f").write_text("python3 -m venv --without-pip /opt/env\necho made > /opt/made\n")
    result = run("create-overlay", "-q", "-f", "f", "-o", "env.sqsh", "--json")
    assert result.status == 0, result
    told = json.loads(result.stdout)
    size = (scratch / "env.sqsh").stat().st_size
    assert (told["size"], told["data_available"], told["files_available"]) == (size, 0, 0)
    line = "command -v python3; cat /opt/made"
    assert (
        ok("run-overlay", "-o", "env.sqsh", "--", "sh", "-c", line)
        == "/opt/env/bin/python3\nmade\n"
    )
    assert "echo made > /opt/made" in ok("show-overlay", "env.sqsh", "--recipe")
    assert (
        ok("check-overlay", "--deep", "env.sqsh")
        == "env.sqsh: sound: all of it was read, and is what was packed\n"
    )
    ok("update-overlay", "-q", "env.sqsh", "--", "touch", "/opt/more")
    assert ok("run-overlay", "-o", "env.sqsh", "--", "ls", "/opt") == "env\nmade\nmore\n"


def test_in_its_place(run, ok, scratch, tree):
    """Nothing is replaced without --force; what replaces one has its mode; nobody uses it then."""
    ok("create-overlay", "-q", "--from", "tree:/data", "-o", "a.sqsh")
    (scratch / "a.sqsh").chmod(0o640)
    before = (scratch / "a.sqsh").read_bytes()
    (tree / "new").touch()
    result = run("create-overlay", "-q", "--from", "tree:/data", "-o", "a.sqsh")
    assert (result.status, "a.sqsh' exists already" in result.stderr) == (73, True)
    assert (scratch / "a.sqsh").read_bytes() == before
    ok("create-overlay", "-q", "--force", "--from", "tree:/data", "-o", "a.sqsh")
    assert ok("run-overlay", "-o", "a.sqsh", "--", "ls", "/data/new") == "/data/new\n"
    assert stat.S_IMODE((scratch / "a.sqsh").stat().st_mode) == 0o640


def test_many_in_one_directory(run, ok, scratch):
    """A directory of very many files needs no warning, and is packed at once."""
    (scratch / "many").mkdir()
    for number in range(20_100):
        os.mknod(scratch / "many" / str(number))
    result = run("create-overlay", "--from", "many:/data", "-o", "a.sqsh")
    assert (result.status, result.stderr) == (0, ""), result
    line = "ls /data | wc -l"
    assert ok("run-overlay", "-o", "a.sqsh", "--", "sh", "-c", line) == "20100\n"


@pytest.mark.parametrize(
    ("line", "what", "hint"),
    [
        (
            "-o a.sqsh",
            "would be packed, and nobody could put anything in",
            "one that is written: -o a; ",
        ),
        (
            "-o a.sfs --from tree -s 10",
            "-s is not for it",
            "leave it out; or one that can be written: -o a",
        ),
        ("-o a.sqfs --from tree -n 10", "-n is not for it", "leave it out"),
        ("-o a.squashfs --from tree --reserve", "--reserve is not for it", "leave it out"),
        ("-o a.sqsh --from tree --sparse", "--sparse is not for it", "leave it out"),
        ("-o a.sqsh --from nothing", "cannot read nothing: No such file or directory", ""),
    ],
)
@pytest.mark.usefixtures("tree")
def test_refused(run, scratch, line, what, hint):
    """What no packed overlay can be is refused, before anything is done."""
    result = run("create-overlay", *line.split())
    assert (result.status, what in result.stderr) == (
        66 if "nothing" in line.split() else 2,
        True,
    ), result
    assert f"create-overlay: hint: {hint}" in result.stderr or not hint
    assert os.listdir(scratch) == ["tree"]


def test_what_cannot_be_read(run, scratch, tree, colleague):
    """Where mksquashfs cannot read all of it, nothing is left and the file is named."""
    (tree / "theirs").symlink_to(colleague)
    os.symlink(colleague, scratch / "there")
    result = run("create-overlay", "-q", "--from", f"{colleague}:/data", "-o", "a.sqsh")
    assert result.status == 73, result
    assert "0600.ext3" in result.stderr
    assert sorted(os.listdir(scratch)) == ["there", "tree"]
