"""check-overlay, and what stays of a file whose content is replaced."""

import os
import re
import shlex
import shutil
import signal
import subprocess

import pytest
from e2e.safety.trees import CLEAN, debugfs, e2fsck, holders, state
from overlay.image import ext3, ext3_write
from overlay.safety import repair, undo
from support import digests, shell, tool, wait_until


@pytest.fixture
def damaged(run, make):
    """Return a function that makes an overlay in which a directory has lost its inode."""

    def damaged(name="a.ext3", size=16):
        path = make(name, size, 1)
        line = "mkdir -p /data/lost; echo one >/data/lost/1; echo two >/data/lost/2; echo >/data/f"
        assert run("run-overlay", "-o", name, "--", "sh", "-c", line).status == 0
        debugfs(path, "clri /upper/data/lost")
        assert e2fsck(path)[0] == 4
        return path

    return damaged


def test_clean(run, make, scratch):
    """A clean overlay is said to be clean; what cannot be unclean is said to be such."""
    path = make()
    before = path.read_bytes()
    assert run("check-overlay", "a.ext3") == (0, "a.ext3: clean\n", "")
    assert run("check-overlay", "--repair", "a.ext3") == (0, "a.ext3: clean\n", "")
    assert run("check-overlay", "--recover", "a.ext3") == (0, "a.ext3: clean\n", "")
    assert len(path.read_bytes()) == len(before)
    (scratch / "d").mkdir()
    result = run("check-overlay", "d")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith("d: a directory: ")


def test_repaired(run, make):
    """What needs no decision is repaired, said in a line, with 0."""
    path = make()
    debugfs(path, "ssv free_blocks_count 77", "ssv state 0")
    result = run("check-overlay", "a.ext3")
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith("a.ext3: repaired")
    assert result.stdout.count("\n") == 1
    assert state(path) == CLEAN
    assert run("check-overlay", "a.ext3") == (0, "a.ext3: clean\n", "")


def test_damaged(run, damaged):
    """What needs a decision is left for --repair, with 65."""
    path = damaged()
    assert run("check-overlay", "a.ext3") == (
        65,
        "",
        "check-overlay: error: a.ext3 is damaged, and repairing it needs a decision of yours\n"
        "check-overlay: hint: check-overlay --repair a.ext3\n",
    )
    assert e2fsck(path)[0] != 0


def test_several(run, make, damaged):
    """Several overlays are all checked; the status is that of the first that is not sound."""
    make("b.ext3")
    damaged("c.ext3")
    result = run("check-overlay", "b.ext3", "c.ext3", "nosuch.ext3", "b.ext3")
    assert result.status == 65
    assert result.stdout == "b.ext3: clean\nb.ext3: clean\n"
    errors = [line for line in result.stderr.splitlines() if " error: " in line]
    assert [("c.ext3" in line, "nosuch.ext3" in line) for line in errors] == [
        (True, False),
        (False, True),
    ]


def test_repair(run, scratch, damaged):
    """--repair mends a copy, lists what lost its name, and says how to get it back."""
    path = damaged()
    result = run("check-overlay", "--repair", "a.ext3")
    assert (result.status, result.stderr) == (0, "")
    first, *names = result.stdout.splitlines()
    command = "/sbin/debugfs -R 'rdump /lost+found .' a.ext3"
    path_named = command.replace("a.ext3", f"'{path}'")
    assert first in (
        f"a.ext3: repaired; these files lost their names (to get them: {command})",
        f"a.ext3: repaired; these files lost their names (to get them: {path_named})",
    )
    assert len(names) == 4 and all(name.startswith("  lost+found/'#") for name in names[:2])
    assert names[2:] == ["these names are gone:", "  data/lost"]
    assert state(path) == CLEAN
    assert os.listdir(scratch) == ["a.ext3"]
    line = first.partition("to get them: ")[2].removesuffix(")")
    environ = {"PATH": "/usr/sbin:/usr/bin:/bin"}
    (scratch / "saved").mkdir()
    line = line.replace(" a.ext3", " ../a.ext3")
    subprocess.run(line, shell=True, cwd=scratch / "saved", env=environ, check=True)
    saved = [file.read_text() for file in sorted((scratch / "saved").rglob("#*")) if file.is_file()]
    assert sorted(saved) == ["one\n", "two\n"]
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "ls", "/data") == (0, "f\n", "")


