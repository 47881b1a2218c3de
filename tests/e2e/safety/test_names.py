"""Names and permissions of what is written, in a directory where others may write as well.

What another user could do at the worst moment is done here by a tool that the command starts
(a script of its name that stands before it in PATH), or by a process that exchanges names all
the time.
"""

import os
import shutil
import stat
import subprocess
import sys

import pytest
from e2e.safety.trees import CLEAN, debugfs, state
from support import PATH, tool

HOST = os.uname().nodename
SECRET = "what is in a private key\n"


@pytest.fixture
def before(tmp_path):
    """Return a function that has lines of sh(1) done before a tool; it gives a PATH with that."""

    def before(program, lines):
        place = tmp_path / "tools"
        place.mkdir(exist_ok=True)
        real = shutil.which(program, path=PATH + ":/usr/sbin:/sbin")
        script = place / program
        script.write_text(f'#!/bin/sh\n(\n{lines}\n) </dev/null\nexec {real} "$@"\n')
        script.chmod(0o755)
        return {"PATH": f"{place}:{PATH}"}

    return before


@pytest.fixture
def modes(before, tmp_path):
    """Return a function that notes the modes of unfinished files when a tool starts.

    It returns the variables for that, and a function that returns what was noted.
    """

    def modes(program, pattern=".overlay-partial.*"):
        seen = tmp_path / "seen"
        variables = before(program, f"stat -c %a {pattern} >>'{seen}' 2>/dev/null")
        return variables, lambda: set(seen.read_text().split())

    return modes


@pytest.fixture
def secret(tmp_path):
    """Return the path of a private file that lies elsewhere."""
    path = tmp_path / "key"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


def mode(path):
    """Return the permissions of a file."""
    return stat.S_IMODE(os.lstat(path).st_mode)


# ------------------------------------------------------------------------ permissions --


@pytest.mark.parametrize(
    ("permissions", "options", "expected"),
    [
        ([0o644], [], 0o644),
        ([0o600], [], 0o600),
        ([0o640], [], 0o640),
        ([0o604], [], 0o604),
        ([0o644, 0o600], [], 0o600),
        ([0o640, 0o644], [], 0o640),
        ([0o600], ["--open"], 0o644),
    ],
    ids=str,
)
def test_pack(ok, make, modes, scratch, permissions, options, expected):
    """A pack is readable by those who may read all that is in it; --open is asked for all."""
    names = [f"{number}.ext3" for number in range(len(permissions))]
    for name, one in zip(names, permissions):
        make(name).chmod(one)
    variables, seen = modes("mksquashfs")
    line = ["pack-overlay", *names, "-o", "packed.sqsh", *options]
    ok(*line, variables=variables)
    assert seen() == {"600"}
    assert mode(scratch / "packed.sqsh") == expected
    (scratch / "packed.sqsh").chmod(0o644)
    ok(*line, "--force")
    assert mode(scratch / "packed.sqsh") == expected


def entries(*rows):
    """Return a list of access as the kernel keeps it: acl(5), posix_acl_xattr.h."""
    words = [tag.to_bytes(2, "little") + bits.to_bytes(2, "little") for tag, bits, _id in rows]
    numbers = [(number & 0xFFFFFFFF).to_bytes(4, "little") for _tag, _bits, number in rows]
    return b"\2\0\0\0" + b"".join(word + number for word, number in zip(words, numbers))


def named_group(group, mask, number, other=0):
    """Return a list of access with the permissions of the group, and of another one."""
    rows = [
        (0x01, 6, -1),
        (0x04, group, -1),
        (0x08, 6, number),
        (0x10, mask, -1),
        (0x20, other, -1),
    ]
    return entries(*rows)


