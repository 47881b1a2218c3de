"""Filling a new overlay where something is short: the message names which, and what helps."""

import os
import re
import shutil
import tarfile

import pexpect
import pytest
from support import PATH, base_of, execute, tool

MIB = 1 << 20


@pytest.fixture
def sources(scratch):
    """Make sources of 80 MiB, and one of 2001 files that hold nothing, in the scratch directory."""
    (scratch / "tree").mkdir()
    with open(scratch / "tree" / "large", "wb") as file:
        file.write(os.urandom(MIB) * 80)
    with tarfile.open(scratch / "a.tar", "w") as archive:
        archive.add(scratch / "tree", ".")
    assert tool("mksquashfs", scratch / "tree", scratch / "a.sqsh", "-quiet").returncode == 0
    with tarfile.open(scratch / "many.tar", "w") as archive:
        for number in range(2001):
            archive.addfile(tarfile.TarInfo(str(number)))


@pytest.mark.parametrize(
    ("source", "short"),
    [
        ("a.tar:/data", "unpack a.tar in {}: its files have more than the 64 MiB that are free"),
        ("a.sqsh:/data", "unpack a.sqsh in {}: its files have more than the 64 MiB that are free"),
        ("tree:/", "copy tree in {}: No space left on device"),
    ],
)
@pytest.mark.usefixtures("sources")
def test_scratch_is_short(run, scratch, small, source, short):
    """A source that scratch has no room for: not the overlay's size is to be changed."""
    variables = {"SLURM_TMPDIR": str(small)}
    result = run("create-overlay", "--from", source, "-o", "a", variables=variables)
    assert result.status == 73, result
    assert f"error: there is no room to {short.format(repr(str(small)))}\n" in result.stderr
    hint = "set OVERLAY_SCRATCH_LOCAL to a directory of yours with room\n"
    assert result.stderr.endswith(f"hint: {hint}")
    assert os.listdir(small) == []
    # What the hint says, in a job, where another directory comes first.
    variables["OVERLAY_SCRATCH_LOCAL"] = str(scratch)
    result = run("create-overlay", "-q", "--from", source, "-o", "a", variables=variables)
    assert result.status == 0, result
    assert os.listdir(small) == []


@pytest.mark.parametrize(
    ("source", "size", "files", "short", "hint"),
    [
        (
            "a.tar:/data",
            30,
            10,
            "its files have more than the 30 MiB of the overlay",
            "size with -s",
        ),
        ("a.sqsh:/data", 30, 10, "its files have more than the 30 MiB of the overlay", "-s"),
        ("many.tar:/data", 30, 2, "it has more than 2,000 files", "number with -n"),
    ],
)
@pytest.mark.usefixtures("sources")
def test_overlay_is_short(run, source, size, files, short, hint):
    """A source that the overlay has no room for: its size, or number of files, is named."""
    result = run("create-overlay", "--from", source, "-s", size, "-n", files, "-o", "a")
    assert result.status == 73, result
    assert short in result.stderr
    assert result.stderr.endswith(f"{hint}\n")


def test_crowded(run, scratch):
    """A directory of very many files is told before it is written, with what is quicker."""
    (scratch / "tree" / "all").mkdir(parents=True)
    for number in range(20_001):
        (scratch / "tree" / "all" / str(number)).touch()
    said = tool("mke2fs", "-V").stderr.split()[1]
    is_slow = [int(part) for part in said.split(".")] < [1, 47, 3]
    words = ("create-overlay", "--dry-run", "-o", "a", "--from")
    result = run(*words, "tree:/data")
    assert result.status == 0, result
    assert ("all' has 20,001 files in one directory" in result.stderr) == is_slow
    assert ("only to be read, a packed one: -o NAME.sqsh\n" in result.stderr) == is_slow
    (scratch / "tree" / "all" / "0").unlink()
    assert run(*words, "tree:/data").stderr == ""


def test_commands_fill_scratch(run, scratch, small):
    """Commands that fail because scratch is full: that is said."""
    base = base_of(scratch / "base", "/bin/bash", "/bin/sh", "/bin/cat")
    (scratch / "build.txt").write_text("cat /dev/zero >/opt/large")
    words = ("create-overlay", "-f", "build.txt", "-c", base, "-o", "a")
    result = run(*words, variables={"TMPDIR": str(small)})
    assert result.status == 73, result
    assert f"ended with status 1, and '{small}' is full; no overlay was made\n" in result.stderr
    assert result.stderr.endswith("set OVERLAY_SCRATCH_LOCAL to a directory of yours with room\n")
    assert os.listdir(small) == []