def started(text):
    """Return the programs of lines for a shell, each with its options."""
    lines = [shlex.split(line.removeprefix("+ "), comments=True) for line in text.splitlines()]
    return [
        [os.path.basename(words[0]), *(word for word in words[1:] if word.startswith("-"))]
        for words in lines
        if words
    ]


def test_dry_run_of_a_repair(run, ok, environ, scratch, damaged):
    """--dry-run changes nothing; the lines are those that --repair does, and repair when pasted."""
    path = damaged()
    before = path.read_bytes()
    printed = ok("check-overlay", "--repair", "--dry-run", "a.ext3")
    assert path.read_bytes() == before
    assert os.listdir(scratch) == ["a.ext3"]
    shutil.copy(path, scratch / "b.ext3")
    shell(printed, environ, scratch)
    assert e2fsck(path)[0] == 0
    assert sorted(os.listdir(scratch)) == ["a.ext3", "b.ext3"]
    result = run("check-overlay", "--repair", "-v", "b.ext3")
    assert result.status == 0
    lines = result.stderr.splitlines()
    real = iter(started("\n".join(line for line in lines if line.startswith("+ "))))
    planned = [words for words in started(printed) if words[0] not in ("mv", "rm")]
    assert ["e2fsck", "-fy"] in planned
    assert all(words in real for words in planned), (planned, lines)


@pytest.mark.parametrize(
    ("options", "said"),
    [([], "e2fsck -fn "), (["--own"], "# all inside becomes yours"), (["--recover"], "# what a ")],
)
def test_dry_run(ok, make, options, said):
    """What a check would do is shown, and not done."""
    path = make()
    debugfs(path, "ssv free_blocks_count 77", "ssv state 0")
    before = path.read_bytes()
    assert said in ok("check-overlay", *options, "--dry-run", "a.ext3")
    assert path.read_bytes() == before
    assert "b.ext3" in ok("check-overlay", "--repair", "--dry-run", "a.ext3", str(make("b.ext3")))


def test_dry_run_of_a_packed_one(ok, make, scratch, environ):
    """The lines for a packed overlay, pasted, read it."""
    make()
    ok("pack-overlay", "a.ext3", "-o", "a.sqsh")
    printed = ok("check-overlay", "--deep", "--dry-run", "a.sqsh")
    assert shell(printed, environ, scratch).status == 0
    assert "unsquashfs -ll" in printed and "squashfuse" in printed


def test_repair_keeps_sparse(run, damaged):
    """A sparse overlay stays sparse."""
    path = damaged(size=400)
    before = path.stat().st_blocks
    assert run("check-overlay", "--repair", "a.ext3").status == 0
    assert path.stat().st_blocks < 2 * before + 2048


# --------------------------------------------------------------------- refusals --


@pytest.mark.parametrize("option", [None, "--repair", "--recover"])
@pytest.mark.parametrize("mode", ["", ":ro"])
def test_in_use(run, hold, make, mode, option):
    """While a session uses it, nothing is done, and the error says who that is."""
    path = make()
    session = hold(f"a.ext3{mode}")
    before = path.stat().st_ino
    result = run("check-overlay", *([option] if option else []), "a.ext3")
    assert (result.status, result.stdout) == (75, "")
    assert result.stderr.startswith("check-overlay: error: a.ext3 is in use: ")
    assert "on this host, since" in result.stderr
    assert path.stat().st_ino == before
    assert session.end() == (0, "")


def test_in_use_by_a_reader_says_so(run, hold, make):
    """--recover does not call readers writers."""
    make()
    session = hold("a.ext3:ro")
    result = run("check-overlay", "--recover", "a.ext3")
    assert "a.ext3 is in use: sessions are reading it" in result.stderr
    assert session.end() == (0, "")