def test_lists_of_access(ok, make, scratch):
    """Lists of access count: a mask is no permission of the group, and a directory's list stays."""
    shared = named_group(6, 6, 54321)
    path = make()
    os.setxattr(path, "system.posix_acl_access", shared)
    path.chmod(0o660)
    ok("pack-overlay", "a.ext3", "-o", "elsewhere.sqsh")
    assert mode(scratch / "elsewhere.sqsh") == 0o640  # of the 644 that the umask gives
    os.setxattr(path, "system.posix_acl_access", named_group(0, 6, 54321))
    ok("pack-overlay", "a.ext3", "-o", "denied.sqsh")
    assert mode(scratch / "denied.sqsh") == 0o600
    os.setxattr(path, "system.posix_acl_access", shared)
    # What replaces a file keeps its list, whatever its directory would give.
    ok("resize-overlay", "-q", "a.ext3", "-n", "5")
    assert os.getxattr(path, "system.posix_acl_access") == shared
    assert mode(path) == 0o660
    group = next(number for number in os.getgroups() if number != os.getegid())
    os.chown(path, -1, group)
    for line in (["-n", "6", "a.ext3", "--", "true"], ["--undo", "a.ext3"]):
        ok("update-overlay", "-q", *line)
        assert os.getxattr(path, "system.posix_acl_access") == shared
        assert (mode(path), path.stat().st_gid) == (0o660, group)
    project = scratch / "project"
    project.mkdir()
    os.setxattr(project, "system.posix_acl_default", shared)
    ok("create-overlay", "-q", "--sparse", "-s", 16, "-n", 1, "-o", "project/a")
    assert mode(project / "a.ext3") == 0o660
    ok("pack-overlay", "project/a.ext3")
    assert mode(project / "a.sqsh") == 0o660
    make("b.ext3").chmod(0o640)  # whose group is not the other one
    ok("pack-overlay", "b.ext3", "-o", "project/b")
    assert mode(project / "b.sqsh") == 0o600


@pytest.mark.parametrize(
    ("line", "program"),
    [
        (["check-overlay", "--repair", "a.ext3"], "e2fsck"),
        (["resize-overlay", "-q", "a.ext3", "-s", "40"], "resize2fs"),
        (["resize-overlay", "-q", "a.ext3", "-n", "8"], "mke2fs"),
        (["create-overlay", "-q", "-s", "16", "-n", "1", "-o", "a", "--force"], "mke2fs"),
        (["create-overlay", "-q", "-s", "16", "-n", "1", "-o", "b", "--from", "x.tar"], "mke2fs"),
    ],
    ids=str,
)
def test_unfinished(ok, make, modes, scratch, line, program):
    """What is not finished is nobody else's: a descriptor outlives every change of the mode."""
    (scratch / "x").write_text(SECRET)
    subprocess.run(["tar", "-cf", "x.tar", "x"], cwd=scratch, check=True)
    path = make()
    path.chmod(0o600)
    if line[0] == "check-overlay":
        debugfs(path, "ssv free_blocks_count 77", "ssv state 0")
    variables, seen = modes(program)
    ok(*line, variables={**variables, "OVERLAY_CREATE_PERMISSIONS": "0600"})
    assert seen() == {"600"}
    assert {mode(path) for path in scratch.glob("*.ext3")} == {0o600}


def test_a_pack_as_a_source(ok, make, scratch):
    """An overlay that is made of a private squashfs file is private."""
    make().chmod(0o600)
    ok("pack-overlay", "a.ext3")
    ok("create-overlay", "-q", "--from", "a.sqsh", "-o", "b")
    assert mode(scratch / "b.ext3") == 0o600