def test_base_does_not_fit(run, small):
    """A base image that scratch has no room for is named, with scratch."""
    (small / "build.txt").write_text("true")
    words = ("create-overlay", "-f", "build.txt", "-o", "a")
    result = run(*words, cwd=small, variables={"TMPDIR": str(small)})
    assert result.status == 73, result
    assert f"base.sif in '{small}': No space left on device\n" in result.stderr


def test_noexec(words, environ, scratch):
    """With -f the first directory is taken where programs may be started; else it is said."""
    (scratch / "noexec").mkdir()
    (scratch / "local").mkdir()
    (scratch / "build.txt").write_text("echo built >/opt/built")
    script = 'mount -t tmpfs -o noexec,mode=1777 none noexec\nexec "$@"'
    namespace = ["unshare", "--user", "--map-current-user", "--mount", "--keep-caps"]
    plain = ["setpriv", "--ambient-caps=-all", "--inh-caps=-all"]
    through = [*namespace, "sh", "-e", "-c", script, "sh", *plain]
    create = [*through, *words("create-overlay"), "-q", "-f", "build.txt", "-o", "a"]
    environ["OVERLAY_SCRATCH_LOCAL"] = f"'{scratch}/noexec' '{scratch}/local'"
    result = execute(create, environ=environ, cwd=scratch)
    assert result.status == 0, result
    assert len(list(scratch.glob("local/overlay-*/base/*/bin"))) == 1
    result = execute(
        [*words("run-overlay"), "-o", "a.ext3:ro", "--", "cat", "/opt/built"],
        environ=environ,
        cwd=scratch,
    )
    assert result == (0, "built\n", "")
    everywhere = "mount --rbind /tmp /tmp\nmount -o remount,bind,noexec /tmp\n"
    create[create.index(script)] = script.replace("\nexec", f"\n{everywhere}exec")
    environ["OVERLAY_SCRATCH_LOCAL"] = f"'{scratch}/noexec'"
    result = execute([*create[:-1], "b"], environ=environ, cwd=scratch)
    assert result.status == 73, result
    assert f"no base image can be unpacked in '{scratch}/noexec': " in result.stderr
    assert "(it is mounted noexec)" in result.stderr


@pytest.mark.parametrize(
    "command", ["create-overlay --from tree:/d -o a", "resize-overlay a.ext3 -n +1"]
)
def test_progress(ok, words, environ, scratch, tmp_path, command):
    """A terminal shows how much of it mke2fs has written."""
    (tmp_path / "bin").mkdir()
    slow = (
        tmp_path / "bin" / "mke2fs"
    )  # whatever the machine's speed: it takes a second before, and after
    real = shutil.which("mke2fs", path=f"{PATH}:/usr/sbin:/sbin")
    slow.write_text(f'#!/bin/sh\nsleep 1.1; {real} "$@"; status=$?; sleep 1.1; exit $status\n')
    slow.chmod(0o755)
    (scratch / "tree").mkdir()
    (scratch / "tree" / "file").write_bytes(os.urandom(3 * MIB))
    if command.startswith("resize"):
        ok("create-overlay", "-q", "--from", "tree:/d", "-o", "a")
    program, *arguments = command.split()
    child = pexpect.spawn(
        *(words(program)[0], arguments),
        env={**environ, "PATH": f"{tmp_path}/bin:{environ['PATH']}", "TERM": "dumb"},
        cwd=scratch,
        timeout=300,
    )
    child.expect(r"writing [\d,]+ files, .*\r\n")
    child.expect(pexpect.EOF)
    child.wait()
    said = child.before.decode()
    assert child.exitstatus == 0, said
    shown = [int(number) for number in re.findall(r"\r(\d+) % written\x1b\[K", said)]
    assert (shown[0], shown == sorted(shown), shown[-1] > 50) == (0, True, True), said
    assert re.search(r"\r\x1b\[K(created|'?a.ext3)", said), said