@pytest.mark.parametrize("option", [None, "--repair"])
def test_not_ours_to_write(run, make, damaged, option):
    """An overlay that may only be read is looked at, and never changed."""
    options = [option] if option else []
    path = make("b.ext3")
    path.chmod(0o444)
    result = run("check-overlay", *options, "b.ext3")
    assert (result.status, result.stdout) == (0, "b.ext3: clean\n")
    path = damaged()
    path.chmod(0o444)
    before = digests(path.parent)
    result = run("check-overlay", *options, "a.ext3")
    assert (result.status, result.stdout) == (65, "")
    assert result.stderr == (
        "check-overlay: error: a.ext3 is damaged, and it is not yours to repair\n"
        "check-overlay: hint: ask its owner to type: check-overlay a.ext3\n"
    )
    assert digests(path.parent) == before
    path.chmod(0)
    result = run("check-overlay", *options, "a.ext3")
    assert (result.status, result.stdout) == (66, "")


# -------------------------------------------------- what stays of a replaced file --


@pytest.fixture
def dressed():
    """Return a function that gives a file a mode, an ACL and an xattr, and one that reads them."""

    def dress(path):
        path.chmod(0o640)
        subprocess.run(["setfacl", "-m", "u:daemon:r", path], check=True)
        os.setxattr(path, "user.note", b"mine")
        return look(path)

    def look(path):
        acl = tool("getfacl", "--omit-header", "--absolute-names", path).stdout
        return path.stat().st_mode, os.getxattr(path, "user.note"), acl

    return dress, look


@pytest.mark.parametrize("how", ["--repair", "--force"])
@pytest.mark.parametrize("linked", [False, True])
def test_attributes_stay(run, scratch, damaged, dressed, how, linked):
    """Mode, ACL and xattrs stay, and a symlink stays one, to the same place."""
    path = damaged()
    dress, look = dressed
    name = "a.ext3"
    if linked:
        (scratch / "real place").mkdir()
        path = path.rename(scratch / "real place" / "b.ext3")
        (scratch / name).symlink_to("real place/b.ext3")
    before = dress(path)
    assert "user:daemon:r" in before[2]
    inode = path.stat().st_ino
    if how == "--repair":
        result = run("check-overlay", "--repair", name)
    else:
        result = run("create-overlay", "-q", "-s", "16", "-n", "1", "--force", "-o", name)
    assert result.status == 0, result
    assert path.stat().st_ino != inode
    assert look(path) == before
    assert (scratch / name).is_symlink() == linked
    assert state(path) == CLEAN


REPLACE = ["create-overlay", "-q", "-s", "16", "-n", "1", "--force", "-o", "a.ext3"]


def test_force_refuses_what_is_being_written(run, start, hold, make):
    """create-overlay --force leaves an overlay that is written as it is, or waits for its end."""
    path = make()
    session = hold()
    inode = path.stat().st_ino
    result = run(*REPLACE)
    assert (result.status, result.stdout) == (75, "")
    assert re.match(r"create-overlay: error: .*a\.ext3'? is in use", result.stderr), result
    assert "wait for its end: --wait\n" in result.stderr
    assert run(*REPLACE, "--wait", "0.2").status == 75
    assert path.stat().st_ino == inode
    waiting = start(*(word for word in REPLACE if word != "-q"), "--wait")
    waiting.complains("waiting for")
    assert path.stat().st_ino == inode
    assert session.end() == (0, "")
    assert waiting.end()[0] == 0
    assert path.stat().st_ino != inode


def test_force_harms_no_reader(run, start, make, scratch):
    """Sessions that read what is replaced go on with it; nobody writes it meanwhile."""
    path = make()
    result = run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "mkdir /d; echo old >/d/f")
    assert result.status == 0, result
    read = ["run-overlay", "-o", "a.ext3:ro", "--", "sh", "-c", "echo inside; read _; cat /d/f"]
    before = start(*read)
    before.says("inside")
    os.mkfifo(scratch / "go")
    (scratch / "build.txt").write_text("mkdir /d; echo new >/d/f; echo built; read _ <go\n")
    build = start("create-overlay", "-f", "build.txt", "--force", "-o", "a.ext3")
    build.complains("built")
    during = start(*read)
    during.says("inside")
    result = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert (result.status, "sessions are reading it" in result.stderr) == (75, True), result
    inode = path.stat().st_ino
    (scratch / "go").write_text("\n")
    assert build.end()[0] == 0
    assert path.stat().st_ino != inode
    for session in (before, during):
        assert session.communicate("\n", timeout=60) == ("old\n", "")
        assert session.returncode == 0
    result = run("run-overlay", "-o", "a.ext3:ro", "--", "cat", "/d/f")
    assert (result.status, result.stdout) == (0, "new\n"), result