@pytest.mark.parametrize(("below", "expected"), [(0o600, 0o600), (0o644, 0o644)], ids=oct)
@pytest.mark.parametrize("apart", [False, True], ids=["linked", "copied"])
def test_kept_layer(ok, make, scratch, small, below, expected, apart):
    """What a task has written over a private overlay is private where it is kept."""
    make().chmod(below)
    keep = small if apart else scratch / "kept"
    keep.mkdir(exist_ok=True)
    variables = {"TMPDIR": str(scratch), "OVERLAY_SCRATCH_LOCAL": str(scratch)}
    words = ["-o", "a.ext3", "--per-task", "-s", 16, "-n", 1, "--keep", keep, "--", "true"]
    ok("run-overlay", *words, variables=variables)
    assert [mode(path) for path in keep.iterdir()] == [expected]


@pytest.mark.parametrize("reserved", [True, False], ids=["ours", "of another maker"])
@pytest.mark.parametrize("permissions", [0o600, 0o640], ids=oct)
def test_undo_file(ok, scratch, modes, reserved, permissions):
    """The way back holds content: who may not read the overlay may not read it."""
    if reserved:
        ok("create-overlay", "-q", "--sparse", "-s", 64, "-n", 4, "-o", "a")
    else:
        without_reserve(ok, scratch / "a.ext3")
    (scratch / "a.ext3").chmod(permissions)
    variables, seen = modes("e2fsck", ".overlay-undo.*")
    ok("resize-overlay", "-q", "a.ext3", "-s", 400, variables=variables)
    assert seen() == {f"{permissions:o}"}
    assert state(scratch / "a.ext3") == CLEAN
    assert mode(scratch / "a.ext3") == permissions
    assert os.listdir(scratch) == ["a.ext3"]


def without_reserve(ok, path):
    """Make an overlay that has no descriptors reserved for its growth."""
    ok("create-overlay", "-q", "--sparse", "-s", 64, "-n", 4, "-o", path)
    for words in (["tune2fs", "-O", "^resize_inode"], ["e2fsck", "-fy"]):
        assert tool(*words, path).returncode in (0, 1)


# ------------------------------------------------------------------ names of new files --


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
@pytest.mark.parametrize(
    "line",
    [
        ["create-overlay", "-q", "--sparse", "-s", "16", "-n", "1", "-o", "planted.ext3"],
        ["create-overlay", "-q", "--from", "x.tar", "-o", "planted.ext3"],
        ["pack-overlay", "a.ext3", "-o", "planted.sqsh"],
    ],
    ids=lambda line: line[0],
)
def test_dangling_link(run, make, scratch, tmp_path, line, force):
    """A link that leads nowhere does not say where a new file goes."""
    make()
    (scratch / "x").write_text("x")
    subprocess.run(["tar", "-cf", "x.tar", "x"], cwd=scratch, check=True)
    name = line[-1]
    target = tmp_path / "elsewhere"
    (scratch / name).symlink_to(target)
    before = sorted(os.listdir(scratch))
    result = run(*line, *force)
    assert result.status == 73, result
    assert f"{name} exists already: it is a link to {target}" in result.stderr
    assert not os.path.lexists(target)
    assert sorted(os.listdir(scratch)) == before