ONLY = "; --force replaces overlays only"


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        ("text", 65, f"is not an overlay{ONLY}"),
        ("directory", 73, "cannot be replaced: it is a directory"),
        ("sif", 65, f"is a container image (SIF), not an overlay{ONLY}"),
        ("ext4", 65, f"is an ext4 image, and the engines take ext3 only{ONLY}"),
    ],
)
def test_force_refuses_what_is_no_overlay(run, scratch, kind, status, said):
    """create-overlay --force replaces overlays only."""
    path = scratch / "a.ext3"
    if kind == "directory":
        path.mkdir()
        (path / "kept").touch()
    elif kind == "ext4":
        path.write_bytes(b"")
        os.truncate(path, 16 << 20)
        assert tool("mke2fs", "-q", "-t", "ext4", path).returncode == 0
    else:
        path.write_bytes(b"\0" * 32 + b"SIF_MAGIC" if kind == "sif" else b"a thesis\n")
    before = digests(scratch)
    result = run("create-overlay", "-s", "16", "-n", "1", "--force", "-o", "a.ext3")
    line = f"create-overlay: error: '{path}' {said}\n"
    assert (result.status, result.stdout) == (status, "")
    assert result.stderr.startswith(line), result
    assert digests(scratch) == before


@pytest.mark.parametrize("name", ["ok?.ext3", "-p.ext3", "d?r/ok.ext3"])
def test_names_that_tools_would_misread(ok, scratch, make, name):
    """e2fsprogs takes what follows a ? for options, and a dash for one: not here."""
    make()
    (scratch / "d?r").mkdir()
    (scratch / "a.ext3").rename(scratch / name)
    path = f"./{name}" if name.startswith("-") else name
    assert ok("check-overlay", path).endswith(": clean\n")
    set_state(scratch / name, 0)
    line = ("--", "sh", "-c", "mkdir /data; echo x >/data/f")
    ok("run-overlay", "-o", path, *line)
    ok("resize-overlay", "-q", path, "-s", "100")
    ok("resize-overlay", "-q", path, "-s", "70")
    ok("resize-overlay", "-q", path, "-n", "1")
    assert ok("run-overlay", "-o", f"{path}:ro", "--", "cat", "/data/f") == "x\n"
    assert state((scratch / name).rename(scratch / "a.ext3")) == CLEAN


@pytest.mark.parametrize("between", [False, True])
def test_killed_growth(ok, scratch, make, between):
    """A growth that was killed at its end is undone before anything is reckoned from it.

    Between two counts of the superblock, too, which then contradicts itself.
    """
    path = make()
    for line in (
        ["check-overlay", "a.ext3"],
        ["check-overlay", "--repair", "a.ext3"],
        ["run-overlay", "-o", "a.ext3", "--", "true"],
        ["resize-overlay", "a.ext3", "-s", "200"],
    ):
        counts = path.read_bytes()[1024:1032]
        with open(path, "r+b") as file:
            found = ext3.read_superblock(file.fileno())
            back = undo.name(str(path), os.stat(path), found)
            ext3_write.write_state(file.fileno(), 0)
            os.truncate(path, 200 << 20)
            undo.note(back, file.fileno(), found, 200 << 20)
        assert tool("resize2fs", "-f", path).returncode == 0
        set_state(path, 0)
        if between:
            with open(path, "r+b") as file:
                file.seek(1024)
                file.write(counts)
            with open(path, "rb") as file, pytest.raises(ext3.FormatError):
                ext3.read_superblock(file.fileno())
        ok(*line)
        assert not os.path.exists(back)
        assert state(path) == CLEAN
    assert os.stat(path).st_size == 200 << 20