def test_dangling_link_in_the_place_of_a_layer(ok, make, scratch, tmp_path):
    """A layer is kept beside a link of its name."""
    make()
    (scratch / "kept").mkdir()
    variables = {
        "SLURM_JOB_ID": "7",
        "OVERLAY_SCRATCH_LOCAL": str(scratch),
        "TMPDIR": str(scratch),
    }
    (scratch / "kept" / "job7.ext3").symlink_to(tmp_path / "elsewhere")
    words = ["-o", "a.ext3", "--per-task", "-s", 16, "-n", 1, "--keep", "kept", "--", "true"]
    ok("run-overlay", *words, variables=variables)
    assert not os.path.lexists(tmp_path / "elsewhere")
    assert sorted(os.listdir(scratch / "kept")) == ["job7-2.ext3", "job7.ext3"]


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
@pytest.mark.parametrize(
    "line",
    [
        ["create-overlay", "-q", "--sparse", "-s", "16", "-n", "1", "-o", "b"],
        ["pack-overlay", "a.ext3"],
        ["resize-overlay", "-q", "a.ext3", "-n", "8"],
        ["resize-overlay", "-q", "a.ext3", "-s", "40"],
        ["check-overlay", "--repair", "a.ext3"],
        ["overlay-admin", "doctor", "--json", "."],
    ],
    ids=lambda line: " ".join(line[:1]),
)
def test_planted_names(words, environ, make, scratch, secret, kind, line):
    """Names that could be guessed, made by somebody before, are in nobody's way."""
    make()
    plant = {
        "directory": "mkdir",
        "link": f"ln -s '{secret}'",
        "fifo": "mkfifo",
    }[kind]
    script = f'for one in partial doctor; do {plant} ".overlay-$one.{HOST}.$$"; done; exec "$@"'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *words(line[0]), *line[1:]],
        cwd=scratch,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if line[0] == "overlay-admin":
        assert '"state": "problem", "found": "File exists"' not in done.stdout
        assert "File exists" not in done.stdout, done.stdout
    else:
        assert done.returncode == 0, done
    assert secret.read_text() == SECRET
    left = [name for name in os.listdir(scratch) if name.startswith(".overlay-")]
    assert len(left) == 2


# ----------------------------------------------------------- names that are exchanged --

SWAP = 'for one in {pattern}; do mv "$one" taken; {make} "$one"; done'


def test_pack_writes_what_it_has_made(run, make, before, scratch, secret):
    """Where the unfinished file was exchanged for a link, the link is not followed."""
    make()
    variables = before(
        "mksquashfs", SWAP.format(pattern=".overlay-partial.*", make=f"ln -s '{secret}'")
    )
    result = run("pack-overlay", "a.ext3", variables=variables)
    assert secret.read_text() == SECRET
    assert result.status == 0, result
    assert not (scratch / "a.sqsh").is_symlink()
    assert (scratch / "a.sqsh").read_bytes()[:4] == b"hsqs"


@pytest.mark.parametrize(
    ("line", "program"),
    [
        (["resize-overlay", "-q", "a.ext3", "-n", "8"], "mke2fs"),
        (["resize-overlay", "-q", "a.ext3", "-s", "40"], "resize2fs"),
        (["create-overlay", "-q", "-s", "16", "-n", "1", "-o", "a", "--force"], "mke2fs"),
        (["pack-overlay", "a.ext3", "--force", "-o", "b.sqsh"], "mksquashfs"),
    ],
    ids=lambda word: " ".join(word) if isinstance(word, list) else word,
)
@pytest.mark.parametrize("kind", ["link", "file", "nothing"])
def test_nothing_else_takes_its_place(ok, run, make, before, scratch, secret, line, program, kind):
    """What was put in the place of the unfinished file does not replace an overlay."""
    make()
    ok("pack-overlay", "a.ext3", "-o", "b.sqsh")
    names = ["a.ext3", "b.sqsh"]
    found = [os.lstat(scratch / name).st_ino for name in names]
    put = {"link": f"ln -s '{secret}'", "file": "cp /dev/null", "nothing": ":"}[kind]
    variables = before(program, SWAP.format(pattern=".overlay-partial.*", make=put))
    result = run(*line, variables=variables)
    assert result.status == 73, result
    assert "somebody has changed names in" in result.stderr
    assert secret.read_text() == SECRET
    assert [os.lstat(scratch / name).st_ino for name in names] == found
    assert state(scratch / "a.ext3") == CLEAN


def test_an_overlay_that_was_exchanged(run, make, before, scratch):
    """Another file that has got the overlay's name meanwhile is not replaced."""
    make()
    other = make("other.ext3").read_bytes()
    variables = before("resize2fs", "mv a.ext3 taken; mv other.ext3 a.ext3")
    result = run("resize-overlay", "-q", "a.ext3", "-s", "40", variables=variables)
    assert result.status == 73, result
    assert (scratch / "a.ext3").read_bytes() == other
    assert state(scratch / "taken") == CLEAN


EXCHANGE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
decoy, count, start = b"decoy", 0, sys.argv[1].encode()
print("ready", flush=True)
while count < int(sys.argv[2]):
    for name in os.listdir(b"."):
        if name.startswith(start):
            count += 1
            libc.renameat2(-100, decoy, -100, name, 2)
"""


@pytest.mark.parametrize(
    "line",
    [
        ["resize-overlay", "-q", "a.ext3", "-n", "8"],
        ["resize-overlay", "-q", "a.ext3", "-s", "40"],
        ["check-overlay", "--repair", "a.ext3"],
    ],
    ids=lambda line: " ".join(line),
)
@pytest.mark.parametrize("names", [".overlay-partial.", "a.ext3"])
def test_exchanged_all_the_time(run, ok, make, scratch, count, rounds, line, names):
    """While names are exchanged without end, no command ends well and leaves something else."""
    ended = []
    for _number in range(rounds(6, 60)):
        for path in scratch.iterdir():
            path.unlink()
        path = make()
        ok("run-overlay", "-o", "a.ext3", "--", "sh", "-c", "mkdir /data; echo x >/data/f")
        if line[0] == "check-overlay":
            debugfs(path, "ssv free_blocks_count 77", "ssv state 0")
        (scratch / "decoy").write_bytes(b"what somebody else would have there")
        with subprocess.Popen(
            [sys.executable, "-c", EXCHANGE, names, "20000"], cwd=scratch, stdout=subprocess.PIPE
        ) as other:
            other.stdout.readline()
            result = run(*line)
            other.kill()
        ended.append(result.status)
        assert result.status in (0, 65, 66, 73), result
        assert "Traceback" not in result.stderr
        # The overlay is there, old or new, under one of the names that were exchanged.
        name = next(path for path in (path, scratch / "decoy") if path.stat().st_size > 1000)
        assert result.status or names == "a.ext3" or name == path
        assert line[0] == "check-overlay" and result.status or state(name) == CLEAN
        os.link(name, scratch / "whole.ext3")
        assert ok("run-overlay", "-o", "whole.ext3:ro", "--", "cat", "/data/f") == "x\n"
    count(f"exchanged all the time, {' '.join(line[:1])}: statuses {sorted(ended)}")


@pytest.mark.parametrize("there", [True, False], ids=["extended", "created"])
def test_doctor(run, before, scratch, tmp_path, secret, there):
    """The file that the doctor tries is that which it has made."""
    target = secret if there else tmp_path / "elsewhere"
    variables = before(
        "fallocate", SWAP.format(pattern=".overlay-doctor.*", make=f"ln -s '{target}'")
    )
    run("overlay-admin", "doctor", "--json", scratch, variables=variables)
    if there:
        assert secret.read_text() == SECRET
    else:
        assert not os.path.lexists(target)
    assert (scratch / "taken").exists()


def test_taken_scratch(ok, make, scratch, colleague):
    """Somebody who was first to make the user's directory on scratch is in nobody's way."""
    taken = colleague / "scratch"
    before = os.listdir(taken)
    assert before == [f"overlay-{os.getuid()}"]
    variables = {"OVERLAY_SCRATCH_LOCAL": str(taken), "TMPDIR": str(taken)}
    make()
    (scratch / "x").write_text("x")
    subprocess.run(["tar", "-cf", "x.tar", "x"], cwd=scratch, check=True)
    for line in (
        ["create-overlay", "-q", "--from", "x.tar", "-o", "b"],
        ["resize-overlay", "-q", "a.ext3", "-n", "8"],
        ["pack-overlay", "a.ext3"],
        ["run-overlay", "-o", "a.ext3", "--per-task", "-s", 16, "-n", 1, "--", "true"],
    ):
        ok(*line, variables=variables)
    assert os.listdir(taken) == before