def test_the_locked_file_and_not_its_name(scratch, make):
    """What is repaired is the file that is locked, whatever its name leads to meanwhile."""
    path, other = make(), make("b.ext3")
    set_state(path, 0)
    set_state(other, 0)
    descriptor = os.open(path, os.O_RDWR)
    os.rename(other, path)
    repair.make_sound(str(path), descriptor, {"PATH": "/usr/bin:/bin"})
    assert ext3.read_superblock(descriptor).is_clean
    os.close(descriptor)
    with open(path, "rb") as file:
        assert not ext3.read_superblock(file.fileno()).is_clean


@pytest.mark.parametrize(
    "line",
    [
        ["check-overlay", "--repair", "a.ext3"],
        ["resize-overlay", "a.ext3", "-s", "50"],
        ["resize-overlay", "a.ext3", "-n", "8"],
        ["create-overlay", "-s", "16", "-n", "1", "-o", "a", "--force"],
    ],
)
def test_hard_links(run, scratch, make, line):
    """What would be replaced under one of two names only is refused, and named."""
    os.link(make(), scratch / "b.ext3")
    before = digests(scratch)
    result = run(*line)
    assert (result.status, "1 other name (hard links)" in result.stderr) == (73, True), result
    assert digests(scratch) == before


def set_state(path, value):
    """Mark an image as not clean, or clean."""
    with open(path, "r+b") as file:
        ext3_write.write_state(file.fileno(), value)


def test_ended(start, make, environ, scratch):
    """TERM while e2fsck is at work: nothing is left running, nobody holds the overlay."""
    path = make()
    slow = scratch / "slow" / "e2fsck"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\necho $$ >slow/pid\nexec sleep 60\n")
    slow.chmod(0o755)
    environ["PATH"] = f"{slow.parent}:{environ['PATH']}"
    session = start("check-overlay", "a.ext3")
    pid = scratch / "slow" / "pid"
    wait_until(lambda: pid.exists() and pid.read_text())
    session.terminate()
    assert session.end()[0] == -signal.SIGTERM
    assert not os.path.exists(f"/proc/{int(pid.read_text())}")
    assert not holders(path)


def test_e2fsck_killed(run, make, environ, scratch):
    """An e2fsck that was killed says nothing of the overlay."""
    make()
    (scratch / "ended").mkdir()
    (scratch / "ended" / "e2fsck").write_text("#!/bin/sh\nkill -KILL $$\n")
    (scratch / "ended" / "e2fsck").chmod(0o755)
    environ["PATH"] = f"{scratch}/ended:{environ['PATH']}"
    result = run("check-overlay", "a.ext3")
    assert result.status == 69
    assert (
        "error: a.ext3 could not be checked: e2fsck was ended before it was done" in result.stderr
    )


def test_lost_superblock(run, make):
    """Without its first superblock an overlay is no empty file; the hint brings it back."""
    path = make("a.ext3", 200, 1)
    with open(path, "r+b") as file:
        file.seek(1024)
        file.write(bytes(1024))
    result = run("run-overlay", "-o", "a.ext3", "--", "true")
    assert result.status == 65 and "its first superblock is lost" in result.stderr
    words = result.stderr.partition("put away: ")[2].split()
    assert (
        subprocess.run([*words[:-1], "-y", path], capture_output=True, check=False).returncode == 1
    )
    assert run("run-overlay", "-o", "a.ext3", "--", "true").status == 0


def test_half_an_unlink(run, make):
    """A file that a kill has left without its name is kept, and in nobody's way."""
    path = make()
    line = "mkdir /data; echo one >/data/one; echo two >/data/two"
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line).status == 0
    debugfs(path, "unlink /upper/data/one", "ssv state 0")
    assert e2fsck(path)[0] == 4
    result = run("run-overlay", "-o", "a.ext3", "--", "ls", "/data")
    assert (result.status, result.stdout) == (0, "two\n"), result
    assert "a.ext3: repaired (1 file without a name now in lost+found)\n" in result.stderr
    assert re.search(r" lost\+found/'#\d+': 4 bytes, begins with one\n", result.stderr), result
    assert state(path) == CLEAN
    found = tool("debugfs", "-R", "ls -p /lost+found", path).stdout
    number = re.search(r"/#(\d+)/", found)[1]
    assert tool("debugfs", "-R", f"cat <{number}>", path).stdout == "one\n"


@pytest.mark.parametrize(
    "line",
    [
        ["resize-overlay", "a.ext3", "-s", "+8"],
        ["resize-overlay", "a.ext3", "-s", "30"],
        ["resize-overlay", "a.ext3", "-n", "+1K"],
        ["pack-overlay", "a.ext3"],
        ["update-overlay", "a.ext3", "--", "true"],
        ["check-overlay", "--own", "a.ext3"],
    ],
    ids=" ".join,
)
def test_every_repair_tells(run, make, line):
    """What is repaired on the way to something else is told as well, and what is saved stays."""
    path = make()
    session = "mkdir /data; echo one >/data/one"
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", session).status == 0
    debugfs(path, "unlink /upper/data/one", "ssv state 0")
    result = run(*line)
    assert result.status == 0, result
    assert "a.ext3: repaired (1 file without a name now in lost+found)\n" in result.stderr, result
    name = re.search(r" lost\+found/'(#\d+)': 4 bytes, begins with one\n", result.stderr)[1]
    assert tool("debugfs", "-R", f"cat /lost+found/{name}", path).stdout == "one\n"
    assert state(path) == CLEAN


def overwritten(path, name, text, *lines):
    """Let the pointers of a file's first indirect block be text, as a kill can leave them."""
    size = ext3.BLOCK_SIZE
    found = tool("debugfs", "-R", f"stat {name}", path).stdout
    block = int(re.search(r"\(IND\):(\d+)", found)[1])
    with open(path, "r+b") as file:
        file.seek(block * size)
        file.write((text * size)[:size])
    debugfs(path, *lines)


@pytest.mark.parametrize("name", ["grown", "many"])
def test_repair_keeps_what_was_synced(run, make, name):
    """A file, or a directory, whose newest pointers were never written keeps what came before."""
    path = make("a.ext3", 64, 4)
    line = "mkdir -p /data/many; seq 9999 9 200000 >/data/grown; cd /data/many;"
    line += " for name in $(seq -f %0200g 300); do echo $name >$name; done"
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line).status == 0
    before = tool("debugfs", "-R", "cat /upper/data/grown", path).stdout
    overwritten(path, f"/upper/data/{name}", b"old content here", "ssv state 0")
    result = run("check-overlay", "a.ext3")
    assert (result.status, "needs a decision" in result.stderr) == (65, True)
    result = run("check-overlay", "--repair", "a.ext3")
    assert result.status == 0, result
    assert state(path) == CLEAN
    if name == "grown":
        after = tool("debugfs", "-R", "cat /upper/data/grown", path).stdout
        assert after[:49152] == before[:49152]
        assert result.stdout == (
            "a.ext3: repaired; look at these files, of which parts could not be read, or were"
            " those of others, too:\n  data/grown\n"
        )
    else:
        # Of the directory, twelve blocks have their names; the other files are in lost+found.
        listed = run("run-overlay", "-o", "a.ext3:ro", "--", "ls", "/data/many").stdout.split()
        unnamed = result.stdout.count("\n  lost+found/")
        assert listed == [f"{n:0200}" for n in range(1, len(listed) + 1)]
        assert 200 < len(listed) == 300 - unnamed


@pytest.mark.parametrize("program", ["check-overlay", "run-overlay"])
def test_names_that_led_to_nothing(run, make, program):
    """What a kill has left of a file that was being made, or removed, is told by its name."""
    path = make()
    line = "mkdir /data; cd /data; for name in one 't w o' three; do echo $name >\"$name\"; done"
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line).status == 0
    debugfs(path, "clri /upper/data/one", 'clri "/upper/data/t w o"', "ssv state 0")
    if program == "check-overlay":
        said = run(program, "a.ext3").stdout
    else:
        said = run(program, "-o", "a.ext3", "--", "true").stderr
    lines = [line.partition("a.ext3: ")[2] or line.strip() for line in said.splitlines()]
    at = lines.index("these names led to nothing any more, and are gone:")
    assert lines[at + 1 :] == ["data/one", "'data/t w o'"], said
    assert state(path) == CLEAN
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "ls", "/data").stdout == "three\n"


def test_repair_names_what_is_doubtful(run, make):
    """A file that has lost a piece in its midst is named."""
    path = make()
    line = "mkdir /data; seq 9999 99999 >/data/one; echo two >/data/two"
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line).status == 0
    debugfs(path, "set_inode_field /upper/data/one block[3] 99999999", "ssv state 0")
    assert run("run-overlay", "-o", "a.ext3", "--", "true").status == 65
    result = run("check-overlay", "--repair", "a.ext3")
    assert result.status == 0 and result.stdout.endswith(", too:\n  data/one\n"), result
    assert state(path) == CLEAN


def test_repair_names_what_is_gone(run, make):
    """A file that e2fsck clears is named, and the overlay as it was is kept."""
    path = make()
    line = "mkdir /data; echo one >/data/one; echo two >'/data/t w o'"
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line).status == 0
    debugfs(path, 'set_inode_field "/upper/data/t w o" mode 0170644', "ssv state 0")
    before = path.read_bytes()
    result = run("check-overlay", "--repair", "a.ext3")
    kept = path.with_name("a.ext3.before-repair")
    assert (result.status, result.stdout) == (
        0,
        f"a.ext3: repaired; these names are gone (as it was, it is kept: '{kept}'):\n"
        "  'data/t w o'\n",
    )
    assert kept.read_bytes() == before and path.stat().st_nlink == 1
    assert run("run-overlay", "-o", "a.ext3:ro", "--", "ls", "/data") == (0, "one\n", "")


def test_repair_without_upper(run, make):
    """What would have no upper afterwards is not taken; it is left as it is."""
    path = make()
    debugfs(path, "unlink /upper", "ssv state 0")
    before = path.read_bytes()
    result = run("check-overlay", "--repair", "a.ext3")
    assert (result.status, "its directory upper" in result.stderr) == (65, True), result
    assert path.read_bytes() == before and os.listdir(path.parent) == ["a.ext3"]


@pytest.mark.parametrize(
    "line", [["check-overlay"], ["check-overlay", "--repair"], ["run-overlay"]]
)
def test_made_ext4_by_a_repair(run, make, line):
    """An overlay to which e2fsck -y has given dir_nlink is an ext3 one again."""
    path = make()
    assert tool("debugfs", "-w", "-R", "feature dir_nlink", path).returncode == 0
    words = ["-o", "a.ext3", "--", "true"] if line == ["run-overlay"] else ["a.ext3"]
    result = run(*line, *words)
    assert result.status == 0, result
    assert "dir_nlink" not in tool("dumpe2fs", path).stdout
    assert state(path) == CLEAN and os.listdir(path.parent) == ["a.ext3"]


@pytest.mark.parametrize("found", [True, False])
@pytest.mark.parametrize("option", [None, "--repair"])
def test_only_in_work(run, make, option, found):
    """A file that a kill has left a name in work/work only is saved before a mount empties that."""
    path = make()
    line = "mkdir /data; echo kept >/data/one; echo linked >/data/two; ln /data/two /data/three"
    assert run("run-overlay", "-o", "a.ext3", "--", "sh", "-c", line).status == 0
    # As a rename that was cut short leaves them: the second has a name elsewhere, too.
    lines = ["ln /upper/data/one /work/work/7", "unlink /upper/data/one", "ssv state 0"]
    lines += ["ln /upper/data/two /work/work/8", "unlink /upper/data/two", "ssv state 0"]
    debugfs(path, *lines)
    if not found:
        debugfs(path, "rmdir /lost+found")
    if option:
        assert run("check-overlay", option, "a.ext3").status == 0
    result = run("run-overlay", "-o", "a.ext3", "--", "ls", "/data")
    assert (result.status, result.stdout) == (0, "three\n"), result
    name = re.search(r"work-\d+", tool("debugfs", "-R", "ls /lost+found", path).stdout)[0]
    assert tool("debugfs", "-R", f"cat /lost+found/{name}", path).stdout == "kept\n"
    assert option or f"a.ext3: lost+found/{name}: 5 bytes, begins with kept\n" in result.stderr, (
        result
    )
    assert "8" not in tool("debugfs", "-R", "ls /work/work", path).stdout.split()
    assert state(path) == CLEAN
